"""``driftdetector explain``: what was known of a machine at a moment of a recording, and why."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from worker.cli.context import context_of
from worker.cli.progress import progress_bar
from worker.core.errors import ConfigError
from worker.recording.files import topic_of

if TYPE_CHECKING:
    from worker.replay.moment import Moment


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="explain")(explain_command)


def explain_command(
    context: typer.Context,
    recording: Annotated[Path, typer.Argument(metavar="RECORDING", help="Folder of a recording.")],
    machine: Annotated[str, typer.Option(metavar="ID", help="Its machine_id.")],
    at: Annotated[str, typer.Option(metavar="TIME", help="RFC 3339: the last reading up to then.")],
    model: Annotated[
        str | None, typer.Option(help="Bundle: name, name/version, or its folder. Default: yours.")
    ] = None,
    topic: Annotated[
        str | None, typer.Option(help="Recorded topic. Default: the only one there is.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Say what was known of a machine at a moment, and why it was judged as it was.

    Its records are applied from the beginning of the recording, as a worker would have.
    """
    try:
        from worker.replay.moment import moment_of
        from worker.replay.partition import Source
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"explain needs the package {error.name}; install driftdetector[record,train]."
        ) from error
    from worker.letters.search import parse_time_ms

    settings = context_of(context).settings()
    at_ms = parse_time_ms(at, "--at", round(time.time() * 1000))
    name = topic_of(recording, topic)
    source = Source(recording, name, model or settings.worker.bundle, settings)
    with progress_bar("applying") as report:
        found = moment_of(source, machine, at_ms * 1000, report)
    if as_json:
        typer.echo(msgspec.json.encode(found))
        return
    _show(found, Console())


def _show(found: Moment, console: Console) -> None:
    judged = "an anomaly" if found.is_anomaly else "ordinary"
    console.print(
        f"{found.machine_id} at {found.timestamp} was {judged}: {found.reason}",
        highlight=False,
        markup=False,
    )
    console.print(
        f"score {found.anomaly_score:.3f}, threshold {found.threshold:.3f}, confidence "
        f"{found.confidence:.3f}, warm-up {found.experience:.0%}; record {found.offset} of "
        f"partition {found.partition}, {found.records:,} of the machine up to here; "
        f"{found.model_version}",
        highlight=False,
        markup=False,
    )
    signals = Table(title="signals")
    for heading in ("signal", "value", "expected", "deviation", "contribution"):
        signals.add_column(heading, justify="left" if heading == "signal" else "right")
    for one in sorted(found.signals, key=lambda one: -one.contribution):
        unit = f" {one.unit}" if one.unit else ""
        signals.add_row(
            one.name,
            f"{one.value:.4g}{unit}",
            f"{one.expected:.4g}{unit}",
            f"{one.deviation:.1f}",
            f"{one.contribution:.2f}",
        )
    console.print(signals)
    inputs = Table(title="model inputs")
    for heading in ("input", "value", "usual"):
        inputs.add_column(heading, justify="left" if heading == "input" else "right")
    for own in found.inputs:
        inputs.add_row(own.name, f"{own.value:.4g}", f"{own.usual:.4g}")
    console.print(inputs)
    for episode in found.episodes:
        console.print(f"open episode {episode['id']}: {episode['reason']}", markup=False)
    for condition in found.conditions:
        console.print(f"open condition {condition['id']}: {condition['reason']}", markup=False)
