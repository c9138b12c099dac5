"""``driftdetector backtest``: what a bundle would have said of recorded readings."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from worker.assets import asset_dir
from worker.core.errors import ConfigError

if TYPE_CHECKING:
    from worker.replay.backtest import Backtest


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="backtest")(backtest_command)


def backtest_command(
    data: Annotated[Path, typer.Option(help="CSV or Parquet file, or a folder of them.")],
    model: Annotated[str, typer.Option(help="Bundle: name, name/version, or its folder.")],
    out: Annotated[Path, typer.Option(help="Folder for scores, episodes, health and summary.")],
    warm_up: Annotated[
        Path | None, typer.Option(help="Readings from before, for the state to begin with.")
    ] = None,
) -> None:
    """Score recorded readings as the worker would have; write the answers as tables."""
    # Imported here: polars is an extra of the installation.
    try:
        from worker.replay.backtest import backtest
        from worker.training.readings import read_recording
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"a backtest needs the package {error.name}; install driftdetector[train]."
        ) from error
    from worker.models.bundle import load_bundle

    bundle = load_bundle(model, asset_dir("models"), threads=os.cpu_count() or 1)
    _prepare(out)
    errors = Console(stderr=True)
    with Progress(console=errors, transient=True) as progress:
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
    for note in result.summary["notes"]:
        errors.print(f"note: {note}", highlight=False, markup=False)
    _write(result, out)
    console = Console()
    console.print(_table(result.summary))
    console.print(str(out), soft_wrap=True, highlight=False, markup=False)


def _prepare(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--out: {out} cannot be made: {error.strerror}; give a folder."
        ) from error


def _write(result: Backtest, out: Path) -> None:
    try:
        for name in ("scores", "episodes", "health"):
            getattr(result, name).write_parquet(out / f"{name}.parquet")
        text = json.dumps(result.summary, indent=2, ensure_ascii=False)
        (out / "summary.json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--out: {out} cannot be written: {error.strerror or error}; give another folder."
        ) from error


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
