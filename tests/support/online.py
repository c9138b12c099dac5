"""Machines as a store has them, and a real Redis to have them in."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import redis

from load.local_kafka import free_port
from worker.online.machine import OnlineMachine, WindowStats


def machine(
    machine_id: str = "m-0001", score: float = 0.5, state: bytes = b"\x00\xff"
) -> OnlineMachine:
    """A machine with one channel that was read and one that never was."""
    return OnlineMachine(
        machine_id=machine_id,
        timestamp="2026-03-02T06:00:00.250000Z",
        written_at="2026-03-02T06:00:01.000000Z",
        model_version="made-up/1.0.0",
        anomaly_score=score,
        threshold=-0.25,
        confidence=0.75,
        experience=1.0,
        is_anomaly=score < -0.25,
        under_maintenance=False,
        values={"torque": 40.1, "speed": None},
        features={"torque": 40.1, "rolling_std_torque": 0.1},
        windows={
            "torque": WindowStats(3, 40.0, 0.1, 39.9, 40.1),
            "speed": WindowStats(0, None, None, None, None),
        },
        state=state,
    )


class RedisServer:
    """A Redis of a test's own, on a free port; without persistence."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self._folder = folder
        self._options = options
        self.process = self._start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """A client that waits for a second."""
        return redis.Redis.from_url(self.url, socket_timeout=1.0)

    def kill(self) -> None:
        """As by ``kill -9``."""
        self.process.kill()
        self.process.wait()

    def start_again(self) -> None:
        """On the same port, with nothing in it."""
        self.process = self._start()

    def pause(self) -> None:
        """It takes connections and bytes, and says nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on where it stood still."""
        self.process.send_signal(signal.SIGCONT)

    def _start(self) -> subprocess.Popen[bytes]:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "no", "--dir", str(self._folder), *self._options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until(lambda: _answers(self.client()))
        return process


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
    finally:
        client.close()


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Look again until it is so."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.02)
