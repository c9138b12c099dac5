"""``driftdetector serve``: the HTTP service."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli.context import context_of


def register(app: typer.Typer) -> None:
    """Add the command ``serve``."""
    app.command("serve")(serve)


def serve(
    context: typer.Context,
    broker: Annotated[
        str | None,
        typer.Option("--broker", metavar="HOST:PORT", help="Same as the setting kafka.brokers."),
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Same as the setting serve.host.")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="Same as the setting serve.port.")
    ] = None,
) -> None:
    """Answer requests for predictions, machines, episodes and drift over HTTP.

    Runs until SIGTERM or Ctrl-C. It reads Kafka's output topics and the online store, and
    changes nothing of what workers do; start as many as you like, each with a port of its own.
    """
    given = {"kafka.brokers": broker, "serve.host": host, "serve.port": port}
    overrides = {key: value for key, value in given.items() if value is not None}
    settings = context_of(context).settings(overrides)
    from worker.api.service import run_api
    from worker.logs import configure_logging
    from worker.tracing import log_fields

    configure_logging(settings.log, also=log_fields(settings))
    run_api(settings)
