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
) -> None:
    """Read sensor events, keep rolling aggregates, publish anomalies.

    Runs until SIGTERM or Ctrl-C; then it finishes the chunk in hand, commits, leaves the
    consumer group and exits 0. Start more of them, each with its own worker.instance_id,
    and they share the partitions. The topics must exist: see `driftdetector topics apply`.
    """
    signal.signal(signal.SIGTERM, _end)  # until the event loop takes over: nothing was read yet
    settings = context_of(context).settings({"kafka.brokers": broker} if broker else None)
    from worker.app import run_worker
    from worker.logs import configure_logging

    configure_logging(settings.log)
    run_worker(settings)


def _end(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise typer.Exit
