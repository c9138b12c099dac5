"""``driftdetector serve`` as a process: builds the service and runs it until told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal

import uvloop

from worker.api.app import create_api
from worker.api.server import ApiServer
from worker.assets import asset_dir
from worker.models.bundle import load_bundle
from worker.settings import Settings

log = logging.getLogger(__name__)


def run_api(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        DriftDetectorError: it could not start.
    """
    uvloop.run(_run(settings))


async def _run(settings: Settings) -> None:
    # One reading at a time does not gain by threads, and several would wait for each other.
    bundle = load_bundle(settings.worker.bundle, asset_dir("models"), threads=1)
    server = ApiServer(create_api(settings, bundle), settings.serve)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await server.start()
    log.info("ready: %s with %s", server.url, bundle.model_version)
    await stop.wait()
    await server.stop()
    log.info("stopped")
