"""``driftdetector reference``: what a bundle holds drift against."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli.context import context_of


def register(app: typer.Typer) -> None:
    """Add the command ``reference show``."""
    reference = typer.Typer(
        help="The frozen reference of a training, which drift is held against.",
        no_args_is_help=True,
    )
    reference.callback()(lambda: None)
    reference.command("show")(show)
    app.add_typer(reference, name="reference")


def show(
    context: typer.Context,
    bundle: Annotated[
        str | None,
        typer.Argument(metavar="[BUNDLE]", help="As in worker.bundle, its default."),
    ] = None,
    group: Annotated[
        str, typer.Option("--group", help="fleet, or a channel and its value: machine_type=L.")
    ] = "fleet",
) -> None:
    """Show what was usual in a training: each feature's distribution, and its groups."""
    from rich.console import Console
    from rich.table import Table

    from worker.assets import asset_dir
    from worker.core.channels import format_duration
    from worker.core.drift.cells import MISSING
    from worker.core.errors import ConfigError
    from worker.models.bundle import load_bundle

    settings = context_of(context).settings()
    opened = load_bundle(bundle or settings.worker.bundle, asset_dir("models"), threads=1)
    reference = opened.require_reference()
    if group not in reference.groups:
        raise ConfigError(
            f"--group: {opened.model_version} knows no group {group!r}; write one of "
            f"{', '.join(reference.groups)}."
        )
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{opened.model_version}, reference {reference.hash}", markup=False)
    groups = Table("group", "rows", "machines", "a reading each", title="Groups")
    for name, one in reference.groups.items():
        every = format_duration(one.interval_us)
        groups.add_row(name, f"{one.rows:,}", str(one.machines), every)
    console.print(groups)
    usual = reference.groups[group]
    table = Table("feature", "unit", "mean", "sd", "lowest", "highest", "missing", title=group)
    for f, name in enumerate(reference.columns):
        share = usual.counts[f, MISSING] / max(usual.rows, 1)
        low, high = reference.edges[f, 0], reference.edges[f, -1]
        numbers = [f"{float(x):.4g}" for x in (usual.mean[f], usual.sd[f], low, high)]
        table.add_row(name, reference.units[f], *numbers, f"{share:.1%}")
    console.print(table)
