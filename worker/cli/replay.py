"""``driftdetector replay``: a recording into a Kafka topic."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.context import context_of
from worker.cli.signals import stop_flag
from worker.core.errors import ConfigError
from worker.recording.files import topic_of

if TYPE_CHECKING:
    from worker.recording.pace import Gate
    from worker.recording.player import Progress

EXIT_INTERRUPTED = 130
WATCH_S = 0.1


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="replay")(replay_command)


def replay_command(
    context: typer.Context,
    recording: Annotated[Path, typer.Argument(metavar="RECORDING", help="Folder of a recording.")],
    to: Annotated[str, typer.Option("--to", metavar="TOPIC", help="Where to publish.")],
    topic: Annotated[
        str | None, typer.Option(help="Recorded topic. Default: the only one there is.")
    ] = None,
    speed: Annotated[
        str, typer.Option(help="Seconds of the recording a second, such as 60; or max.")
    ] = "1",
    shift: Annotated[
        str | None,
        typer.Option(help="Let records be of later: now, or by how long, such as 2h or -30m."),
    ] = None,
    loops: Annotated[int, typer.Option(min=0, help="How many times; 0: until Ctrl-C.")] = 1,
    machine: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Only this key; may be repeated.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Recorded from then on: RFC 3339.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Recorded before then.")] = None,
) -> None:
    """Publish a recording as it was: bytes, keys, partitions, order and spacing.

    Space pauses and goes on, and so does the signal USR1. With --shift, or from the second loop on,
    events that can be read get later timestamps; without, no byte changes.
    """
    try:
        from worker.recording.pace import Gate, Pace, parse_shift_ms, parse_speed
        from worker.recording.player import Player
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"a replay needs the package {error.name}; install driftdetector[record]."
        ) from error
    from worker.cluster import Cluster
    from worker.letters.search import parse_time_ms
    from worker.recording.records import Part

    now_ms = round(time.time() * 1000)
    part = Part(
        None if since is None else parse_time_ms(since, "--since", now_ms),
        None if until is None else parse_time_ms(until, "--until", now_ms),
        None if not machine else frozenset(name.encode() for name in machine),
    )
    pace = Pace(parse_speed(speed), 0 if shift is None else parse_shift_ms(shift), loops)
    name = topic_of(recording, topic)
    gate = Gate()
    settings = context_of(context).settings()
    with (
        Cluster(settings) as cluster,
        stop_flag() as stop,
        _bar(gate) as report,
        _pausing(gate, stop),
    ):
        sent = Player(cluster, to, gate, report).play(recording, name, part, pace)
    typer.echo(f"{sent:,} records published to {to}")
    if stop.is_set() and loops:
        raise typer.Exit(EXIT_INTERRUPTED)


@contextmanager
def _pausing(gate: Gate, stop: threading.Event) -> Iterator[None]:
    """Let the signal USR1, and Space on a terminal, pause; and Ctrl-C stop."""
    before = signal.signal(signal.SIGUSR1, lambda *_: gate.toggle())
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(gate, stop, done), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join(2 * WATCH_S + 1.0)
        signal.signal(signal.SIGUSR1, before)


def _watch(gate: Gate, stop: threading.Event, done: threading.Event) -> None:
    with _keys() as pressed:
        while not done.is_set():
            if stop.is_set():
                gate.stop()
            if pressed() == " ":
                gate.toggle()


@contextmanager
def _keys() -> Iterator[Callable[[], str]]:
    """A function that waits a moment for a key; nothing is ever pressed where no terminal is."""
    if not sys.stdin.isatty():
        yield lambda: time.sleep(WATCH_S) or ""  # type: ignore[func-returns-value]
        return
    import select
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def pressed() -> str:
        ready, _, _ = select.select([sys.stdin], [], [], WATCH_S)
        return sys.stdin.read(1) if ready else ""

    try:
        tty.setcbreak(descriptor)
        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextmanager
def _bar(gate: Gate) -> Iterator[Callable[[Progress], None]]:
    """A function to tell how far playing is; shown while stderr is a terminal."""
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TextColumn, TimeElapsedColumn

    from worker.core.messages import format_time_us

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.fields[state]}: {task.completed:,} records, at {task.fields[moment]}"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None, state="playing", moment="the beginning")

        def report(progress: Progress) -> None:
            moment = format_time_us(max(progress.time_ms, 0) * 1000)
            state = "paused" if gate.paused else "playing"
            bar.update(task, completed=progress.sent, moment=moment, state=state)

        yield report
