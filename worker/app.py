"""The scoring worker as a whole: builds the Faust app and runs it until told to stop.

Nothing is global: :func:`create_app` makes everything from settings and a bundle, so
two apps can live in one process.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import faust
from confluent_kafka.admin import ClusterMetadata  # type: ignore[attr-defined]

from worker.agents.scoring import add_scoring_agent
from worker.api.status import Status, StatusServer
from worker.assets import asset_dir
from worker.core.changelog import StateReader
from worker.core.errors import ConfigError, TopicError
from worker.core.pipeline import Pipeline
from worker.core.state import PartitionState, StateLimits
from worker.kafka_config import connect
from worker.metrics import Metrics
from worker.models.bundle import Bundle, load_bundle
from worker.settings import Settings
from worker.transport.driver import Transport
from worker.transport.processor import Destinations
from worker.transport.rebuild import Clients, OnProgress, Rebuild, Rebuilt
from worker.transport.tables import StateTable, TableManager
from worker.transport.watchdog import Watchdog

log = logging.getLogger(__name__)

CONNECT_DEADLINE_S = 30.0
COLLECT_GARBAGE_EVERY_S = 10.0
LOOK_FOR_ORPHANS_EVERY_S = 5.0
BUFFERED_CHUNKS = 4
US_PER_HOUR = 3_600_000_000


class WorkerApp(faust.App):  # type: ignore[misc]
    """A Faust app that says when it has ended by itself.

    Attributes:
        ended: set when the app crashed; ``crash_reason`` says why.
    """

    logger = logging.getLogger(f"faust.{__name__}")
    ended: asyncio.Event
    status_server: StatusServer
    metrics: Metrics
    watchdog: Watchdog
    crashing: asyncio.Future[None]  # held, for the loop itself keeps no task alive

    def _crash(self, reason: BaseException) -> None:
        super()._crash(reason)
        self.ended.set()


def create_app(settings: Settings, bundle: Bundle, metadata: ClusterMetadata) -> WorkerApp:
    """Build the scoring worker; it connects when it is started.

    Args:
        metadata: all topics of the cluster, just fetched.

    Raises:
        TopicError: a topic is missing, or the changelog does not fit the input topic.
    """
    destinations = _destinations(settings, metadata)
    metrics = Metrics()
    metrics.set_model(bundle.model_version, bundle.framework)
    pipeline = create_pipeline(settings, bundle)
    limits = state_limits(settings, bundle)

    app = WorkerApp(
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

    app.transport = Transport(app, settings, pipeline.step, destinations, metrics)
    processor = app.transport.processor
    app.tables.add(
        StateTable(
            app,
            name="machine-state",
            changelog_topic=app.topic(settings.changelog_topic, internal=True),
            processor=processor,
            new_reader=lambda partition: StateReader(
                bundle.spec, limits, f"{settings.changelog_topic} partition {partition}"
            ),
        )
    )
    add_scoring_agent(app, app.topic(settings.topics.sensor_events), processor)
    # Faust makes the consumer when the app starts, so these must find it at each call.
    metrics.watch_lag(lambda: app.consumer.lag())  # noqa: PLW0108
    metrics.watch_machines(
        lambda: {partition: len(owned.state) for partition, owned in processor.owned.copy().items()}
    )
    metrics.watch_standbys(app.tables.standby_lag)
    ready = lambda: app.consumer.ready()  # noqa: E731, PLW0108
    app.watchdog = Watchdog(
        settings.worker.stall_timeout_s, app.transport.observations, processor.journal
    )
    stalled = lambda: app.watchdog.reason  # noqa: E731
    status = Status(ready, stalled, bundle.model_version, time.monotonic())
    app.status_server = StatusServer(settings.http, status, metrics)

    @app.timer(COLLECT_GARBAGE_EVERY_S)  # type: ignore[untyped-decorator]
    async def collect_garbage() -> None:
        gc.collect()

    @app.timer(LOOK_FOR_ORPHANS_EVERY_S)  # type: ignore[untyped-decorator]
    async def look_for_orphans() -> None:
        await app.loop.run_in_executor(None, app.transport.look_for_orphans)

    return app


def create_pipeline(settings: Settings, bundle: Bundle) -> Pipeline:
    """The pipeline of a worker with these settings."""
    return bundle.pipeline(
        budget=settings.detection.budget,
        threshold=settings.detection.threshold,
        rules=settings.episodes.rules(),
        planned=settings.maintenance.planned(),
    )


def state_limits(settings: Settings, bundle: Bundle) -> StateLimits:
    """What bounds the state of a partition.

    Raises:
        ConfigError: machines would be forgotten while their window still holds readings.
    """
    limits = StateLimits(
        retention_us=settings.worker.machine_retention_h * US_PER_HOUR,
        max_machines=settings.worker.max_machines,
    )
    spec = bundle.spec
    needed_us = spec.length_us + spec.grace_us + spec.pane_us
    if limits.retention_us < needed_us:
        raise ConfigError(
            f"worker.machine_retention_h: {settings.worker.machine_retention_h} h are shorter than "
            f"what the window of {bundle.model_version} spans; write at least "
            f"{-(-needed_us // US_PER_HOUR)}."
        )
    return limits


async def run(app: WorkerApp, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
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


def run_worker(settings: Settings) -> None:
    """Run the scoring worker in this process until SIGTERM or SIGINT.

    Raises:
        DriftDetectorError: it could not start, or had to end; state and outputs are
            as of the last commit.
    """
    bundle = load_bundle(
        settings.worker.bundle, asset_dir("models"), threads=settings.worker.inference_threads
    )
    state_limits(settings, bundle)  # refused before waiting for a broker
    _, metadata = connect(settings.kafka, CONNECT_DEADLINE_S)
    with garbage_collected_by_timer():
        asyncio.run(_run_until_signal(settings, bundle, metadata))


def rebuild_state(settings: Settings, on_progress: OnProgress) -> Iterator[Rebuilt]:
    """Replace the changelog by state computed from the input topic; see :class:`Rebuild`.

    Yields:
        Each partition when it is committed.

    Raises:
        DriftDetectorError: it was refused, or could not go on; running it again is safe.
    """
    bundle = load_bundle(settings.worker.bundle, asset_dir("models"), threads=1)
    admin, metadata = connect(settings.kafka, CONNECT_DEADLINE_S)
    destinations = _destinations(settings, metadata)
    limits = state_limits(settings, bundle)
    rebuild = Rebuild(
        Clients.create(settings, admin),
        group=settings.worker.app_id,
        source=destinations.source,
        changelog=destinations.changelog,
        pipeline=create_pipeline(settings, bundle),
        new_state=lambda next_offset: PartitionState(bundle.spec, next_offset, limits),
        on_progress=on_progress,
    )
    yield from rebuild.run(len(metadata.topics[destinations.source].partitions))


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


async def _run_until_signal(settings: Settings, bundle: Bundle, metadata: ClusterMetadata) -> None:
    app = create_app(settings, bundle, metadata)
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    app.watchdog.watch(asyncio.get_running_loop(), partial(_crash, app))
    await run(app, stop, lambda: log.info("ready: scoring with %s", bundle.model_version))
    log.info("stopped: everything read is committed")


def _crash(app: WorkerApp, error: BaseException) -> None:
    app.crashing = asyncio.ensure_future(app.crash(error))


def _destinations(settings: Settings, metadata: ClusterMetadata) -> Destinations:
    names = settings.topics
    streams = {
        "anomalies": names.anomalies,
        "anomaly-episodes": names.anomaly_episodes,
        "sensor-health": names.sensor_health,
        "late-events": names.late_events,
        "dead-letters": names.dead_letters,
    }
    wanted = [names.sensor_events, settings.changelog_topic, *streams.values()]
    missing = [name for name in wanted if name not in metadata.topics]
    if missing:
        raise TopicError(
            f"missing in the cluster at {settings.kafka.brokers}: topic {', '.join(missing)}; "
            "create them with `driftdetector topics apply`."
        )
    partitions = {name: len(metadata.topics[name].partitions) for name in wanted}
    if partitions[settings.changelog_topic] != partitions[names.sensor_events]:
        raise TopicError(
            f"topic {settings.changelog_topic} has {partitions[settings.changelog_topic]} "
            f"partitions, {names.sensor_events} has {partitions[names.sensor_events]}: state would "
            "not be found again; give the worker another worker.app_id, then run "
            "`driftdetector topics apply`."
        )
    return Destinations(
        source=names.sensor_events,
        changelog=settings.changelog_topic,
        streams={stream: (name, partitions[name]) for stream, name in streams.items()},
    )
