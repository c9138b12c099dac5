"""``driftdetector demo``: simulated machines, Kafka and the worker, in one process."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from worker.cli.context import context_of
from worker.core.channels import US_PER_S, parse_duration_us

MAX_RANDOM_SEED = 1_000_000


def register(app: typer.Typer) -> None:
    """Add the command ``demo``."""
    app.command("demo")(demo)


def demo(
    context: typer.Context,
    duration: Annotated[
        str | None, typer.Option(help="How long to run, such as 30s. Default: until Ctrl-C.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the closing figures here (JSON).")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Decides machines and faults. Default: another every time."),
    ] = None,
    machines: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    interval: Annotated[
        str | None,
        typer.Option(help="Between two events of a machine. Default: six a pane, 10s or more."),
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(
            min=1.0,
            help="Simulated time per time, until it has caught up. Default: two days in 30s.",
        ),
    ] = None,
    broker: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="A real Kafka instead of the embedded broker."),
    ] = None,
    bundle: Annotated[
        str | None, typer.Option(metavar="NAME|PATH", help="Same as the setting worker.bundle.")
    ] = None,
    open_page: Annotated[
        bool | None,
        typer.Option("--open/--no-open", help="Show the live page. Default: on a desktop."),
    ] = None,
) -> None:
    """Watch simulated machines being scored; needs no Kafka.

    Simulated time begins two days ago, catches up with the clock and goes on with it.
    Machines have known faults, gateways send some events late and some garbage; the
    summary says what the worker made of it. Ctrl-C ends it in order, a second one at once.
    """
    duration_us = None if duration is None else parse_duration_us(duration, "--duration")
    interval_us = None if interval is None else parse_duration_us(interval, "--interval")
    shared = context_of(context)
    _, origins = shared.settings_with_origin()
    overrides: dict[str, Any] = {}
    for key in ("http.port", "serve.port"):
        if all(value.origin == "default" for value in origins if value.key == key):
            overrides[key] = 0
    if broker is not None:
        overrides["kafka.brokers"] = broker
    if bundle is not None:
        overrides["worker.bundle"] = bundle
    settings = shared.settings(overrides)

    from rich.console import Console

    console = Console()
    with console.status("Loading"):
        from worker.demo.session import Options, run_demo

    options = Options(
        real=broker is not None,
        seed=secrets.randbelow(MAX_RANDOM_SEED) if seed is None else seed,
        machines=machines,
        duration_s=None if duration_us is None else duration_us / US_PER_S,
        interval_us=interval_us,
        speed=speed,
        report=report,
        open_page=_has_desktop() if open_page is None else open_page,
    )
    run_demo(settings, options, console)


def _has_desktop() -> bool:
    """Whether somebody sits in front of a screen: elsewhere a browser would take the terminal."""
    is_linux = sys.platform not in ("darwin", "win32")
    return sys.stdout.isatty() and (
        not is_linux or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    )
