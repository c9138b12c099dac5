"""``driftdetector token``: who may ask the HTTP service for what."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command ``token new``."""
    token = typer.Typer(help="Tokens of the HTTP service.", no_args_is_help=True)
    token.callback()(_group)
    token.command("new")(new)
    app.add_typer(token, name="token")


def _group() -> None:
    """Let ``new`` be a command of its own, although it is the only one."""


def new(
    name: Annotated[str, typer.Option("--name", help="Whose it is, for the log and the audit.")],
    scope: Annotated[
        list[str], typer.Option("--scope", help="read, predict or admin; may be given again.")
    ],
    file: Annotated[
        Path, typer.Option("--file", metavar="FILE", help="As in the setting serve.tokens_file.")
    ] = Path("tokens.toml"),
) -> None:
    """Make a token: print it once, and add its hash to the tokens file.

    The service reads the file when it starts. To withdraw a token, remove its entry and start
    the service anew.
    """
    from worker.api.security import SCOPES, Scope, add_token
    from worker.core.errors import ConfigError

    scopes: list[Scope] = [known for known in SCOPES if known in scope]
    for given in scope:
        if given not in SCOPES:
            raise ConfigError(f"--scope: {given!r} is no scope; write {', '.join(SCOPES)}.")
    typer.echo(add_token(file, name, scopes))
    typer.echo(f"Its hash is in {file}; the token itself is nowhere else.", err=True)
