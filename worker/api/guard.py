"""What keeps the HTTP service up whatever is sent to it: limits of rate, number, size and time.

Connections that send no request are :mod:`worker.api.server`'s.
"""

from __future__ import annotations

import asyncio

from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.api.metrics import ApiMetrics, Refusal
from worker.api.problems import Problem, problem_response
from worker.settings import ServeSettings

OPEN_PATHS = ("/health", "/ready")
"""Answered in any case, so that whoever watches the service does not end it for being busy."""

_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SECURE_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", _POLICY),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)


class Guard:
    """ASGI middleware around the whole service.

    Streams of events hold no place among the requests once they have begun; they have their
    own number.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: ApiMetrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._active = self._streams = 0
        self._rate = RateLimitItemPerSecond(settings.max_requests_per_s)
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        secured = _with_headers(send)
        if scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, secured)
        elif self._active >= self._settings.max_requests:
            await self._refuse("busy", 503, "too many requests at once", scope, receive, secured)
        elif scope["path"] == "/live" and self._streams >= self._settings.max_streams:
            await self._refuse("busy", 503, "too many live pages at once", scope, receive, secured)
        elif not self._limiter.hit(self._rate, _who(scope)):
            sentence = f"more than {self._settings.max_requests_per_s} requests a second"
            await self._refuse("rate", 429, sentence, scope, receive, secured)
        else:
            await self._serve(scope, receive, secured)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._active += 1
        streaming = False

        async def sending(message: Message) -> None:
            nonlocal streaming
            if message["type"] == "http.response.start" and not streaming:
                kind = Headers(raw=message["headers"]).get("content-type", "")
                if kind.startswith("text/event-stream"):
                    streaming = True
                    self._active -= 1
                    self._streams += 1
            await send(message)

        try:
            await self._app(scope, self._bounded(receive), sending)
        finally:
            if streaming:
                self._streams -= 1
            else:
                self._active -= 1

    def _bounded(self, receive: Receive) -> Receive:
        """Let a body be only so large, and take only so long."""
        settings = self._settings
        deadline_s = asyncio.get_running_loop().time() + settings.body_timeout_s
        size_bytes, complete = 0, False

        async def receiving() -> Message:
            nonlocal size_bytes, complete
            if complete:  # only the end of the connection can follow
                return await receive()
            try:
                async with asyncio.timeout_at(deadline_s):
                    message = await receive()
            except TimeoutError:
                self._metrics.on_refused("slow")
                sentence = f"the body did not arrive within {settings.body_timeout_s} s; try again"
                raise Problem(408, sentence, {"Connection": "close"}) from None
            size_bytes += len(message.get("body", b""))
            if size_bytes > settings.max_body_bytes:
                self._metrics.on_refused("large")
                sentence = f"the body has more than {settings.max_body_bytes} bytes; send less"
                raise Problem(413, sentence, {"Connection": "close"})
            complete = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        return receiving

    async def _refuse(
        self, why: Refusal, status: int, sentence: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._metrics.on_refused(why)
        answer = problem_response(status, f"{sentence}; try again", {"Retry-After": "1"})
        await answer(scope, receive, send)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            known = {name.lower() for name, _ in message["headers"]}
            more = [header for header in _SECURE_HEADERS if header[0] not in known]
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return sending


def _who(scope: Scope) -> str:
    """Whom a rate is counted for: its token, else its address."""
    client = scope.get("client")
    return Headers(scope=scope).get("authorization") or (client[0] if client else "")
