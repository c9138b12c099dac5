"""``driftdetector backtest``: what a bundle would have said of recorded readings."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from worker.assets import asset_dir
from worker.cli.context import context_of
from worker.cli.replay import topic_of
from worker.core.errors import ConfigError
from worker.recording.files import recorded_topics

if TYPE_CHECKING:
    from worker.replay.backtest import Backtest
    from worker.replay.recorded import Result
    from worker.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="backtest")(backtest_command)


def backtest_command(
    context: typer.Context,
    data: Annotated[
        Path, typer.Option(help="CSV or Parquet file, a folder of them, or a recording.")
    ],
    model: Annotated[str, typer.Option(help="Bundle: name, name/version, or its folder.")],
    out: Annotated[Path, typer.Option(help="Folder for scores, episodes, health and summary.")],
    warm_up: Annotated[
        Path | None, typer.Option(help="Readings from before, for the state to begin with.")
    ] = None,
    topic: Annotated[
        str | None, typer.Option(help="Of a recording. Default: the only one there is.")
    ] = None,
    messages: Annotated[
        bool,
        typer.Option(
            "--messages", help="Of a recording: also keep what a worker would have published."
        ),
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Of a recording: processes. Default: all cores.")
    ] = None,
) -> None:
    """Score recorded readings as the worker would have; write the answers as tables.

    A recording goes through the worker's own step, record by record, with a worker's settings.
    """
    topics = recorded_topics(data)
    if topics and warm_up is not None:
        raise ConfigError("--warm-up: a recording begins with fresh state; leave it out.")
    if not topics and (topic is not None or messages):
        raise ConfigError(f"--data: {data} is no recording, so it has no topic and no messages.")
    _prepare(out)
    errors = Console(stderr=True)
    result: Backtest | Result
    with Progress(console=errors, transient=True) as progress, _extras():
        if topics:
            settings = context_of(context).settings()
            published = out / "messages" if messages else None
            source = (data, topic_of(data, topic), model, settings, published)
            result = _of_recording(source, out, jobs or os.cpu_count() or 1, progress)
        else:
            result = _of_table(data, model, warm_up, out, progress)
    for note in result.summary["notes"]:
        errors.print(f"note: {note}", highlight=False, markup=False)
    console = Console()
    console.print(_table(result.summary))
    console.print(str(out), soft_wrap=True, highlight=False, markup=False)


@contextmanager
def _extras() -> Iterator[None]:
    """Say which extra of the installation is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        extra = "record,train" if error.name == "pyarrow" else "train"
        raise ConfigError(
            f"a backtest needs the package {error.name}; install driftdetector[{extra}]."
        ) from error


def _of_table(
    data: Path, model: str, warm_up: Path | None, out: Path, progress: Progress
) -> Backtest:
    from worker.models.bundle import load_bundle
    from worker.replay.backtest import backtest
    from worker.training.readings import read_recording

    bundle = load_bundle(model, asset_dir("models"), threads=os.cpu_count() or 1)
    task = progress.add_task("reading", total=None)
    recording = read_recording(data, bundle.spec)
    before = read_recording(warm_up, bundle.spec, "--warm-up") if warm_up else None
    progress.update(task, description=f"scoring with {bundle.model_version}", total=1.0)
    result = backtest(
        bundle,
        recording,
        warm_up=before,
        on_progress=lambda share: progress.update(task, completed=share),
    )
    with _writing(out):
        result.scores.write_parquet(out / "scores.parquet")
        _write(result, out)
    return result


def _of_recording(
    source: tuple[Path, str, str, Settings, Path | None],
    out: Path,
    jobs: int,
    progress: Progress,
) -> Result:
    from worker.replay.recorded import Source, backtest_recording

    published = source[-1]
    if published is not None and published.exists():
        raise ConfigError(f"--out: {published} is there already; give another folder.")
    task = progress.add_task(f"scoring with {source[2]}", total=None)
    with _writing(out):
        result = backtest_recording(
            Source(*source),
            out / "scores.parquet",
            jobs,
            lambda done, size: progress.update(task, completed=done, total=size),
        )
        _write(result, out)
    return result


def _prepare(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--out: {out} cannot be made: {error.strerror}; give a folder."
        ) from error


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"--out: {out} cannot be written: {error.strerror or error}; give another folder."
        ) from error


def _write(result: Backtest | Result, out: Path) -> None:
    """Write all but the scores."""
    for name in ("episodes", "health"):
        getattr(result, name).write_parquet(out / f"{name}.parquet")
    text = json.dumps(result.summary, indent=2, ensure_ascii=False)
    (out / "summary.json").write_text(text + "\n", encoding="utf-8")


def _table(summary: dict[str, Any]) -> Table:
    table = Table(title=f"{summary['model']} on {summary['data']}", show_header=False)
    rate = summary["episodes_per_machine_day"]
    threshold = summary["threshold"]
    health = ", ".join(f"{count} {kind}" for kind, count in summary["health"].items())
    rows = {
        "readings": f"{summary['rows']:,}",
        "not scored": f"{summary['not_scored']:,}",
        "machines": f"{summary['machines']:,}",
        "machine-days": f"{summary['machine_days']:,.1f}",
        "anomalous readings": f"{summary['anomalies']:,} ({summary['anomaly_share']:.3%})",
        "episodes": f"{summary['episodes']:,}, {summary['episodes_open']:,} open at the end",
        "episodes per machine and day": "none" if rate is None else f"{rate:.4g}",
        "budget of false ones" if threshold is None else "pinned threshold": (
            f"{summary['budget']:g}" if threshold is None else f"{threshold:g}"
        ),
        "sensor health": health or "nothing",
        "readings per second": f"{summary['rows_per_second']:,}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table
