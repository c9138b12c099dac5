"""``driftdetector simulate``: publish events of simulated machines, or write them to a file."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, BinaryIO, Protocol

import typer
from rich.console import Console

from worker.cli.channels import default_channels, read_spec
from worker.cli.context import context_of
from worker.core.channels import US_PER_S, parse_duration_us
from worker.core.errors import ConfigError

if TYPE_CHECKING:
    from worker.simulator import Simulator

FILE_START_US = 1_767_225_600 * US_PER_S
"""Files begin at 2026-01-01T00:00:00Z, so that the same command writes the same bytes."""
HISTORY_US = 86_400 * US_PER_S
REPORT_S = 5.0


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("simulate")(simulate)


def simulate(
    context: typer.Context,
    broker: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Kafka. Default: the setting kafka.brokers."),
    ] = None,
    topic: Annotated[
        str | None, typer.Option(help="Default: the setting topics.sensor_events.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write JSON lines at once instead of publishing."),
    ] = None,
    channels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Default: those of machine-health.")
    ] = None,
    machines: Annotated[int, typer.Option(min=1, max=1_000_000)] = 50,
    interval: Annotated[str, typer.Option(help="Between two events of a machine.")] = "10s",
    speed: Annotated[
        float, typer.Option(min=1.0, help="Simulated time per time, until it has caught up.")
    ] = 1.0,
    duration: Annotated[
        str | None, typer.Option(help="How long to run, such as 5m. Default: until Ctrl-C.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 7,
    truth: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the injected faults here (JSON).")
    ] = None,
    late_rate: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of events that come too late.")
    ] = 0.0,
    garbage_rate: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Unusable payloads per event.")
    ] = 0.0,
) -> None:
    """Publish events of simulated machines that have known faults.

    With --speed, simulated time begins in the past, catches up with the clock (by the end
    of --duration, otherwise from a day ago) and goes on with it.
    """
    from worker.gateway import KafkaSink, now_us, start_us
    from worker.simulator import Simulator

    duration_us = None if duration is None else parse_duration_us(duration, "--duration")
    if out is not None and duration_us is None:
        raise ConfigError("--duration: a file needs an end; write for example --duration 1h.")
    if out is not None and (broker is not None or topic is not None):
        raise ConfigError("--out: events go either to a file or to --broker; remove one of them.")
    simulator = Simulator(
        read_spec(channels or default_channels()),
        start_us=FILE_START_US if out else start_us(now_us(), speed, duration_us, HISTORY_US),
        machines=machines,
        interval_s=parse_duration_us(interval, "--interval") / US_PER_S,
        seed=seed,
        late_rate=late_rate,
        garbage_rate=garbage_rate,
    )
    run = _Run(simulator, truth)
    with _stop_signals(run):
        if out is not None and duration_us is not None:
            with _open(out) as file:
                run.write(_FileSink(file), simulator.start_us + round(speed * duration_us))
        else:
            chosen = {"kafka.brokers": broker, "topics.sensor_events": topic}
            overrides = {key: value for key, value in chosen.items() if value is not None}
            settings = context_of(context).settings(overrides)
            run.publish(KafkaSink(settings), speed, duration_us)
    typer.echo(run.summary())


class _Sink(Protocol):
    def send(self, events: list[tuple[bytes, bytes]]) -> None: ...

    def close(self) -> None: ...


class _FileSink:
    """One payload a line; keys are not written, they repeat the machine_id."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def send(self, events: list[tuple[bytes, bytes]]) -> None:
        self._file.writelines(value + b"\n" for _, value in events)

    def close(self) -> None:
        self._file.flush()


class _Run:
    """The loop around a simulator: pace, progress, truth file, summary."""

    def __init__(self, simulator: Simulator, truth: Path | None) -> None:
        self.stopped = False
        self._simulator = simulator
        self._truth = truth
        self._done_us = simulator.start_us
        self._events = 0
        self._begun_s = time.monotonic()
        self._console = Console(stderr=True)

    def write(self, sink: _Sink, end_us: int) -> None:
        """Send everything up to ``end_us`` without waiting."""
        with self._progress() as report:
            while self._done_us < end_us and not self.stopped:
                self._step(sink, min(self._done_us + 3600 * US_PER_S, end_us))
                report()
        self._finish(sink)

    def publish(self, sink: _Sink, speed: float, duration_us: int | None) -> None:
        """Send events when their time has come, for ``duration_us`` of time."""
        from worker.gateway import TICK_S, Pace

        pace = Pace(self._simulator.start_us, speed)
        with self._progress() as report:
            while not self.stopped:
                if duration_us is not None and pace.elapsed_s * 1e6 >= duration_us:
                    break
                end_us, caught_up = pace.step(self._done_us)
                self._step(sink, end_us)
                report()
                if caught_up:
                    time.sleep(TICK_S)
        self._finish(sink)

    def summary(self) -> str:
        """What was done, in one line."""
        faults = len(self._simulator.truth().faults)
        where = f", written to {self._truth}" if self._truth else ""
        return f"{self._so_far()}, {faults} faults{where}"

    def _so_far(self) -> str:
        seconds = time.monotonic() - self._begun_s
        hours = (self._done_us - self._simulator.start_us) / 3600e6
        return (
            f"{self._events:,} events of {len(self._simulator.machine_ids):,} machines in "
            f"{seconds:.1f} s ({self._events / max(seconds, 1e-9):,.0f} a second), "
            f"{hours:.2f} hours simulated"
        )

    def _step(self, sink: _Sink, until_us: int) -> None:
        events = self._simulator.advance(until_us)
        sink.send(events)
        self._events += len(events)
        self._done_us = until_us

    def _finish(self, sink: _Sink) -> None:
        sink.close()
        self._write_truth()

    def _write_truth(self) -> None:
        if self._truth is None:
            return
        try:
            self._truth.write_bytes(self._simulator.truth().to_json())
        except OSError as error:
            raise ConfigError(
                f"--truth: {self._truth} cannot be written: {error.strerror}."
            ) from error

    @contextmanager
    def _progress(self) -> Iterator[Callable[[], None]]:
        """Keeps a line on the terminal, or in a log prints one every few seconds."""
        self._write_truth()
        last_s = time.monotonic()
        with self._console.status("connected") as status:

            def report() -> None:
                nonlocal last_s
                status.update(self._so_far())
                if time.monotonic() - last_s < REPORT_S:
                    return
                last_s = time.monotonic()
                self._write_truth()
                if not self._console.is_terminal:
                    typer.echo(self._so_far(), err=True)

            yield report


@contextmanager
def _stop_signals(run: _Run) -> Iterator[None]:
    """SIGTERM and Ctrl-C end the run after its current step."""

    def stop(_signum: int, _frame: FrameType | None) -> None:
        run.stopped = True

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("wb")
    except OSError as error:
        raise ConfigError(f"--out: {path} cannot be written: {error.strerror}.") from error
    with file:
        yield file
