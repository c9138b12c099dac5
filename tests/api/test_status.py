"""The worker's own port, asked over real HTTP."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

import aiohttp
import pytest

from load.local_kafka import free_port
from worker.api.status import Status, StatusServer
from worker.core.errors import ConfigError
from worker.metrics import Metrics
from worker.settings import HttpSettings

Answer = tuple[int, dict[str, str], str]


def ask(
    settings: HttpSettings,
    path: str,
    headers: dict[str, str] | None = None,
    ready: Callable[[], bool] = lambda: True,
    stalled: str = "",
) -> Answer:
    async def request() -> Answer:
        status = Status(ready, lambda: stalled, "machine-health/1.0.0", time.monotonic() - 2.0)
        server = StatusServer(settings, status, Metrics())
        await server.start()
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{server.url}{path}", headers=headers) as answer,
            ):
                return answer.status, dict(answer.headers), await answer.text()
        finally:
            await server.stop()

    return asyncio.run(request())


def on_free_port(**more: str) -> HttpSettings:
    return HttpSettings(port=0, **more)


def test_health_is_200_once_the_partitions_are_restored() -> None:
    code, _, body = ask(on_free_port(), "/health")
    answer = json.loads(body)
    assert code == 200
    assert answer["status"] == "healthy"
    assert answer["model_loaded"] is True
    assert 2.0 <= answer["uptime_seconds"] < 60.0


def test_health_is_503_before() -> None:
    code, _, body = ask(on_free_port(), "/health", ready=lambda: False)
    assert code == 503
    assert json.loads(body)["status"] == "starting"


def test_health_is_503_with_the_reason_when_something_stands_still() -> None:
    code, _, body = ask(on_free_port(), "/health", stalled="the commit has not returned for 61 s")
    assert code == 503
    assert json.loads(body)["status"] == "stalled"
    assert json.loads(body)["reason"] == "the commit has not returned for 61 s"


def test_metrics_are_in_prometheus_text_format() -> None:
    code, headers, body = ask(on_free_port(), "/metrics")
    assert code == 200
    assert headers["Content-Type"].startswith("text/plain")
    assert "# TYPE events_scored_total counter" in body


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}, {"Authorization": "é"}],
)
@pytest.mark.parametrize("path", ["/health", "/metrics", "/else"])
def test_with_a_token_every_request_needs_it(path: str, headers: dict[str, str]) -> None:
    code, answered, body = ask(on_free_port(token="s3cret"), path, headers)
    assert code == 401
    assert answered["WWW-Authenticate"] == "Bearer"
    assert "s3cret" not in body


def test_the_token_opens_the_port() -> None:
    code, _, _ = ask(on_free_port(token="s3cret"), "/health", {"Authorization": "Bearer s3cret"})
    assert code == 200


def test_a_port_in_use_is_one_sentence() -> None:
    async def start_twice() -> None:
        settings = HttpSettings(port=free_port())
        status = Status(lambda: True, str, "v", 0.0)
        first = StatusServer(settings, status, Metrics())
        await first.start()
        try:
            await StatusServer(settings, status, Metrics()).start()
        finally:
            await first.stop()

    with pytest.raises(ConfigError, match=r"http\.port: cannot listen on 127\.0\.0\.1:\d+"):
        asyncio.run(start_twice())
