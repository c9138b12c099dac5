"""The command ``driftdetector``: global options, and errors as one sentence without a traceback."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from worker import __version__
from worker.cli.context import Context
from worker.core.errors import DriftDetectorError

COMMAND_MODULES = (
    "worker.cli.demo",
    "worker.cli.worker",
    "worker.cli.drift",
    "worker.cli.serve",
    "worker.cli.token",
    "worker.cli.reference",
    "worker.cli.config",
    "worker.cli.topics",
    "worker.cli.schemas",
    "worker.cli.letters",
    "worker.cli.maintenance",
    "worker.cli.doctor",
    "worker.cli.health",
    "worker.cli.simulate",
    "worker.cli.train",
    "worker.cli.record",
    "worker.cli.importing",
    "worker.cli.replay",
    "worker.cli.backtest",
    "worker.cli.explain",
)
"""Modules with ``register(app)``, in the order in which ``--help`` lists their commands."""


def create_app() -> typer.Typer:
    """Build the command line with every command registered."""
    app = typer.Typer(
        name="driftdetector",
        help="Score machine telemetry from Kafka with an ONNX model and publish anomalies.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_global_options)
    for module in COMMAND_MODULES:
        importlib.import_module(module).register(app)
    return app


def main() -> None:
    """Run the command line and exit the process with its status."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit status.

    Expected errors are printed in one line; Ctrl-C gives 130, as shells report it.
    """
    try:
        create_app()(args=arguments, prog_name="driftdetector")
    except DriftDetectorError as error:
        typer.echo(f"error: {error}", err=True)
        return error.exit_code
    except SystemExit as end:  # typer ends every command with one
        return end.code if isinstance(end.code, int) else 0
    return 0


def _print_version(given: bool) -> None:
    if given:
        typer.echo(f"driftdetector {__version__}")
        raise typer.Exit


def _global_options(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Settings file. Default: DRIFTDETECTOR_CONFIG, else ./driftdetector.toml if any.",
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    context.obj = Context(config_file=config)
