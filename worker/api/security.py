"""Who may ask for what: bearer tokens with scopes, from a file that holds only their hashes."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import tomllib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import tomli_w
from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker.api.problems import Problem
from worker.core.errors import ConfigError

Scope = Literal["read", "predict", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
LOCAL = "local"
"""Name of whoever asks where no tokens are needed."""

_bearer = HTTPBearer(
    auto_error=False,
    description="A token of `serve.tokens_file`; `driftdetector token new` makes one.",
)


class Token(BaseModel):
    """One entry of the file.

    Attributes:
        sha256: of the token, in hexadecimal digits.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._@-]+$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    scopes: tuple[Scope, ...] = Field(min_length=1)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    token: list[Token] = Field(default_factory=list)


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        name: of its token.
    """

    name: str
    scopes: frozenset[Scope]


class Access:
    """Decides who may do what.

    Args:
        tokens: that are valid; None: everybody may do everything, as only this machine can ask.
    """

    def __init__(self, tokens: Sequence[Token] | None) -> None:
        self._tokens = tokens

    def caller(self, token: str | None) -> Caller:
        """Who sent a token.

        Raises:
            Problem: nobody whom the file names.
        """
        if self._tokens is None:
            return Caller(LOCAL, frozenset(SCOPES))
        digest = hashlib.sha256((token or "").encode()).hexdigest()
        found: Token | None = None
        for known in self._tokens:  # all of them, so that time tells nothing of a match
            if hmac.compare_digest(known.sha256, digest):
                found = known
        if token is None or found is None:
            sentence = "is missing" if token is None else "is not valid"
            raise Problem(
                401,
                f"the token {sentence}; send the header Authorization: Bearer TOKEN with one that "
                "`driftdetector token new` made",
                {"WWW-Authenticate": "Bearer"},
            )
        return Caller(found.name, frozenset(found.scopes))


def require(scope: Scope) -> Callable[..., Awaitable[Caller]]:
    """A dependency that lets only callers with a scope through, and says who it is."""

    # Waits for nothing; but what is not async would go to a thread, which takes longer.
    async def allowed(
        request: Request,
        given: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)] = None,
    ) -> Caller:
        access: Access = request.app.state.access
        caller = access.caller(None if given is None else given.credentials)
        if scope not in caller.scopes:
            raise Problem(
                403,
                f"the token {caller.name!r} lacks the scope {scope!r}; use another one, or make "
                f"one with `driftdetector token new --scope {scope}`",
                {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
            )
        return caller

    return allowed


def read_tokens(path: Path) -> list[Token]:
    """The entries of a tokens file.

    Raises:
        ConfigError: it cannot be read, or says something else.
    """
    try:
        tokens = _File.model_validate(tomllib.loads(path.read_text("utf-8"))).token
    except OSError as error:
        raise ConfigError(
            f"serve.tokens_file: {path} cannot be read: {error.strerror}; make it with "
            f"`driftdetector token new --file {path}`."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"serve.tokens_file: {path}, {place}: {first['msg']}; each [[token]] has name, sha256 "
            "and scopes, as `driftdetector token new` writes it."
        ) from error
    except ValueError as error:
        raise ConfigError(f"serve.tokens_file: {path} is not TOML: {error}.") from error
    names = [token.name for token in tokens]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"serve.tokens_file: {path} has two tokens {twice!r}; rename one.")
    return tokens


def add_token(path: Path, name: str, scopes: Sequence[Scope]) -> str:
    """Make a token and add its hash to a file, which is made where it is missing.

    Returns:
        The token, which is nowhere else.

    Raises:
        ConfigError: the name is taken or not allowed, or the file cannot be read or written.
    """
    tokens = read_tokens(path) if path.exists() else []
    if any(token.name == name for token in tokens):
        raise ConfigError(f"--name: {path} has a token {name!r} already; write another name.")
    secret = secrets.token_urlsafe(32)
    try:
        new = Token(
            name=name, sha256=hashlib.sha256(secret.encode()).hexdigest(), scopes=tuple(scopes)
        )
    except ValidationError as error:
        raise ConfigError(
            f"--name: {name!r} is not allowed; write letters, digits and . _ @ - only."
        ) from error
    entries = [token.model_dump() for token in [*tokens, new]]
    partial = path.with_name(f"{path.name}.part")
    try:
        partial.touch(mode=0o600)
        partial.write_text(tomli_w.dumps({"token": entries}), "utf-8")
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"--file: {path} cannot be written: {error.strerror}.") from error
    return secret
