"""Keeps worker processes running, as an orchestrator does: one that ends is started again."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from load.worker_process import WorkerProcess

LOOK_EVERY_S = 0.05
RESTART_AFTER_S = 0.2


class Exit(NamedTuple):
    """A worker that ended without being asked to; ``status`` as subprocess gives it."""

    instance_id: str
    status: int
    last_line: str


class Fleet:
    """A set of workers of one application; a context manager that ends them all.

    Args:
        settings: of every worker, but for its instance id.
        folder: for their logs, one file an instance.

    Attributes:
        starts: processes started so far.
        exits: workers that ended by themselves, and were started again.
    """

    def __init__(self, settings: Mapping[str, str], folder: Path) -> None:
        self.starts = 0
        self.exits: list[Exit] = []
        self._settings = settings
        self._folder = folder
        self._members: dict[str, WorkerProcess] = {}
        self._killed: set[int] = set()
        self._frozen: list[WorkerProcess] = []
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="fleet", daemon=True)

    @property
    def instance_ids(self) -> list[str]:
        """Of the workers that should be running."""
        with self._lock:
            return sorted(self._members)

    def worker(self, instance_id: str) -> WorkerProcess:
        """The instance's present process."""
        with self._lock:
            return self._members[instance_id]

    def grow(self) -> str:
        """Start a worker under the lowest instance id that no process has."""
        with self._lock:
            taken = {*self._members, *(worker.name for worker in self._frozen)}
            instance_id = next(str(n) for n in range(100) if str(n) not in taken)
            self.start(instance_id)
            return instance_id

    def start(self, instance_id: str) -> None:
        """Start a worker, whether or not a frozen process has the same instance id."""
        with self._lock:
            self.starts += 1
            settings = {**self._settings, "worker.instance_id": instance_id}
            log = self.log_path(instance_id)
            self._members[instance_id] = WorkerProcess(settings, log, name=instance_id)

    def log_path(self, instance_id: str) -> Path:
        """Where an instance's processes log to."""
        return self._folder / f"worker-{instance_id}.log"

    def shrink(self, instance_id: str) -> int:
        """End a worker in order; returns its exit status."""
        with self._lock:
            worker = self._members.pop(instance_id)
        return worker.terminate()

    def kill(self, instance_id: str) -> None:
        """Kill a worker's process; it is started again like any that ends."""
        with self._lock:
            process = self._members[instance_id].process
            self._killed.add(process.pid)
            process.kill()

    def freeze(self, instance_id: str) -> WorkerProcess:
        """Stop a process without ending it; it is no longer a member, nor started again."""
        with self._lock:
            worker = self._members.pop(instance_id)
            self._frozen.append(worker)
            worker.process.send_signal(signal.SIGSTOP)
            return worker

    def thaw(self, worker: WorkerProcess, timeout_s: float) -> int | None:
        """Let a frozen process go on; returns its exit status, None when it does not end."""
        worker.process.send_signal(signal.SIGCONT)
        deadline_s = time.monotonic() + timeout_s
        while worker.process.poll() is None and time.monotonic() < deadline_s:
            time.sleep(LOOK_EVERY_S)
        status = worker.process.poll()
        if status is None:
            worker.kill()
        with self._lock:
            self._frozen.remove(worker)
        return status

    def __enter__(self) -> Self:
        """Start to supervise."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Kill whatever still runs."""
        self._stopping.set()
        self._thread.join()
        for worker in [*self._members.values(), *self._frozen]:
            worker.kill()

    def _supervise(self) -> None:
        while not self._stopping.wait(LOOK_EVERY_S):
            with self._lock:
                ended = [
                    (instance_id, worker)
                    for instance_id, worker in self._members.items()
                    if worker.process.poll() is not None
                ]
            for instance_id, worker in ended:
                self._restart(instance_id, worker)

    def _restart(self, instance_id: str, worker: WorkerProcess) -> None:
        if worker.process.pid not in self._killed:
            lines = self.log_path(instance_id).read_text(errors="replace").splitlines()
            self.exits.append(Exit(instance_id, worker.process.returncode, lines[-1]))
        time.sleep(RESTART_AFTER_S)
        with self._lock:
            if self._members.get(instance_id) is worker:
                self.start(instance_id)
