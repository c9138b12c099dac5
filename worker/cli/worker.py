"""``driftdetector worker``: score the events of a Kafka cluster."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Annotated, NoReturn

import typer

from worker.cli.context import context_of


def register(app: typer.Typer) -> None:
    """Add the command ``worker``."""
    app.command("worker")(worker)


def worker(
    context: typer.Context,
    broker: Annotated[
        str | None,
        typer.Option("--broker", metavar="HOST:PORT", help="Same as the setting kafka.brokers."),
    ] = None,
    rebuild_state: Annotated[
        bool,
        typer.Option(
            "--rebuild-state",
            help="Compute the state anew from the input topic, while no worker is up, and exit.",
        ),
    ] = False,
) -> None:
    """Read sensor events, keep rolling aggregates, publish anomalies.

    Runs until SIGTERM or Ctrl-C; then it finishes the chunk in hand, commits, leaves the
    consumer group and exits 0. Start more of them, each with its own worker.instance_id,
    and they share the partitions. The topics must exist: see `driftdetector topics apply`.

    With --rebuild-state it replaces the rows of the changelog by what the events up to the
    committed offsets give, partition by partition, each in one transaction. For state that
    a worker refuses to read; interrupted, it is run again.
    """
    signal.signal(signal.SIGTERM, _end)  # until the event loop takes over: nothing was read yet
    settings = context_of(context).settings({"kafka.brokers": broker} if broker else None)
    from worker.logs import configure_logging
    from worker.tracing import log_fields

    configure_logging(settings.log, also=log_fields(settings))
    if rebuild_state:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # cut short is not done
        from worker.cli.rebuild import rebuild

        rebuild(settings)
        return
    from worker.app import run_worker

    run_worker(settings)


def _end(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise typer.Exit
