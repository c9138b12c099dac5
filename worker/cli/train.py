"""``driftdetector train``: train a bundle from CSV or Parquet files or on the simulator."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from worker.cli.channels import read_spec
from worker.core.detection.detector import BUDGET
from worker.core.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="train")(train_command)


def train_command(
    channels: Annotated[Path, typer.Option(help="Channel specification (TOML).")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle's versions.")],
    data: Annotated[
        Path | None, typer.Option(help="CSV or Parquet file, or a folder of them.")
    ] = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Train on healthy simulated machines.")
    ] = False,
    version: Annotated[
        str | None, typer.Option(help="Such as 1.2.0; default: the next minor version.")
    ] = None,
    budget: Annotated[
        float,
        typer.Option(min=1e-6, help="False episodes per machine and day that are tolerated."),
    ] = BUDGET,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1)] = 2026,
    training_date: Annotated[
        str | None, typer.Option(help="Date to record, YYYY-MM-DD; default: today (UTC).")
    ] = None,
) -> None:
    """Train a bundle; the last line on stdout is the path of the new version."""
    # Imported here: scikit-learn takes a second and is an extra of the installation.
    try:
        from worker.training.readings import (
            machine_readings,
            read_recording,
            simulated_readings,
        )
        from worker.training.train import train
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"training needs the package {error.name}; install driftdetector[train]."
        ) from error

    date = training_date or datetime.now(UTC).date().isoformat()
    _check(data, simulate, version, date)
    spec = read_spec(channels)
    errors = Console(stderr=True)
    if data:
        readings = machine_readings(read_recording(data, spec), spec)
    else:
        readings = simulated_readings(spec, seed)
    for note in readings.notes:
        errors.print(f"note: {note}", highlight=False, markup=False)
    with Progress(console=errors, transient=True) as progress:
        task = progress.add_task(f"training {spec.name}", total=1.0)
        result = train(
            spec,
            readings,
            out,
            training_date=date,
            version=version,
            budget=budget,
            seed=seed,
            workers=os.cpu_count() or 1,
            on_progress=lambda share: progress.update(task, completed=share),
        )
    table = Table(title=f"{spec.name} {result.path.name}", show_header=False)
    for name, value in (
        ("readings", f"{result.rows:,}"),
        ("machines", f"{result.machines:,}"),
        ("features", f"{result.features}"),
        ("threshold", f"{result.threshold:.6f}"),
        ("flagged in training", f"{result.flagged_share:.3%}"),
        ("difference from scikit-learn", f"{result.parity:.1e}"),
        ("size of model.onnx", f"{result.model_bytes / 1024:.0f} KB"),
    ):
        table.add_row(name, value)
    console = Console()
    console.print(table)
    console.print(str(result.path), soft_wrap=True, highlight=False, markup=False)


def _check(data: Path | None, simulate: bool, version: str | None, date: str) -> None:
    if (data is None) == (not simulate):
        raise ConfigError("train: give either --data FILE_OR_FOLDER or --simulate.")
    if version is not None and not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ConfigError(f"--version: {version!r} is not a version; write one such as 1.2.0.")
    try:
        datetime.strptime(date, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise ConfigError(f"--training-date: {date!r} is not a date; write YYYY-MM-DD.") from error
