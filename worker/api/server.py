"""Runs the HTTP service on an event loop, its own or another's."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from worker.core.errors import ConfigError
from worker.settings import ServeSettings

IDLE_TIMEOUT_S = 10.0
"""A connection that has not sent a request's head by then is closed; after an answer the same."""
STOP_WITHIN_S = 5
BACKLOG = 2_048


class ApiServer:
    """Serves an app; to be started and stopped on the same loop."""

    def __init__(self, app: FastAPI, settings: ServeSettings) -> None:
        self._settings = settings
        self._socket: socket.socket | None = None
        self._running: asyncio.Task[None] | None = None
        config = uvicorn.Config(
            app,
            http=_ImpatientProtocol,
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(IDLE_TIMEOUT_S),
            timeout_graceful_shutdown=STOP_WITHIN_S,
            backlog=BACKLOG,
        )
        self._server = _Server(config)

    @property
    def url(self) -> str | None:
        """Where it listens, also if the settings leave the port to the system; None: nowhere."""
        if self._socket is None:
            return None
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def start(self) -> None:
        """Listen, and answer from now on.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        host, port = self._settings.host, self._settings.port
        try:
            family = (await asyncio.get_running_loop().getaddrinfo(host, port))[0][0]
            self._socket = socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as error:
            raise ConfigError(
                f"serve.port: cannot listen on {host}:{port}: {error.strerror}; set another "
                "serve.port (0 takes a free one) or serve.host."
            ) from error
        self._running = asyncio.create_task(self._server.serve([self._socket]))
        listening = asyncio.create_task(self._server.listening.wait())
        await asyncio.wait([self._running, listening], return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        if self._running.done():
            self._running.result()
            raise ConfigError("the HTTP service could not be started; its log says why.")

    async def stop(self) -> None:
        """Answer what was asked, then stop listening."""
        self._server.should_exit = True
        if self._running is not None:
            await self._running
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Server(uvicorn.Server):
    """Says when it listens, and leaves signals to whoever runs the loop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        self.listening.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None."""
        yield


class _ImpatientProtocol(HttpToolsProtocol):
    """Closes connections whose next request does not come; uvicorn waits for the first forever."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Bytes of a head have come; the rest has to come in time too."""
        super().on_message_begin()
        if self._deadline is None:
            self._wait()

    def on_headers_complete(self) -> None:
        """The head is there; from here on the app's own limits hold."""
        self._stop_waiting()
        super().on_headers_complete()

    def _wait(self) -> None:
        self._deadline = self.loop.call_later(IDLE_TIMEOUT_S, self._give_up)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.close()
