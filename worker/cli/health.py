"""``driftdetector health``: ask this machine's worker whether it is well."""

from __future__ import annotations

import json
from typing import Annotated
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

import typer

from worker.cli.context import context_of
from worker.settings import HttpSettings


def register(app: typer.Typer) -> None:
    """Add the command ``health``."""
    app.command("health")(health)


def health(
    context: typer.Context,
    timeout_s: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="How long to wait.")
    ] = 3.0,
    drift: Annotated[
        bool, typer.Option("--drift", help="Ask the drift agent instead of the worker.")
    ] = False,
) -> None:
    """Ask the local worker's /health; exit 0 when it is healthy, else 1. For container checks."""
    settings = context_of(context).settings()
    http = settings.of_drift_agent().http if drift else settings.http
    well, sentence = check_health(http, timeout_s)
    typer.echo(sentence)
    raise typer.Exit(0 if well else 1)


def check_health(http: HttpSettings, timeout_s: float) -> tuple[bool, str]:
    """Ask ``/health`` once.

    Returns:
        Whether its status is ``healthy``, and one line for a person.
    """
    url = f"http://{_reachable_host(http.host)}:{http.port}/health"
    request = Request(url)
    if http.token is not None:
        request.add_header("Authorization", f"Bearer {http.token.get_secret_value()}")
    try:
        # A proxy from the environment must not see the token, nor stand between us and ourselves.
        with build_opener(ProxyHandler({})).open(request, timeout=timeout_s) as response:
            body = response.read(65_536)
    except HTTPError as error:
        body = error.read(65_536)
        if error.code in (401, 403):
            return False, f"unhealthy: {url} refuses the token; set http.token as the worker has it"
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        return False, f"unhealthy: {url} does not answer ({reason}); is the worker running?"
    status = _status(body)
    return status == "healthy", status if status == "healthy" else f"unhealthy: {status}"


def _reachable_host(host: str) -> str:
    if host in ("0.0.0.0", ""):  # noqa: S104 (a comparison)
        return "127.0.0.1"
    if host in ("::", "[::]"):
        return "[::1]"
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _status(body: bytes) -> str:
    try:
        document = json.loads(body)
    except ValueError:
        return "no JSON answer"
    if not isinstance(document, dict):
        return "no JSON object"
    reason = f": {document['reason']}" if "reason" in document else ""
    return f"{document.get('status')}{reason}"
