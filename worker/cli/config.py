"""``driftdetector config``: what the settings are, and where each comes from."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from worker.cli.context import context_of


def register(app: typer.Typer) -> None:
    """Add the command group ``config``."""
    group = typer.Typer(no_args_is_help=True)
    group.command("show")(show)
    app.add_typer(group, name="config", help="Show the settings that are in effect.")


def show(
    context: typer.Context,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON list instead of a table.")
    ] = False,
) -> None:
    """Show each setting with its value and origin; secrets are masked."""
    from rich.console import Console
    from rich.table import Table

    _, values = context_of(context).settings_with_origin()
    if as_json:
        typer.echo(json.dumps([asdict(value) for value in values], indent=2))
        return
    table = Table(title="Settings")
    for heading in ("setting", "value", "origin"):
        table.add_column(heading, overflow="fold")
    for value in values:
        shown = "(not set)" if value.value is None else str(value.value)
        dim = "dim" if value.origin == "default" else ""
        table.add_row(value.key, shown, value.origin, style=dim)
    Console().print(table, markup=False)
