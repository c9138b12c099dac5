"""The HTTP service as tests need it: on a real socket, with or without tokens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from worker.api.app import create_api
from worker.api.server import ApiServer
from worker.api.service import Service
from worker.assets import asset_dir
from worker.models.bundle import Bundle, load_bundle
from worker.online.store import OnlineReader
from worker.settings import Settings

Serve = Callable[..., AbstractContextManager[str]]


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return load_bundle("machine-health", asset_dir("models"), threads=1)


@pytest.fixture(scope="session")
def serve(bundle: Bundle) -> Serve:
    """Serves on a free port meanwhile; gives its address."""

    @contextmanager
    def serving(
        reader: OnlineReader | None = None, tokens_file: Path | None = None, **more: Any
    ) -> Iterator[str]:
        section = {"port": 0, "tokens_file": tokens_file, **more}
        settings = Settings.model_validate({"serve": section})
        with running(create_api(settings, bundle, reader), settings) as url:
            yield url

    return serving


@contextmanager
def whole_service(bundle: Bundle, **section: Any) -> Iterator[str]:
    """Everything that `driftdetector serve` serves, without a Kafka; gives its address."""
    kafka = {"brokers": "127.0.0.1:1"}
    settings = Settings.model_validate({"serve": {"port": 0, **section}, "kafka": kafka})
    with serving_on_a_thread(lambda: Service(settings, bundle, None)) as url:
        yield url


def running(app: FastAPI, settings: Settings) -> AbstractContextManager[str]:
    """Serve an app; gives its address."""
    return serving_on_a_thread(lambda: ApiServer(app, settings.serve))


@contextmanager
def serving_on_a_thread(make: Callable[[], ApiServer | Service]) -> Iterator[str]:
    """Run a server on a loop of its own."""
    address: Future[str] = Future()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def run() -> None:
        try:
            server = make()
            await server.start()
        except BaseException as error:
            address.set_exception(error)
            raise
        assert server.url is not None
        address.set_result(server.url)
        await stop.wait()
        await server.stop()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    try:
        yield address.result(30)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()
