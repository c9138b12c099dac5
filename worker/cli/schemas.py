"""``driftdetector schemas``: generate the contracts, and compare files with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.channels import default_channels, read_spec

if TYPE_CHECKING:
    from worker.contracts import Document

EXIT_DIFFERENT = 1

ChannelsOption = Annotated[
    Path | None,
    typer.Option(
        "--channels",
        metavar="FILE",
        help="Channel specification. Default: that of the bundle machine-health.",
    ),
]
FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--dir", metavar="DIR", file_okay=False, help="Folder. Default: DriftDetector's schemas/."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command group ``schemas``."""
    group = typer.Typer(no_args_is_help=True)
    group.command("write")(write)
    group.command("check")(check)
    app.add_typer(
        group, name="schemas", help="Generate the JSON Schemas and the AsyncAPI document."
    )


def write(channels: ChannelsOption = None, folder: FolderOption = None) -> None:
    """Write schemas/*.json and asyncapi.json from the message types and topics/*.toml."""
    from worker.assets import asset_dir
    from worker.contracts import render

    folder = folder or asset_dir("schemas")
    folder.mkdir(parents=True, exist_ok=True)
    for name, document in _documents(channels).items():
        (folder / name).write_text(render(document), "utf-8")
        typer.echo(f"wrote {folder / name}")


def check(channels: ChannelsOption = None, folder: FolderOption = None) -> None:
    """Compare the files with what would be written; exit 1 and list what differs."""
    from worker.assets import asset_dir
    from worker.contracts import differences

    lines = differences(_documents(channels), folder or asset_dir("schemas"))
    for line in lines:
        typer.echo(line)
    if lines:
        typer.echo("driftdetector schemas write generates them again.")
        raise typer.Exit(EXIT_DIFFERENT)
    typer.echo("The files are as generated.")


def _documents(channels: Path | None) -> dict[str, Document]:
    from worker.asyncapi import FILE_NAME, asyncapi_document
    from worker.contracts import schema_documents
    from worker.topics import load_declarations

    spec = read_spec(channels or default_channels())
    documents = schema_documents(spec)
    documents[FILE_NAME] = asyncapi_document(spec, load_declarations())
    return documents
