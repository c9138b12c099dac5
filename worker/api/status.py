"""The worker's own port: ``/health`` and ``/metrics``.

Bound to localhost by default; on any other address every request needs the token.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from worker.core.errors import ConfigError
from worker.metrics import TransportMetrics
from worker.settings import HttpSettings

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MAX_REQUEST_BYTES = 16_384


@dataclass
class Status:
    """What ``/health`` tells.

    Attributes:
        ready: whether every owned partition is restored and being read.
        stalled: what has stood still for too long; empty when nothing has.
    """

    ready: Callable[[], bool]
    stalled: Callable[[], str]
    model_version: str
    started_s: float

    def to_dict(self) -> dict[str, Any]:
        """The response body."""
        reason = self.stalled()
        status = "stalled" if reason else "healthy" if self.ready() else "starting"
        return {
            "status": status,
            **({"reason": reason} if reason else {}),
            "model_loaded": True,
            "model_version": self.model_version,
            "uptime_seconds": round(time.monotonic() - self.started_s, 3),
        }


class StatusServer:
    """Serves ``/health`` (200 when ready; 503 before, and when stalled) and ``/metrics``."""

    def __init__(self, settings: HttpSettings, status: Status, metrics: TransportMetrics) -> None:
        self._settings = settings
        self._status = status
        self._metrics = metrics
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str | None:
        """Where it listens, also if the settings leave the port to the system; None: nowhere."""
        if self._runner is None or not self._runner.addresses:
            return None
        host, port = self._runner.addresses[0][:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        app = web.Application(middlewares=[self._require_token], client_max_size=MAX_REQUEST_BYTES)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._render_metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._settings.host, self._settings.port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(
                f"http.port: cannot listen on {self._settings.host}:{self._settings.port}: "
                f"{error.strerror}; set another http.port (0 takes a free one) or http.host."
            ) from error

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _require_token(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        token = self._settings.token
        if token is not None:
            given = request.headers.get("Authorization", "")
            wanted = f"Bearer {token.get_secret_value()}"
            if not hmac.compare_digest(given.encode(), wanted.encode()):
                return web.json_response(
                    {"error": "send the header Authorization: Bearer <http.token>"},
                    status=401,
                    headers={"WWW-Authenticate": "Bearer"},
                )
        return await handler(request)

    async def _health(self, _request: web.Request) -> web.Response:
        body = self._status.to_dict()
        return web.json_response(body, status=200 if body["status"] == "healthy" else 503)

    async def _render_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )
