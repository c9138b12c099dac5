"""A ``driftdetector worker`` as a process of its own, for tests and benchmarks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from load.local_kafka import free_port
from worker import topics
from worker.kafka_config import connect
from worker.settings import Settings, load_settings

STOP_S = 60.0
POLL_S = 0.05
PORTS = {"worker": "http", "drift": "drift", "serve": "serve"}
"""The section that has the port of each command's process."""


class WorkerProcess:
    """Starts a worker; on leaving the context ends it, with SIGTERM if it still runs.

    Args:
        settings: dotted keys, such as ``{"worker.app_id": "a"}``.
        log: file that its stderr is appended to, as text.
        module: what ``python -m`` runs; another one than the program's own for a test.
        command: its command: ``worker``, ``drift`` or ``serve``.
        name: what the caller knows it by.
    """

    def __init__(
        self,
        settings: Mapping[str, str],
        log: Path,
        module: str = "worker",
        *,
        command: str = "worker",
        name: str = "",
    ) -> None:
        self.name = name
        self.port = free_port()
        self.started_s = time.perf_counter()
        own = {"log.format": "text", f"{PORTS[command]}.port": str(self.port)}
        variables = _variables({**settings, **own})
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, command],
                env={**os.environ, **variables},
                stderr=stderr,
            )

    def metrics(self) -> dict[str, float]:
        """Sums over all labels by metric name; empty while the port does not answer."""
        sums: dict[str, float] = {}
        for name, value in re.findall(
            r"^(\w+)(?:\{.*\})? ([-\d.e+]+)$", self.get("/metrics"), re.MULTILINE
        ):
            sums[name] = sums.get(name, 0.0) + float(value)
        return sums

    def get(self, path: str) -> str:
        """The body of ``path`` on the worker's own port; empty while it does not answer."""
        body: str
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                body = answer.read().decode()
        except urllib.error.HTTPError as error:
            body = error.read().decode()
        except OSError:
            body = ""
        return body

    def wait_for_events(
        self, events: int, timeout_s: float, every_s: float = POLL_S
    ) -> list[tuple[float, dict[str, float]]]:
        """Watch the metrics until this process has applied ``events`` records.

        Args:
            events: how many.
            timeout_s: deadline.
            every_s: time between two looks; each takes the worker a few milliseconds.

        Returns:
            What was seen on the way, as (``perf_counter`` seconds, metrics).

        Raises:
            RuntimeError: the worker ended, or time is over.
        """
        samples = []
        deadline_s = time.perf_counter() + timeout_s
        while time.perf_counter() < deadline_s:
            if self.process.poll() is not None:
                raise RuntimeError(f"the worker ended with status {self.process.returncode}")
            samples.append((time.perf_counter(), self.metrics()))
            if samples[-1][1].get("events_processed_total", 0) >= events:
                return samples
            time.sleep(every_s)
        raise RuntimeError(f"the worker did not process {events} events in {timeout_s:.0f} s")

    def wait_until_healthy(self, timeout_s: float) -> None:
        """Wait until ``/health`` says so, which is after state is restored.

        Raises:
            RuntimeError: the worker ended, or time is over.
        """
        deadline_s = time.perf_counter() + timeout_s
        while '"healthy"' not in self.get("/health"):
            if self.process.poll() is not None:
                raise RuntimeError(f"the worker ended with status {self.process.returncode}")
            if time.perf_counter() > deadline_s:
                raise RuntimeError(f"the worker was not healthy within {timeout_s:.0f} s")
            time.sleep(POLL_S)

    def kill(self) -> None:
        """Kill it without a chance to react, as ``kill -9`` does."""
        self.process.kill()
        self.process.wait(STOP_S)

    def terminate(self) -> int:
        """Ask it to end; returns its exit status."""
        self.process.terminate()
        return self.process.wait(STOP_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            try:
                self.terminate()
            except subprocess.TimeoutExpired:
                self.kill()
                raise


def load(settings: Mapping[str, str]) -> Settings:
    """The settings as a worker process understands them."""
    return load_settings(None, _variables(settings))


def create_topics(
    settings: Mapping[str, str], configs: Mapping[str, Mapping[str, str]] | None = None
) -> None:
    """Create the declared topics, under the names that ``settings`` give them.

    Args:
        configs: topic settings, by declared name, that win over the declared ones.
    """
    loaded = load(settings)
    admin, metadata = connect(loaded.kafka, 30)
    declarations = {
        name: msgspec.structs.replace(
            declaration, config={**declaration.config, **(configs or {}).get(name, {})}
        )
        for name, declaration in topics.load_declarations().items()
    }
    planned = topics.plan(loaded, declarations, metadata)
    missing = [topic for topic in planned if topic.name not in metadata.topics]
    topics.create(admin, missing, 30, 1)


def _variables(settings: Mapping[str, str]) -> dict[str, str]:
    return {
        "DRIFTDETECTOR_" + key.upper().replace(".", "__"): value for key, value in settings.items()
    }
