from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from worker.cli.health import check_health
from worker.cli.main import run
from worker.settings import HttpSettings


class Worker(ThreadingHTTPServer):
    """Answers /health with what a test wants."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.body = b'{"status": "healthy"}'
        self.delay_s = 0.0
        self.seen: list[tuple[str, str | None]] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    server: Worker

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["Authorization"]))
        time.sleep(self.server.delay_s)
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name)
        """Print nothing."""


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(5)


def test_a_healthy_worker_exits_0(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRIFTDETECTOR_HTTP__PORT", str(worker.port))
    assert run(["health"]) == 0
    assert capsys.readouterr().out == "healthy\n"
    assert worker.seen == [("/health", None)]


def test_the_token_is_sent_and_a_proxy_never_sees_it(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert check_health(HttpSettings(port=worker.port, token="t0k3n"), 3)[0]
    assert worker.seen == [("/health", "Bearer t0k3n")]


@pytest.mark.parametrize(
    ("status", "body", "line"),
    [
        (503, b'{"status": "starting"}', "unhealthy: starting"),
        (503, b'{"status": "stalled", "reason": "no step"}', "unhealthy: stalled: no step"),
        (200, b'{"status": "starting"}', "unhealthy: starting"),
        (200, b"{}", "unhealthy: None"),
        (200, b"[]", "unhealthy: no JSON object"),
        (500, b"oops", "unhealthy: no JSON answer"),
    ],
)
def test_anything_but_healthy_exits_1_with_one_line(
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: int,
    body: bytes,
    line: str,
) -> None:
    worker.status, worker.body = status, body
    monkeypatch.setenv("DRIFTDETECTOR_HTTP__PORT", str(worker.port))
    assert run(["health"]) == 1
    assert capsys.readouterr().out == f"{line}\n"


def test_a_refused_token_is_named(worker: Worker) -> None:
    worker.status = 401
    well, line = check_health(HttpSettings(port=worker.port), 3)
    assert not well
    assert "set http.token" in line


def test_no_worker_is_unhealthy() -> None:
    well, line = check_health(HttpSettings(port=1), 3)
    assert not well
    assert "does not answer" in line
    assert "\n" not in line


def test_a_worker_that_hangs_is_unhealthy_in_time(worker: Worker) -> None:
    worker.delay_s = 2.0
    started_s = time.monotonic()
    assert not check_health(HttpSettings(port=worker.port), 0.2)[0]
    assert time.monotonic() - started_s < 1.5


@pytest.mark.parametrize("host", ["0.0.0.0", "localhost", "127.0.0.1"])
def test_a_worker_on_all_addresses_is_asked_on_this_machine(worker: Worker, host: str) -> None:
    http = HttpSettings(host=host, port=worker.port, token="t")
    assert check_health(http, 3) == (True, "healthy")
