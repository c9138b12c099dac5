"""``make bench-predict``: predictions a second, and how long one takes, from a real service.

Starts ``driftdetector serve`` as a process and asks it over loopback, by plain sockets so that
the asking costs little: as fast as a few connections can, at a steady rate, in batches, and
for ``/health`` as what HTTP alone costs. Latency at a steady rate is counted from when a
request was due, so that waiting for an answer hides no later one. Where redis-server is
installed, the machines' past is read from a real Redis as well.

Writes build/bench-predict.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from load.benchmark import stage
from load.feed import Event
from load.local_kafka import free_port
from load.records import wait_until
from load.worker_process import WorkerProcess
from worker.assets import asset_dir
from worker.core.channels import US_PER_S
from worker.core.events import Chunk
from worker.core.latest import LatestEvents
from worker.core.messages import format_time_us
from worker.core.state import PartitionState
from worker.models.bundle import Bundle, load_bundle
from worker.online.machine import machines_of
from worker.online.redis_store import RedisWriter
from worker.settings import Settings
from worker.simulator import Simulator

BUILD = Path("build")
CONNECTIONS = 8
STEADY_PER_S = 200
BATCH = 100
MACHINES = 1_000
START_S = 60.0


class Connection:
    """One kept-alive connection."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def open(self) -> None:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)

    async def ask(self, request: bytes) -> None:
        """Send a request and read its answer, which must be 200."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"answered {head.splitlines()[0]!r}")
        length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        await self._reader.readexactly(length)


async def fastest(port: int, requests: list[bytes], seconds: float) -> dict[str, float]:
    """Requests a second over ``CONNECTIONS`` connections, and their latency in ms."""
    times_ms: list[float] = []
    end_s = time.perf_counter() + seconds

    async def run(number: int) -> None:
        connection = Connection(port)
        await connection.open()
        at = number
        while (begun_s := time.perf_counter()) < end_s:
            await connection.ask(requests[at % len(requests)])
            times_ms.append((time.perf_counter() - begun_s) * 1e3)
            at += CONNECTIONS

    await asyncio.gather(*(run(number) for number in range(CONNECTIONS)))
    return {"per_s": len(times_ms) / seconds, **_quantiles(times_ms)}


async def steady(
    port: int, requests: list[bytes], per_s: float, seconds: float
) -> dict[str, float]:
    """Latency in ms at a steady rate, from when each request was due."""
    idle: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(64):
        connection = Connection(port)
        await connection.open()
        idle.put_nowait(connection)
    times_ms: list[float] = []
    begun_s = time.perf_counter()

    async def one(number: int, due_s: float) -> None:
        connection = await idle.get()
        await connection.ask(requests[number % len(requests)])
        times_ms.append((time.perf_counter() - due_s) * 1e3)
        idle.put_nowait(connection)

    tasks = []
    for number in range(int(per_s * seconds)):
        due_s = begun_s + number / per_s
        if (wait_s := due_s - time.perf_counter()) > 0.0:
            await asyncio.sleep(wait_s)
        tasks.append(asyncio.create_task(one(number, due_s)))
    await asyncio.gather(*tasks)
    return {"per_s": len(times_ms) / (time.perf_counter() - begun_s), **_quantiles(times_ms)}


def _quantiles(times_ms: list[float]) -> dict[str, float]:
    ordered = sorted(times_ms)
    at = {"median_ms": 0.5, "p99_ms": 0.99, "worst_ms": 1.0}
    return {name: ordered[math.ceil(q * len(ordered)) - 1] for name, q in at.items()}


def request(method: str, path: str, body: bytes = b"") -> bytes:
    """A request as it goes over the wire."""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A Redis of its own; gives its URL."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--save", "", "--dir", str(folder)]
    with (folder / "redis.log").open("wb") as log, subprocess.Popen(command, stdout=log) as process:
        try:
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()


def fill(url: str, bundle: Bundle) -> None:
    """Let a Redis have the past of ``MACHINES`` machines, as a worker would write it."""
    spec, end_us = bundle.spec, time.time_ns() // 1_000
    sent, _ = simulated(bundle, end_us)
    chunk = Chunk(
        "sensor-events",
        0,
        np.arange(len(sent)),
        np.full(len(sent), end_us // 1_000),
        [key for key, _ in sent],
        [value for _, value in sent],
    )
    state, latest = PartitionState(spec), LatestEvents(spec)
    for scored in bundle.pipeline().step(state, chunk).scored_events:
        latest.note(scored)
    known = latest.take(state, MACHINES)
    writer = RedisWriter(Settings.model_validate({"online": {"url": url}}))
    writer.write(machines_of(spec, bundle.model_version, known, format_time_us(end_us)))
    writer.release()


def simulated(bundle: Bundle, end_us: int) -> tuple[list[Event], list[Event]]:
    """An hour of every machine, and its next event."""
    start_us = end_us - 3_600 * US_PER_S
    simulator = Simulator(bundle.spec, machines=MACHINES, start_us=start_us, interval_s=60.0)
    return (
        list(simulator.advance(end_us - 60 * US_PER_S)),
        list(simulator.advance(end_us)),
    )


async def measure(port: int, readings: list[bytes], seconds: float) -> dict[str, dict[str, float]]:
    """All figures of one service."""
    singles = [request("POST", "/predict", reading) for reading in readings]
    together = b'{"readings":[' + b",".join(readings[:BATCH]) + b"]}"
    batches = [request("POST", "/predict/batch", together)]
    await fastest(port, singles, 1.0)  # warm
    health = [request("GET", "/health")]
    return {
        "/health, as fast as it goes": await fastest(port, health, seconds),
        "/predict, as fast as it goes": await fastest(port, singles, seconds),
        f"/predict at {STEADY_PER_S}/s": await steady(port, singles, STEADY_PER_S, seconds),
        f"/predict/batch of {BATCH} at 5/s": await steady(port, batches, 5.0, seconds),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="for each figure")
    seconds = parser.parse_args().seconds
    BUILD.mkdir(exist_ok=True)
    bundle = load_bundle("machine-health", asset_dir("models"), threads=1)
    found: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        _, following = simulated(bundle, time.time_ns() // 1_000)
        readings = [value for _, value in following]
        settings = {"kafka.brokers": "127.0.0.1:1"}
        with stage("the request alone"):
            found["the request alone"] = serve(settings, readings, seconds)
        if shutil.which("redis-server"):
            url = stack.enter_context(redis_server(Path(folder)))
            time.sleep(1.0)
            fill(url, bundle)
            with stage("the past from Redis"):
                found["the past from Redis"] = serve(
                    {**settings, "online.url": url}, readings, seconds
                )
    report(found)


def serve(
    settings: dict[str, str], readings: list[bytes], seconds: float
) -> dict[str, dict[str, float]]:
    """Measure a service with these settings."""
    with WorkerProcess(settings, BUILD / "bench-predict.log", command="serve") as service:
        wait_until(lambda: bool(service.get("/health")), "the service answers", START_S)
        return asyncio.run(measure(service.port, readings, seconds))


def report(found: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print the table and write the JSON file."""
    table = Table(title=f"driftdetector serve, one process, {CONNECTIONS} connections")
    for column in ("past", "request", "a second", "median ms", "p99", "worst"):
        table.add_column(column, justify="left" if column in ("past", "request") else "right")
    for past, rows in found.items():
        for name, own in rows.items():
            shown = [f"{own['per_s']:,.0f}"]
            shown += [f"{own[key]:.1f}" for key in ("median_ms", "p99_ms", "worst_ms")]
            table.add_row(past, name, *shown)
    Console().print(table)
    path = BUILD / "bench-predict.json"
    path.write_text(json.dumps({"rows": found}, indent=2) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
