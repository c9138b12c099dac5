"""``driftdetector drift``: watch for drift, accept changes, compare recordings."""

from __future__ import annotations

import signal
from datetime import UTC, datetime
from types import FrameType
from typing import Annotated, NoReturn

import typer

from worker.cli.context import context_of
from worker.cli.drift_report import report
from worker.core.errors import ConfigError

BROKER = typer.Option("--broker", metavar="HOST:PORT", help="Same as the setting kafka.brokers.")


def register(app: typer.Typer) -> None:
    """Add the commands ``drift``, ``drift accept`` and ``drift report``."""
    drift = typer.Typer(
        help="Watch for drift of what machines send from what the model was trained on.",
        invoke_without_command=True,
    )
    drift.callback()(watch)
    drift.command("accept")(accept)
    drift.command("report")(report)
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
    from worker.tracing import log_fields

    configure_logging(settings.log, also=log_fields(settings))
    run_drift_agent(settings)


def accept(
    context: typer.Context,
    note: Annotated[str, typer.Option("--note", help="Why, for whoever asks later.")],
    group: Annotated[
        str, typer.Option("--group", help="fleet, or a channel and its value: machine_type=L.")
    ] = "fleet",
    features: Annotated[
        str | None,
        typer.Option(
            "--features", metavar="A,B", help="Only these; what else changed stays watched."
        ),
    ] = None,
) -> None:
    """Accept the present drift of a group: its level is usual from now on, beside the training's.

    Closes what is open of the group. The model stays as it is; what it makes of the new level is
    not changed by this.
    """
    from worker.acceptance import features_of_open_events, publish_acceptance
    from worker.assets import asset_dir
    from worker.cluster import Cluster
    from worker.core.messages import DriftAcceptance
    from worker.models.bundle import load_bundle

    settings = context_of(context).settings()
    bundle = load_bundle(settings.worker.bundle, asset_dir("models"), threads=1)
    reference = bundle.require_reference()
    groups = reference.groups
    if group not in groups:
        raise ConfigError(
            f"--group: {bundle.model_version} knows no group {group!r}; write one of "
            f"{', '.join(groups)}."
        )
    chosen = None if features is None else [name.strip() for name in features.split(",")]
    for name in chosen or ():
        if name not in reference.columns:
            raise ConfigError(
                f"--features: {bundle.model_version} has no feature {name!r}; driftdetector "
                "reference show lists them."
            )
    acceptance = DriftAcceptance(
        group=group, accepted_at=datetime.now(UTC), features=chosen, note=note
    )
    with Cluster(settings) as cluster:
        drifted = features_of_open_events(cluster, group)
        if drifted is None:
            raise ConfigError(
                f"--group: no event of {group} is open in {settings.topics.drift_events}: there "
                "is nothing to accept."
            )
        if chosen is not None and not drifted & set(chosen):
            raise ConfigError(
                f"--features: none of them drifted in what is open of {group}: there is nothing "
                f"to accept; these did: {', '.join(sorted(drifted)) or 'all of them together'}."
            )
        origin = publish_acceptance(cluster, acceptance)
    of = "" if chosen is None else f"of {', '.join(chosen)} "
    typer.echo(
        f"{group}: the drift agent is told to take the present level {of}as usual, offset "
        f"{origin.offset} of partition {origin.partition} of {origin.topic}."
    )


def _end(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise typer.Exit
