"""``driftdetector serve`` as a process: builds the service and runs it until told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import AsyncExitStack

import uvloop

from worker.api.app import create_api
from worker.api.audit import Auditor
from worker.api.fleet import Fleet
from worker.api.live import Gatherer, Introduction
from worker.api.routes import acknowledging_route, page_routes, read_routes
from worker.api.server import ApiServer
from worker.assets import asset_dir
from worker.models.bundle import Bundle, load_bundle
from worker.online.redis_store import RedisReader
from worker.online.store import OnlineReader
from worker.settings import Settings

log = logging.getLogger(__name__)


class Service:
    """The whole HTTP service: predictions, the fleet, and the page; on the running event loop.

    Args:
        reader: of the online store; None: there is none.

    Raises:
        ConfigError: the tokens file cannot be used.
    """

    def __init__(self, settings: Settings, bundle: Bundle, reader: OnlineReader | None) -> None:
        names = tuple(channel.name for channel in bundle.spec.continuous)
        self._gatherer = Gatherer(settings, reader, Fleet(names))
        self._auditor = Auditor(settings)
        self._reader = reader
        self._open = AsyncExitStack()
        introduction = Introduction.of(bundle.spec, bundle.model_version, bundle.framework)
        routers = (
            read_routes(self._gatherer, introduction),
            acknowledging_route(self._gatherer, self._auditor),
            page_routes(),
        )
        app = create_api(settings, bundle, reader, routers, self._gatherer.checks())
        self._server = ApiServer(app, settings.serve)

    @property
    def url(self) -> str:
        """Where it listens; empty: nowhere."""
        return self._server.url or ""

    async def start(self) -> None:
        """Gather and answer from now on.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        async with AsyncExitStack() as stack:
            stack.callback(self._auditor.close)
            if self._reader is not None:
                stack.push_async_callback(self._reader.close)
            await stack.enter_async_context(self._gatherer.running())
            await self._server.start()
            stack.push_async_callback(self._server.stop)
            stack.callback(self._gatherer.end_streams)
            self._open = stack.pop_all()

    async def stop(self) -> None:
        """Answer what was asked, end the streams of events, then give everything up."""
        await self._open.aclose()


def run_api(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        DriftDetectorError: it could not start.
    """
    uvloop.run(_run(settings))


async def _run(settings: Settings) -> None:
    # One reading at a time does not gain by threads, and several would wait for each other.
    bundle = load_bundle(settings.worker.bundle, asset_dir("models"), threads=1)
    reader = None if settings.online.url is None else RedisReader(settings)
    service = Service(settings, bundle, reader)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await service.start()
    log.info("ready: %s with %s", service.url, bundle.model_version)
    await stop.wait()
    await service.stop()
    log.info("stopped")
