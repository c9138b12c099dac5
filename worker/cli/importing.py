"""``driftdetector import``: files of others as a recording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from worker.cli.context import context_of
from worker.cli.progress import progress_bar
from worker.core.channels import parse_duration_us
from worker.core.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="import")(import_command)


def import_command(
    context: typer.Context,
    data: Annotated[
        list[Path],
        typer.Argument(metavar="DATA...", help="CSV, JSON lines or Parquet; or folders of them."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the recording.")],
    layout: Annotated[
        Literal["rows", "machine-files", "long"],
        typer.Option(
            help="rows: a reading a row; machine-files: the same, the file's name is the machine; "
            "long: a value a row."
        ),
    ] = "rows",
    mapped: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="NAME=COLUMN",
            help="machine_id, timestamp or a channel has another name there; may be repeated.",
        ),
    ] = None,
    channel: Annotated[str, typer.Option(help="Layout long: column of the names.")] = "channel",
    value: Annotated[str, typer.Option(help="Layout long: column of the values.")] = "value",
    machine: Annotated[
        str | None, typer.Option(metavar="ID", help="All readings are of this machine.")
    ] = None,
    interval: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", help="The files have no times: a machine's rows are so far apart."
        ),
    ] = None,
    topic: Annotated[
        str | None, typer.Option(help="What the recording is of. Default: the events.")
    ] = None,
    partitions: Annotated[int, typer.Option(min=1, max=1024, help="To spread machines over.")] = 1,
) -> None:
    """Turn files into a recording, as if gateways had sent their readings to Kafka."""
    try:
        from worker.replay.importing import Fields, import_files
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"an import needs the package {error.name}; install driftdetector[record,train]."
        ) from error
    columns = dict(_pair(text) for text in mapped or [])
    if machine is not None and layout == "machine-files":
        raise ConfigError("--machine: with machine-files each file is one; leave out one of them.")
    if interval is not None and layout == "long":
        raise ConfigError("--interval: with long a row is no reading; give the times with --map.")
    apart_us = None if interval is None else parse_duration_us(interval, "--interval")
    fields = Fields(layout, columns, channel, value, machine, apart_us)
    name = topic or context_of(context).settings().topics.sensor_events
    with progress_bar("reading") as report:
        found = import_files(data, fields, out, name, partitions, report)
    left_out = f", {found.left_out:,} rows without machine or time" if found.left_out else ""
    typer.echo(f"{found.records:,} events of {found.machines:,} machines{left_out}", err=True)
    typer.echo(str(out))


def _pair(text: str) -> tuple[str, str]:
    name, equals, column = text.partition("=")
    if not (name.strip() and equals and column.strip()):
        raise ConfigError(
            f"--map: {text!r} is not NAME=COLUMN; write such as machine_id=unit or vibration=vib1."
        )
    return name.strip(), column.strip()
