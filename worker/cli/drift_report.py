"""``driftdetector drift report``: two recordings held against each other."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from worker.assets import asset_dir
from worker.cli.channels import read_spec
from worker.core.errors import ConfigError

if TYPE_CHECKING:
    from worker.replay.comparison import Comparison

SHOWN = 12


def report(
    data: Annotated[Path, typer.Option(help="CSV or Parquet file, or a folder of them.")],
    reference: Annotated[
        Path | None,
        typer.Option(help="The same of a time that was as it should be; without it, --model's."),
    ] = None,
    channels: Annotated[
        Path | None, typer.Option(help="Channel specification (TOML); default: shared columns.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Bundle whose inputs and score are compared.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="HTML page to write.")] = None,
) -> None:
    """Say whether data differ from a reference, by the tests of the drift agent.

    Exit status: 0 whatever was found; 78 for what cannot be read or is not enough.
    """
    if channels is not None and model is not None:
        raise ConfigError("drift report: give --channels or --model, not both.")
    if reference is None and model is None:
        raise ConfigError("drift report: give --reference, or --model to use its training's.")
    # Imported here: polars and Jinja are an extra of the installation.
    try:
        from worker.replay.drift_page import Source, page
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"a drift report needs the package {error.name}; install driftdetector[train]."
        ) from error
    found, version = _compare(data, reference, channels, model)
    against = reference.name if reference else f"the training of {version}"
    console = Console(highlight=False)
    console.print(found.verdict, markup=False)
    console.print(_table(found))
    for note in found.notes:
        Console(stderr=True, highlight=False).print(f"note: {note}", markup=False)
    if out is None:
        return
    try:
        out.write_text(page(found, Source(data.name, against, version)), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out: {out} cannot be written: {error.strerror}.") from error
    console.print(str(out), soft_wrap=True, markup=False)


def _compare(
    data: Path, reference: Path | None, channels: Path | None, model: str | None
) -> tuple[Comparison, str | None]:
    from worker.models.bundle import load_bundle
    from worker.replay.comparison import compare_channels, compare_scored
    from worker.replay.raw_channels import read_undescribed
    from worker.training.readings import machine_readings, read_recording

    if model is not None:
        bundle = load_bundle(model, asset_dir("models"), threads=os.cpu_count() or 1)
        now = machine_readings(read_recording(data, bundle.spec), bundle.spec)
        then = None
        if reference is not None:
            recording = read_recording(reference, bundle.spec, "--reference")
            then = machine_readings(recording, bundle.spec)
        return compare_scored(bundle, now, then), bundle.model_version
    assert reference is not None  # checked by the command
    if channels is not None:
        spec = read_spec(channels)
        recordings = (
            read_recording(data, spec),
            read_recording(reference, spec, "--reference"),
        )
    else:
        spec, *both = read_undescribed(data, reference)
        recordings = both[0], both[1]
    first, second = (machine_readings(one, spec) for one in recordings)
    return compare_channels(spec, first, second), None


def _table(found: Comparison) -> Table:
    """The most significant features."""
    names = ("feature", "drifted", "score", "effect", "direction", "p-value", "detectable from")
    table = Table(*names, title=f"{found.data_rows:,} rows; drift score 0.3 is the usual limit")
    table.columns[0].overflow = "fold"
    for one in found.judged.features[:SHOWN]:
        unit = f" {one.unit}" if one.unit else ""
        table.add_row(
            one.feature,
            "yes" if one.drifted else "no",
            f"{one.score:.3f}",
            f"{one.effect:+.3g}{unit}",
            one.direction if one.drifted else "",
            f"{one.p_value:.2g}",
            f"{one.smallest_detectable:.3g}{unit}",
            style="red" if one.drifted else "",
        )
    if len(found.judged.features) > SHOWN:
        table.caption = f"{len(found.judged.features) - SHOWN} further features are in the page"
    return table
