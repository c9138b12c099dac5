"""``driftdetector drift``: watch for drift, and accept changes."""

from __future__ import annotations

import signal
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from worker.cli.context import context_of
from worker.core.errors import ConfigError

if TYPE_CHECKING:
    from worker.core.drift import Reference

BROKER = typer.Option("--broker", metavar="HOST:PORT", help="Same as the setting kafka.brokers.")


def register(app: typer.Typer) -> None:
    """Add the commands ``drift`` and ``drift accept``."""
    drift = typer.Typer(
        help="Watch for drift of what machines send from what the model was trained on.",
        invoke_without_command=True,
    )
    drift.callback()(watch)
    drift.command("accept")(accept)
    app.add_typer(drift, name="drift")


def watch(
    context: typer.Context,
    broker: Annotated[str | None, BROKER] = None,
) -> None:
    """Merge what the workers have counted, judge windows, publish drift-events.

    Runs beside the workers until SIGTERM or Ctrl-C, with the same settings, above all the same
    bundle. It has a consumer group, state and port of its own: whatever happens to it, scoring
    goes on, and it catches up when it is started again.
    """
    if context.invoked_subcommand is not None:
        return
    signal.signal(signal.SIGTERM, _end)  # until the event loop takes over: nothing was read yet
    settings = context_of(context).settings({"kafka.brokers": broker} if broker else None)
    from worker.drift_app import run_drift_agent
    from worker.logs import configure_logging

    configure_logging(settings.log)
    run_drift_agent(settings)


def accept(
    context: typer.Context,
    note: Annotated[str, typer.Option("--note", help="Why, for whoever asks later.")],
    group: Annotated[
        str, typer.Option("--group", help="fleet, or a channel and its value: machine_type=L.")
    ] = "fleet",
    features: Annotated[
        str,
        typer.Option(
            "--features",
            metavar="A,B",
            help="Only these features, or all of these channels. The rest stays watched.",
        ),
    ] = "",
) -> None:
    """Accept the present drift of a group: its level is usual from now on, beside the training's.

    Closes what is open of the group, unless more features drifted than are accepted. The model
    stays as it is; what it makes of the new level is not changed by this.
    """
    from worker.acceptance import has_open_event, publish_acceptance
    from worker.assets import asset_dir
    from worker.core.messages import DriftAcceptance
    from worker.letters.records import Cluster
    from worker.models.bundle import load_bundle

    settings = context_of(context).settings()
    bundle = load_bundle(settings.worker.bundle, asset_dir("models"), threads=1)
    reference = bundle.require_reference()
    if group not in reference.groups:
        raise ConfigError(
            f"--group: {bundle.model_version} knows no group {group!r}; write one of "
            f"{', '.join(reference.groups)}."
        )
    columns = _columns(reference, features, bundle.model_version) if features else None
    acceptance = DriftAcceptance(group, datetime.now(UTC), columns, note)
    with Cluster(settings) as cluster:
        is_open = has_open_event(cluster, group)
        origin = publish_acceptance(cluster, acceptance)
    which = f" of {', '.join(columns)}" if columns else ""
    typer.echo(
        f"{group}: the drift agent is told to take the present level{which} as usual, offset "
        f"{origin.offset} of partition {origin.partition} of {origin.topic}."
    )
    if not is_open:
        typer.echo(
            f"note: {settings.topics.drift_events} tells of no drift of {group} that is open, so "
            "there may be nothing to accept.",
            err=True,
        )


def _columns(reference: Reference, features: str, model_version: str) -> list[str]:
    """The columns that are meant: by their own name, or by that of their channel."""
    found: list[str] = []
    for name in (part.strip() for part in features.split(",")):
        of_channel = [
            column
            for column, owner in zip(reference.columns, reference.owners, strict=True)
            if name and name in (column, owner)
        ]
        if not of_channel:
            raise ConfigError(
                f"--features: {model_version} watches no {name!r}; write some of "
                f"{', '.join(reference.columns)}, or channels."
            )
        found += [column for column in of_channel if column not in found]
    return found


def _end(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise typer.Exit
