"""One run of the demo, from the broker to the report."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import tempfile
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from confluent_kafka.admin import ClusterMetadata  # type: ignore[attr-defined]
from rich.console import Console
from rich.live import Live

from worker.api.service import Service
from worker.app import create_app
from worker.assets import asset_dir
from worker.core.channels import US_PER_S, ChannelSpec, format_duration
from worker.core.errors import BrokerError, DriftDetectorError
from worker.demo.cluster import EmbeddedBroker, prepare_real
from worker.demo.counters import Counters
from worker.demo.gateway import Gateway
from worker.demo.report import Report, check_writable, summary
from worker.demo.results import Results
from worker.demo.screen import progress_line, render
from worker.demo.view import Observer, Title, View
from worker.gateway import KafkaSink, now_us, start_us
from worker.logs import configure_logging
from worker.models.bundle import Bundle, load_bundle
from worker.online.memory import MemoryStore
from worker.online.redis_store import RedisReader
from worker.service import ServiceApp, garbage_collected_by_timer, run
from worker.settings import Settings
from worker.simulator import Simulator, match_faults

CATCH_UP_S = 30.0
"""How long simulated time takes to catch up with the clock, unless a speed is given."""
HISTORY_US = 2 * 86_400 * US_PER_S
HISTORY_WINDOWS = 7
INTERVAL_US = 10 * US_PER_S
EVENTS_A_PANE = 6
LATE_RATE = 0.002
GARBAGE_RATE = 0.0005
LOOK_EVERY_S = 0.25
PROGRESS_EVERY_S = 5.0
STALLED_AFTER_S = 90.0
"""Longer than the worker itself waits for a broker, whose own sentence says more."""
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Options:
    """What the command line chooses; None: see the command's help.

    Attributes:
        real: use the broker of the settings instead of an embedded one.
        open_page: show the live page in the browser.
    """

    real: bool
    seed: int
    machines: int
    duration_s: float | None = None
    interval_us: int | None = None
    speed: float | None = None
    report: Path | None = None
    open_page: bool = False


class Stop:
    """The first SIGINT or SIGTERM asks for an orderly end; the second ends at once."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Listen to the signals meanwhile."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, self._ask) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            if os.isatty(1):
                os.write(1, b"\x1b[?1049l\x1b[?25h")  # ordinary screen, visible cursor
            os._exit(EXIT_INTERRUPTED)
        self.asked = True


def run_demo(settings: Settings, options: Options, console: Console) -> None:
    """Run a demo until its duration is over or a signal comes, then print its summary.

    Args:
        settings: broker, bundle and port; topics and consumer group are the run's own.

    Raises:
        DriftDetectorError: it could not run, or its figures do not agree.
    """
    if options.report is not None:
        check_writable(options.report)
    stop = Stop()
    with stop.on_signals():
        bundle = load_bundle(
            settings.worker.bundle, asset_dir("models"), threads=settings.worker.inference_threads
        )
        log_file = _open_log(settings)
        broker: EmbeddedBroker | None = None
        if options.real:
            name = f"demo-{options.seed}-{secrets.token_hex(3)}"
            own, metadata = prepare_real(settings, name)
        else:
            broker = EmbeddedBroker()
            own, metadata = broker.prepare(settings)
        introduction = f"{_introduction(own, options, bundle)}\nThe log is in {log_file}."
        _say(console, introduction)
        session = _Session(own, metadata, options, bundle, console, stop)
        with garbage_collected_by_timer():
            asyncio.run(session.run())
        session.conclude()
        del broker  # it has to live until its last client is gone


class _Session:
    """The worker on the main thread's event loop; gateway and results on threads of their own."""

    def __init__(
        self,
        settings: Settings,
        metadata: ClusterMetadata,
        options: Options,
        bundle: Bundle,
        console: Console,
        stop: Stop,
    ) -> None:
        self._settings = settings
        self._options = options
        self._bundle = bundle
        self._console = console
        self._stop = stop
        self._interval_us = options.interval_us or default_interval_us(bundle.spec)
        self._results = Results(settings, metadata)
        self._metadata = metadata
        self._sink = KafkaSink(settings)
        self._gateway: Gateway | None = None
        self._simulator: Simulator
        self._counters: Counters
        self._begun_s = self._ended_s = 0.0
        self._moved_s, self._moved_to = time.monotonic(), 0

    async def run(self) -> None:
        """Run everything to its end; raises what went wrong first."""
        # Worker and page are one process here, so they need no Redis between them.
        store = MemoryStore() if self._settings.online.url is None else None
        reader = store or RedisReader(self._settings)
        app = create_app(self._settings, self._bundle, self._metadata, store)
        service = Service(self._settings, self._bundle, reader)
        self._counters = Counters(app.metrics.registry)
        ready, finished = asyncio.Event(), asyncio.Event()
        reading = asyncio.ensure_future(asyncio.to_thread(self._results.run))
        worker = asyncio.ensure_future(run(app, finished, ready.set))
        try:
            with self._console.status("Starting the worker"):
                while not (ready.is_set() or worker.done() or self._stop.asked):
                    await asyncio.wait({worker}, timeout=0.05)
            if ready.is_set():
                await service.start()
                await self._work(app, service.url, {worker, reading})
            finished.set()
            await worker
            self._results.finish()
            await reading
        finally:
            finished.set()
            self._results.abandon()
            await service.stop()
            await asyncio.wait({worker, reading})

    async def _work(self, app: ServiceApp, page: str, others: set[asyncio.Future[None]]) -> None:
        """Publish, show, and wait until everything published is processed.

        Args:
            page: address of the live page.
            others: worker and results; when one of them ends, so does this.
        """
        gateway = self._gateway = self._make_gateway()
        observer = Observer(
            self._bundle.spec,
            self._simulator.machine_ids,
            self._interval_us,
            gateway,
            self._results,
            self._counters,
        )
        title = _title(self._settings, self._bundle, app, page, self._options)
        _say(self._console, f"The worker is ready: {title.url}/health and {title.url}/metrics.")
        _say(self._console, f"See it live: {page}")
        if self._options.open_page:
            # Some browsers' commands end only with the browser.
            threading.Thread(target=webbrowser.open, args=[page], daemon=True).start()
        self._begun_s = time.monotonic()
        publishing = asyncio.ensure_future(asyncio.to_thread(gateway.run))
        try:
            with self._screen(title) as show:
                while not any(other.done() for other in others):
                    await asyncio.wait({*others, publishing}, timeout=LOOK_EVERY_S)
                    if self._is_over():
                        gateway.stop()
                    show(lambda: observer.look(gateway.stopping))
                    if self._is_done(gateway, publishing):
                        break
        finally:
            gateway.stop()
            await asyncio.wait({publishing})
        self._ended_s = time.monotonic()
        await publishing

    def _make_gateway(self) -> Gateway:
        options, interval_us = self._options, self._interval_us
        speed, begin_us = _pace(options, self._bundle.spec)
        self._simulator = Simulator(
            self._bundle.spec,
            start_us=begin_us,
            machines=options.machines,
            interval_s=interval_us / US_PER_S,
            seed=options.seed,
            late_rate=LATE_RATE,
            garbage_rate=GARBAGE_RATE,
        )
        rate = options.machines * US_PER_S / interval_us
        return Gateway(self._simulator, self._sink, speed, rate, lambda: self._counters.processed)

    def _is_over(self) -> bool:
        duration_s, elapsed_s = self._options.duration_s, time.monotonic() - self._begun_s
        return self._stop.asked or (duration_s is not None and elapsed_s >= duration_s)

    def _is_done(self, gateway: Gateway, publishing: asyncio.Future[None]) -> bool:
        """Whether the gateway has ended and the worker is done with what it published."""
        now_s, processed = time.monotonic(), self._counters.processed
        if processed > self._moved_to or processed >= gateway.produced:
            self._moved_s, self._moved_to = now_s, processed
        elif now_s - self._moved_s > STALLED_AFTER_S:
            raise BrokerError(
                f"the worker has processed nothing for {STALLED_AFTER_S:g} s; look in the log."
            )
        if not publishing.done():
            return False
        return publishing.exception() is not None or processed >= gateway.produced

    @contextmanager
    def _screen(self, title: Title) -> Iterator[Callable[[Callable[[], View]], None]]:
        """Where views go: the whole terminal, or a line now and then."""
        console = self._console
        if console.is_terminal and not console.is_dumb_terminal:
            with Live(console=console, screen=True, auto_refresh=False) as live:
                yield lambda look: live.update(
                    render(title, look(), console.width, console.height), refresh=True
                )
            return
        told_s = self._begun_s

        def tell(look: Callable[[], View]) -> None:
            nonlocal told_s
            if time.monotonic() - told_s >= PROGRESS_EVERY_S:
                told_s = time.monotonic()
                line = progress_line(look(), told_s - self._begun_s)
                _say(console, line)

        yield tell

    def conclude(self) -> None:
        """Print the summary, write the report, check the figures.

        Raises:
            DriftDetectorError: the figures do not agree.
        """
        gateway = self._gateway
        if gateway is None:
            raise DriftDetectorError("the demo was stopped before it scored an event.")
        options, truth = self._options, gateway.truth
        results, counters = self._results, self._counters
        opened = results.opened()
        faults = match_faults(truth, opened)
        processed, duration_s = counters.processed, self._ended_s - self._begun_s
        report = Report(
            events_produced=gateway.produced,
            events_scored=counters.scored,
            events_late=results.late,
            events_dead=results.dead,
            anomalies=results.anomalies,
            episodes=len(opened),
            faults_injected=faults.injected,
            faults_detected=faults.detected,
            first_channel_right=faults.first_channel_right,
            chance_level=faults.chance_level,
            false_episodes_per_machine_day=round(faults.false_episodes_per_machine_day, 3),
            sensor_faults=faults.sensor_faults,
            sensor_alarms=faults.sensor_alarms,
            events_per_second=round(processed / duration_s, 1),
            duration_s=round(duration_s, 3),
            simulated_s=(truth.end_us - truth.start_us) / US_PER_S,
            machines=options.machines,
            seed=options.seed,
            model_version=self._bundle.model_version,
            broker=self._settings.kafka.brokers if options.real else "embedded",
            exactly_once=is_exactly_once(self._settings),
        )
        self._console.print(summary(report, faults))
        if options.report is not None:
            report.write(options.report)
        report.check(
            published={"anomalies": counters.anomalies, "anomaly-episodes": counters.told},
            found={"anomalies": results.anomalies, "anomaly-episodes": results.told},
        )


def is_exactly_once(settings: Settings) -> bool:
    """Whether the worker commits in transactions."""
    return settings.worker.processing_guarantee == "exactly_once"


def default_interval_us(spec: ChannelSpec) -> int:
    """Time between two events of a machine: six a pane, but not more often than every 10 s."""
    return max(INTERVAL_US, spec.pane_us // EVENTS_A_PANE)


def _pace(options: Options, spec: ChannelSpec) -> tuple[float, int]:
    """Simulated time per time, and where simulated time begins."""
    history_us = max(HISTORY_US, HISTORY_WINDOWS * spec.length_us)
    speed = options.speed or history_us / US_PER_S / CATCH_UP_S
    clock_us = now_us()
    duration_us = None if options.duration_s is None else round(options.duration_s * US_PER_S)
    begin_us = start_us(clock_us, speed, duration_us, history_us)
    return speed, max(begin_us, clock_us - history_us)


def _say(console: Console, text: str) -> None:
    # Lines stay whole in a log; a terminal wraps them between words.
    console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def _open_log(settings: Settings) -> Path:
    handle, name = tempfile.mkstemp(prefix="driftdetector-demo-", suffix=".log")
    os.close(handle)
    configure_logging(settings.log, Path(name))
    return Path(name)


def _guarantee(settings: Settings) -> str:
    return "exactly once" if is_exactly_once(settings) else "at least once"


def _broker_words(settings: Settings, options: Options) -> str:
    return f"Kafka {settings.kafka.brokers}" if options.real else "embedded broker"


def _title(
    settings: Settings, bundle: Bundle, app: ServiceApp, page: str, options: Options
) -> Title:
    return Title(
        model=bundle.model_version,
        broker=_broker_words(settings, options),
        guarantee=_guarantee(settings),
        url=app.status_server.url or "",
        page=page,
        channels=bundle.spec.continuous,
        has_types=bool(bundle.spec.categorical),
        window=format_duration(bundle.spec.length_us),
    )


def _introduction(settings: Settings, options: Options, bundle: Bundle) -> str:
    first = (
        f"{options.machines} simulated machines, seed {options.seed}, model "
        f"{bundle.model_version}, {_broker_words(settings, options)}, {_guarantee(settings)}."
    )
    if options.real:
        names = settings.topics.sensor_events.removesuffix("sensor-events")
        return f"{first}\nIts topics begin with {names} and stay in the cluster."
    return (
        f"{first}\nThe embedded broker cannot keep transactions; for exactly once, name a Kafka: "
        "--broker HOST:PORT."
    )
