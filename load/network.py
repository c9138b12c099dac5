"""A TCP proxy on 127.0.0.1 whose connections can be cut, held up and slowed.

Stands between clients and a broker: :class:`load.local_kafka.LocalKafka` has a second
listener that sends its clients here. docs/dependencies.md says why not Toxiproxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from load.local_kafka import HOST, free_port

T = TypeVar("T")

READ_BYTES = 65_536
CALL_S = 10.0


@dataclass(frozen=True)
class _Condition:
    """How the network is now; ``bytes_per_s`` 0: as fast as it can."""

    accepts: bool = True
    latency_s: float = 0.0
    bytes_per_s: int = 0


class Proxy:
    """Forwards connections to another local port; a context manager that starts and stops it.

    Methods may be called from any thread.

    Attributes:
        port: where it listens; fixed from the beginning.
        connections: how many were accepted so far.
        cut_connections: how many :meth:`cut` has broken.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.connections = 0
        self.cut_connections = 0
        self._target_port = 0
        self._condition = _Condition()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def forward_to(self, port: int) -> None:
        """Send connections from now on to ``port``."""
        self._target_port = port

    def cut(self) -> None:
        """Break every connection with a reset, and every new one until :meth:`mend`."""
        self._call(self._cut)

    def hold(self) -> None:
        """Let nothing through in either direction; connections stay open."""
        self._call(self._flowing.clear)

    def slow(self, latency_s: float, bytes_per_s: int) -> None:
        """Delay what passes, and let at most ``bytes_per_s`` through in each direction."""
        self._set(_Condition(latency_s=latency_s, bytes_per_s=bytes_per_s))

    def mend(self) -> None:
        """Make the network whole again; what was held up passes now."""
        self._set(_Condition())
        self._call(self._flowing.set)

    def __enter__(self) -> Self:
        """Listen."""
        self._thread.start()
        self._call(self._flowing.set)
        listening = asyncio.start_server(self._serve, HOST, self.port)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result(CALL_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close everything."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(CALL_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_S)
        self._loop.close()

    def _call(self, action: Callable[[], T]) -> T:
        async def run() -> T:
            return action()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(CALL_S)

    def _set(self, condition: _Condition) -> None:
        self._condition = condition

    def _cut(self) -> None:
        self._set(_Condition(accepts=False))
        self.cut_connections += len(self._writers) // 2  # each has one writer a side
        for writer in self._writers:
            _reset(writer)

    async def _close(self) -> None:
        self._server.close()
        self._cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            if not self._condition.accepts:
                _reset(writer)
                return
            self.connections += 1
            there = await asyncio.open_connection(HOST, self._target_port)
            pair = {writer, there[1]}
            self._writers |= pair
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pass(reader, there[1]))
                    both.create_task(self._pass(there[0], writer))
            finally:
                self._writers -= pair
        writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_BYTES):
                now = self._condition
                if now.latency_s or now.bytes_per_s:
                    await asyncio.sleep(now.latency_s + len(data) / (now.bytes_per_s or 1e12))
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        writer.close()  # which ends the other direction too


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    # Lingering for no time at all makes the kernel send a reset instead of an orderly end.
    with contextlib.suppress(OSError):  # the connection ended by itself just now
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
