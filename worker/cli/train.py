"""``driftdetector train``: train a bundle from CSV or Parquet files or on the simulator."""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from worker.cli.channels import read_spec
from worker.core.channels import ChannelSpec
from worker.core.errors import ConfigError
from worker.recording.files import recorded_topics, topic_of

if TYPE_CHECKING:
    from worker.training.readings import MachineReadings
    from worker.training.train import TrainingResult


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="train")(train_command)


def train_command(
    channels: Annotated[Path, typer.Option(help="Channel specification (TOML).")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle's versions.")],
    data: Annotated[
        Path | None, typer.Option(help="CSV or Parquet file, a folder of them, or a recording.")
    ] = None,
    topic: Annotated[
        str | None, typer.Option(help="Of a recording. Default: the only one there is.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Learn only from readings before then.")
    ] = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Train on healthy simulated machines.")
    ] = False,
    labels: Annotated[
        Path | None,
        typer.Option(help="Known faults (machine_id, begin, end), to choose the budget by."),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            help="False episodes per machine and day that are tolerated; "
            "default: what --labels choose, else 0.1."
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Pin the threshold of anomaly_score instead of following the budget."),
    ] = None,
    machine_groups: Annotated[
        bool,
        typer.Option(
            "--machine-groups", help="Also watch each machine (at most 64) for drift of its own."
        ),
    ] = False,
    version: Annotated[
        str | None, typer.Option(help="Such as 1.2.0; default: the next minor version.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1)] = 2026,
    training_date: Annotated[
        str | None, typer.Option(help="Date to record, YYYY-MM-DD; default: today (UTC).")
    ] = None,
) -> None:
    """Train a bundle; the last line on stdout is the path of the new version."""
    # Imported here: scikit-learn takes a second and is an extra of the installation.
    try:
        from worker.training.labels import read_labels
        from worker.training.readings import simulated_readings
        from worker.training.train import train
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"training needs the package {error.name}; install driftdetector[train]."
        ) from error

    if simulate and (topic or until):
        raise ConfigError("--simulate: a simulation has no --topic and no --until; remove them.")
    date = training_date or datetime.now(UTC).date().isoformat()
    _check(data, simulate, version, date, budget, threshold)
    spec = read_spec(channels)
    faults = read_labels(labels) if labels else None
    errors = Console(stderr=True)
    with Progress(console=errors, transient=True) as progress:
        task = progress.add_task("reading", total=None)
        if data is None:
            readings = simulated_readings(spec, seed)
        else:
            readings = _readings(data, topic, until, spec)
        progress.update(task, description=f"training {spec.name}", total=1.0)
        result = train(
            spec,
            readings,
            out,
            training_date=date,
            version=version,
            budget=budget,
            threshold=threshold,
            labels=faults,
            seed=seed,
            workers=os.cpu_count() or 1,
            machine_groups=machine_groups,
            on_progress=lambda share: progress.update(task, completed=share),
        )
    for note in result.notes:
        errors.print(f"note: {note}", highlight=False, markup=False)
    console = Console()
    console.print(_summary(result))
    if result.verdicts:
        console.print(_verdicts(result))
    console.print(str(result.path), soft_wrap=True, highlight=False, markup=False)


def _readings(
    data: Path, topic: str | None, until: str | None, spec: ChannelSpec
) -> MachineReadings:
    """The readings of a table or a recording, those before a moment."""
    from worker.letters.search import parse_time_ms
    from worker.training.readings import before, machine_readings, read_recording

    until_ms = None if until is None else parse_time_ms(until, "--until", round(time.time() * 1000))
    if recorded_topics(data):
        try:
            from worker.training.recorded import read_recorded
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"a recording needs the package {error.name}; install driftdetector[record,train]."
            ) from error
        recording = read_recorded(data, topic_of(data, topic), spec)
    elif topic is None:
        recording = read_recording(data, spec)
    else:
        raise ConfigError(f"--topic: {data} is no recording; leave it out.")
    if until_ms is not None:
        recording = before(recording, datetime.fromtimestamp(until_ms / 1000, UTC))
    return machine_readings(recording, spec)


def _summary(result: TrainingResult) -> Table:
    manifest = result.manifest
    data = manifest.training
    rate = result.episodes / result.machine_days
    table = Table(title=f"{manifest.spec['name']} {manifest.version}", show_header=False)
    rows = {
        "readings": f"{data.rows:,}",
        "machines": f"{data.machines:,}",
        "from": data.start,
        "to": data.end,
        "interval": f"{data.interval_s:g} s",
        "window": result.window,
        "features": f"{len(manifest.feature)}",
        "budget": f"{manifest.budget:g} false episodes per machine and day",
        "threshold": "from the budget" if manifest.threshold is None else f"{manifest.threshold:g}",
        "episodes in training": f"{result.episodes:,} ({rate:.4g} per machine and day)",
        "anomalous readings": f"{manifest.metadata.contamination:.3%}",
        "difference from scikit-learn": f"{result.parity:.1e}",
        "size": f"{result.size_bytes / 1024:,.0f} KB",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _verdicts(result: TrainingResult) -> Table:
    """What labels say of each budget that was tried."""
    table = Table(title="known faults, each half of the data judged by a bundle of the other")
    for name in ("budget", "faults", "caught", "episodes", "of them false", "F1"):
        table.add_column(name, justify="right")
    for budget, verdict in result.verdicts.items():
        counts = (verdict.labels, verdict.caught, verdict.episodes, verdict.false)
        table.add_row(
            f"{budget:g}",
            *(f"{count:,}" for count in counts),
            f"{verdict.f1:.3f}",
            style="bold" if budget == result.manifest.budget else "",
        )
    return table


def _check(
    data: Path | None,
    simulate: bool,
    version: str | None,
    date: str,
    budget: float | None,
    threshold: float | None,
) -> None:
    if (data is None) == (not simulate):
        raise ConfigError("train: give either --data FILE_OR_FOLDER or --simulate.")
    if version is not None and not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ConfigError(f"--version: {version!r} is not a version; write one such as 1.2.0.")
    if budget is not None and not 0.0 < budget < float("inf"):
        raise ConfigError(
            f"--budget: {budget:g} is not a positive number of false episodes per machine and day."
        )
    if threshold is not None and not -1.0 < threshold <= 1.0:
        raise ConfigError(f"--threshold: {threshold:g} is not an anomaly score in (-1, 1].")
    try:
        datetime.strptime(date, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise ConfigError(f"--training-date: {date!r} is not a date; write YYYY-MM-DD.") from error
