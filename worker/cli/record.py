"""``driftdetector record``: Kafka topics as Parquet files."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.context import context_of
from worker.cli.signals import stop_flag
from worker.core.errors import ConfigError

if TYPE_CHECKING:
    from worker.cluster import Cluster, Range
    from worker.recording.recorder import Place, Progress, Recorder

EXIT_INTERRUPTED = 130
_OFFSETS = re.compile(r"(\d+):(\d+)-(\d*)")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="record")(record_command)


def record_command(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder of the recording; one that exists goes on.")],
    topics: Annotated[
        list[str] | None, typer.Argument(metavar="[TOPIC]...", help="Default: the events.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Written from then on: RFC 3339, or how long ago (2h)."),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Written before then.")] = None,
    offsets: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PARTITION:FIRST-END",
            help="Only these offsets, END exclusive and optional; may be repeated. One topic.",
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    file_mb: Annotated[int, typer.Option(min=1, max=4096, help="Finish files so large.")] = 128,
    file_minutes: Annotated[
        float, typer.Option(min=0.01, max=1440, help="Finish files at least so often.")
    ] = 5.0,
) -> None:
    """Record topics byte for byte; run again, it goes on where it ended.

    Without --follow it ends at what the topics hold now. Killed at any moment, it leaves only whole
    files, and the next run records what is missing, each record once.
    """
    Rotation, Recorder = _load()  # noqa: N806  # classes
    from worker.cluster import Cluster
    from worker.recording.files import Lock

    settings = context_of(context).settings()
    names = list(dict.fromkeys(topics or [settings.topics.sensor_events]))
    _check(names, since, until, offsets, follow)
    with Cluster(settings) as cluster, Lock(out), stop_flag() as stop, _bar(follow) as report:
        recorder = Recorder(
            cluster,
            out,
            Rotation(file_mb * 2**20, file_minutes * 60.0),
            should_stop=stop.is_set,
            on_progress=report,
        )
        wanted = recorder.plan(
            {name: _ranges(cluster, name, since, until, offsets or []) for name in names}
        )
        _warn_of_gaps(recorder, wanted)
        recorder.run(wanted, follow=follow)
        stopped = stop.is_set()
    size = sum(segment.path.stat().st_size for segment in recorder.finished)
    files = len(recorder.finished)
    typer.echo(f"{recorder.records:,} records in {files:,} files, {size / 1e6:,.1f} MB", err=True)
    typer.echo(str(out))
    if stopped and not follow:
        typer.echo("stopped before the end; run the same command to go on.", err=True)
        raise typer.Exit(EXIT_INTERRUPTED)


def _load() -> tuple[type, type]:
    try:
        from worker.recording.recorder import Recorder, Rotation
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"a recording needs the package {error.name}; install driftdetector[record]."
        ) from error
    return Rotation, Recorder


def _check(
    names: list[str],
    since: str | None,
    until: str | None,
    offsets: list[str] | None,
    follow: bool,
) -> None:
    if offsets and (since or until):
        raise ConfigError(
            "--offsets: it says itself what to record; leave out --since and --until."
        )
    if offsets and len(names) > 1:
        raise ConfigError("--offsets: they are of one topic; give one.")
    if follow and until:
        raise ConfigError("--until: with --follow there is no end; leave one of them out.")


def _ranges(
    cluster: Cluster, topic: str, since: str | None, until: str | None, offsets: list[str]
) -> Mapping[int, Range]:
    from worker.cluster import Range
    from worker.letters.search import parse_time_ms

    now_ms = round(time.time() * 1000)
    since_ms = None if since is None else parse_time_ms(since, "--since", now_ms)
    until_ms = None if until is None else parse_time_ms(until, "--until", now_ms)
    held = cluster.ranges(topic, since_ms, until_ms)
    if not offsets:
        return held
    found = {}
    for text in offsets:
        match = _OFFSETS.fullmatch(text.strip())
        if match is None or int(match[1]) not in held:
            raise ConfigError(
                f"--offsets: {text!r} is not PARTITION:FIRST-END of a partition of {topic!r}; "
                "write such as 0:1000-2000, or 0:1000- for all from there on."
            )
        span = held[int(match[1])]
        end = min(int(match[3]), span.end) if match[3] else span.end
        found[int(match[1])] = Range(max(int(match[2]), span.begin), end)
    return found


def _warn_of_gaps(recorder: Recorder, wanted: Mapping[Place, Range]) -> None:
    for topic, gaps in recorder.gaps(wanted).items():
        for gap in gaps:
            typer.echo(
                f"warning: offsets {gap.begin} to {gap.end - 1} of {topic} partition "
                f"{gap.partition} were deleted from Kafka before they were recorded",
                err=True,
            )


@contextmanager
def _bar(follow: bool) -> Iterator[Callable[[Progress], None]]:
    """A function to tell how far the recording is; shown while stderr is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        *(() if follow else (BarColumn(),)),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:,.0f}/s, lag {task.fields[lag]:,}"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("recording", total=None, rate=0.0, lag=0)
        begun_s = time.monotonic()

        def report(progress: Progress) -> None:
            rate = progress.records / max(time.monotonic() - begun_s, 1e-3)
            lag = progress.size - progress.passed
            bar.update(task, completed=progress.passed, total=progress.size, rate=rate, lag=lag)

        yield report
