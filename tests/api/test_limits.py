"""What keeps the service up: sizes, rates, numbers and times, on a real socket."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from tests.api.conftest import Serve, running
from worker.api import server
from worker.api.app import create_api
from worker.models.bundle import Bundle
from worker.settings import Settings

IDLE_CONNECTIONS = 1_000


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_TIMEOUT_S", 1.0)


def connect(url: str) -> socket.socket:
    place = urlsplit(url)
    return socket.create_connection((place.hostname, place.port), timeout=10)


def read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65_536):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_a_body_that_is_too_large_is_refused_before_it_is_read(serve: Serve, path: str) -> None:
    with serve(max_body_bytes=2_048) as url:
        told = httpx.post(url + path, content=b"x" * 2_049)
        streamed = httpx.post(url + path, content=(b"x" * 100 for _ in range(40)))
        fits = httpx.post(url + path, content=b"x" * 2_048)
    assert (told.status_code, streamed.status_code, fits.status_code) == (413, 413, 422)
    sentence = "the body has more than 2048 bytes; send less"
    assert told.json()["detail"] == streamed.json()["detail"] == sentence


def test_a_body_that_does_not_arrive_is_given_up(serve: Serve) -> None:
    with serve(body_timeout_s=1) as url, connect(url) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        started_s = time.monotonic()
        answer = read_all(slow)
        assert 0.5 < time.monotonic() - started_s < 10.0
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"did not arrive within 1 s" in answer
        metrics = httpx.get(url + "/metrics").text
    assert 'http_requests_refused_total{reason="slow"} 1.0' in metrics


@pytest.mark.parametrize("sent", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: a\r\n"])
def test_a_request_that_never_begins_is_cut(serve: Serve, sent: bytes) -> None:
    with serve() as url, connect(url) as idle:
        idle.sendall(sent)
        assert read_all(idle) == b""


def test_a_second_request_that_never_comes_is_cut_too(serve: Serve) -> None:
    with serve() as url, connect(url) as idle:
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /health HT")
        assert read_all(idle).count(b"HTTP/1.1 200 OK") == 1


def test_garbage_is_answered_or_cut_and_the_service_goes_on(serve: Serve) -> None:
    with serve() as url:
        for garbage in (b"\x00" * 100, b"GET / HTTP/9\r\n\r\n", b"GET /" + b"a" * 200_000):
            with connect(url) as connection:
                try:
                    connection.sendall(garbage)
                    assert b"200 OK" not in read_all(connection)
                except ConnectionError:
                    pass
        assert httpx.get(url + "/health").status_code == 200


def test_a_thousand_idle_connections_hinder_nobody(serve: Serve) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * IDLE_CONNECTIONS + 500
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    connections: list[socket.socket] = []
    try:
        with serve() as url:
            connections += [connect(url) for _ in range(IDLE_CONNECTIONS)]
            assert httpx.get(url + "/health").status_code == 200
            # All of them are cut in the end.
            assert {read_all(connection) for connection in connections} == {b""}
    finally:
        for connection in connections:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_who_asks_too_often_is_told_to_wait_and_others_are_not(serve: Serve) -> None:
    with serve(max_requests_per_s=5) as url:
        answers = [httpx.get(url + "/metrics") for _ in range(12)]
        other = httpx.get(url + "/metrics", headers={"Authorization": "Bearer other"})
        health = httpx.get(url + "/health")
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert answers[0].status_code == 200
    assert refused[0].headers["retry-after"] == "1"
    assert "more than 5 requests a second" in refused[0].json()["detail"]
    assert (other.status_code, health.status_code) == (200, 200)


@pytest.fixture
def waiting(bundle: Bundle) -> Iterator[str]:
    """A service that answers two requests at once, and has one that takes long."""
    settings = Settings.model_validate({"serve": {"port": 0, "max_requests": 2}})
    app = create_api(settings, bundle)

    @app.get("/wait")
    async def wait() -> dict[str, int]:
        await asyncio.sleep(1.5)
        return {}

    with running(app, settings) as url:
        yield url


def test_more_requests_at_once_than_are_allowed_are_refused(waiting: str) -> None:
    async def ask() -> list[int]:
        async with httpx.AsyncClient(base_url=waiting) as client:
            long = [asyncio.create_task(client.get("/wait")) for _ in range(2)]
            await asyncio.sleep(0.5)
            busy, health = await client.get("/metrics"), await client.get("/health")
            done = [answer.status_code for answer in await asyncio.gather(*long)]
            after = await client.get("/metrics")
        assert "too many requests at once" in json.loads(busy.content)["detail"]
        return [busy.status_code, health.status_code, after.status_code, *done]

    assert asyncio.run(ask()) == [503, 200, 200, 200, 200]
