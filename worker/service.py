"""A process around one agent: builds its Faust app and runs it until told to stop.

What the scoring worker and the drift agent have in common. Nothing is global:
:func:`create_service` makes everything from what it is given, so two can live in one process.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import faust
from confluent_kafka.admin import ClusterMetadata  # type: ignore[attr-defined]

from worker.agents.chunks import add_agent
from worker.api.status import Status, StatusServer
from worker.core.errors import TopicError
from worker.metrics import TransportMetrics
from worker.settings import Settings
from worker.tracing import create_tracing
from worker.transport.driver import Transport
from worker.transport.processor import Application, Destinations, Processor, Witness
from worker.transport.restore import StateReader
from worker.transport.tables import StateTable, TableManager
from worker.transport.watchdog import Watchdog

log = logging.getLogger(__name__)

CONNECT_DEADLINE_S = 30.0
COLLECT_GARBAGE_EVERY_S = 10.0
LOOK_FOR_ORPHANS_EVERY_S = 5.0
BUFFERED_CHUNKS = 4


@dataclass(frozen=True)
class Agent:
    """What a process does with its input, and what it keeps of it.

    Attributes:
        name: of the agent.
        table: name of its state.
        entries: what the state is of, such as machines.
        new_reader: for a partition of the input, what reads its state back.
        model_version: ``name/version`` of the bundle.
        witness: sees what becomes final.
    """

    name: str
    application: Application
    destinations: Destinations
    table: str
    entries: str
    new_reader: Callable[[int], StateReader]
    metrics: TransportMetrics
    model_version: str
    witness: Witness | None = None


class ServiceApp(faust.App):  # type: ignore[misc]
    """A Faust app that says when it has ended by itself.

    Attributes:
        ended: set when the app crashed; ``crash_reason`` says why.
    """

    logger = logging.getLogger(f"faust.{__name__}")
    ended: asyncio.Event
    status_server: StatusServer
    processor: Processor
    metrics: TransportMetrics
    watchdog: Watchdog
    crashing: asyncio.Future[None]  # held, for the loop itself keeps no task alive

    def _crash(self, reason: BaseException) -> None:
        super()._crash(reason)
        self.ended.set()


def create_service(settings: Settings, agent: Agent) -> ServiceApp:
    """Build a process; it connects when it is started."""
    destinations, metrics = agent.destinations, agent.metrics
    app = ServiceApp(
        settings.worker.app_id,
        broker=f"kafka://{settings.kafka.brokers.split(',')[0]}",
        store="memory://",
        TableManager=TableManager,
        agent_supervisor="mode.supervisors:CrashingSupervisor",
        autodiscover=False,
        broker_commit_interval=settings.worker.commit_interval_ms / 1000,
        key_serializer="raw",
        value_serializer="raw",
        stream_buffer_maxsize=BUFFERED_CHUNKS,
        stream_wait_empty=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        worker_redirect_stdouts=False,
    )
    app.ended = asyncio.Event()
    app.metrics = metrics
    tracing = create_tracing(settings, f"driftdetector-{agent.name}")
    app.transport = Transport(
        app, settings, agent.application, destinations, metrics, tracing, agent.witness
    )
    app.processor = app.transport.processor
    app.tables.add(
        StateTable(
            app,
            name=agent.table,
            changelog_topic=app.topic(destinations.changelog, internal=True),
            processor=app.processor,
            new_reader=agent.new_reader,
            entries=agent.entries,
        )
    )
    add_agent(app, app.topic(destinations.source), app.processor, agent.name)
    # Faust makes the consumer when the app starts, so these must find it at each call.
    metrics.watch_lag(lambda: app.consumer.lag())  # noqa: PLW0108
    metrics.watch_standbys(app.tables.standby_lag)
    ready = lambda: app.consumer.ready()  # noqa: E731, PLW0108
    app.watchdog = Watchdog(
        settings.worker.stall_timeout_s, app.transport.observations, app.processor.journal
    )
    stalled = lambda: app.watchdog.reason  # noqa: E731
    status = Status(ready, stalled, agent.model_version, time.monotonic())
    app.status_server = StatusServer(settings.http, status, metrics)

    @app.timer(COLLECT_GARBAGE_EVERY_S)  # type: ignore[untyped-decorator]
    async def collect_garbage() -> None:
        gc.collect()

    @app.timer(LOOK_FOR_ORPHANS_EVERY_S)  # type: ignore[untyped-decorator]
    async def look_for_orphans() -> None:
        await app.loop.run_in_executor(None, app.transport.look_for_orphans)

    return app


async def run(app: ServiceApp, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
    """Run the app until ``stop`` is set; then finish the chunk, commit and leave the group.

    Args:
        on_ready: called once the first partitions are restored.

    Raises:
        Exception: whatever ended the app before it was told to stop.
    """
    await app.status_server.start()
    starting = asyncio.ensure_future(app.start())
    waits = [asyncio.ensure_future(event.wait()) for event in (stop, app.ended)]
    try:
        await asyncio.wait([starting, *waits], return_when=asyncio.FIRST_COMPLETED)
        if starting.done() and not app.ended.is_set():
            starting.result()
            on_ready()
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        app.watchdog.stopping(app.crash_reason)
        await app.stop()
        starting.cancel()
        await app.status_server.stop()
    if app.crash_reason is not None:
        raise app.crash_reason


@contextmanager
def garbage_collected_by_timer() -> Iterator[None]:
    """Let only the app's timer collect garbage.

    Chunks are tens of thousands of short-lived objects without cycles; the collector
    would look at all of them, time and again.
    """
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def run_until_signal(create: Callable[[], ServiceApp], ready: str) -> None:
    """Run a process until SIGTERM or SIGINT.

    Args:
        create: makes its app, on the event loop that is to run it.
        ready: what to log once it works.

    Raises:
        DriftDetectorError: it could not start, or had to end; state and outputs are as of the
            last commit.
    """
    with garbage_collected_by_timer():
        asyncio.run(_run_until_signal(create, ready))


async def _run_until_signal(create: Callable[[], ServiceApp], ready: str) -> None:
    app = create()
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    app.watchdog.watch(asyncio.get_running_loop(), partial(_crash, app))
    await run(app, stop, lambda: log.info("ready: %s", ready))
    log.info("stopped: everything read is committed")


def _crash(app: ServiceApp, error: BaseException) -> None:
    app.crashing = asyncio.ensure_future(app.crash(error))


def find_destinations(
    brokers: str,
    metadata: ClusterMetadata,
    source: str,
    changelog: str,
    streams: Mapping[str, str],
) -> Destinations:
    """Where records come from and go to, as the cluster has it.

    Args:
        brokers: for messages.
        metadata: all topics of the cluster, just fetched.
        source, changelog: names of topics.
        streams: the topic of each stream that is published to.

    Raises:
        TopicError: a topic is missing, or the changelog does not fit the input topic.
    """
    wanted = [source, changelog, *streams.values()]
    missing = [name for name in wanted if name not in metadata.topics]
    if missing:
        raise TopicError(
            f"missing in the cluster at {brokers}: topic {', '.join(missing)}; "
            "create them with `driftdetector topics apply`."
        )
    partitions = {name: len(metadata.topics[name].partitions) for name in wanted}
    if partitions[changelog] != partitions[source]:
        raise TopicError(
            f"topic {changelog} has {partitions[changelog]} partitions, {source} has "
            f"{partitions[source]}: state would not be found again; give the worker another "
            "worker.app_id, then run `driftdetector topics apply`."
        )
    return Destinations(
        source=source,
        changelog=changelog,
        streams={stream: (name, partitions[name]) for stream, name in streams.items()},
    )
