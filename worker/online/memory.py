"""The online store within one process, for the demo and tests: nothing to run beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from worker.online.machine import OnlineMachine

TTL_S = 3_600.0


class MemoryStore:
    """Writer and reader at once; may be called from any thread.

    Args:
        ttl_s: machines that were not written for so long are forgotten.
        clock_s: seconds since the epoch.
    """

    def __init__(self, ttl_s: float = TTL_S, clock_s: Callable[[], float] = time.time) -> None:
        self._ttl_s = ttl_s
        self._clock_s = clock_s
        self._lock = threading.Lock()
        # In the order of writing, so that the oldest are first.
        self._machines: dict[str, tuple[float, OnlineMachine]] = {}

    def write(self, machines: Sequence[OnlineMachine]) -> None:
        """Replace the documents of these machines."""
        now_s = self._clock_s()
        with self._lock:
            for machine in machines:
                self._machines.pop(machine.machine_id, None)
                self._machines[machine.machine_id] = now_s, machine
            self._forget(now_s)

    async def get(self, machine_ids: Sequence[str]) -> list[OnlineMachine | None]:
        """Machines in the order asked for; None: not known, or not written for too long."""
        with self._lock:
            self._forget(self._clock_s())
            found = [self._machines.get(machine_id) for machine_id in machine_ids]
        return [None if entry is None else entry[1] for entry in found]

    async def changed(self, since_ms: int) -> list[str]:
        """Ids of the machines written since then (epoch milliseconds), latest last."""
        with self._lock:
            self._forget(self._clock_s())
            recent = []
            for machine_id in reversed(self._machines):
                if int(self._machines[machine_id][0] * 1000) < since_ms:
                    break
                recent.append(machine_id)
        return recent[::-1]

    def release(self) -> None:
        """There is no connection."""

    async def close(self) -> None:
        """There is no connection."""

    def _forget(self, now_s: float) -> None:
        while self._machines:
            oldest = next(iter(self._machines))
            if now_s - self._machines[oldest][0] < self._ttl_s:
                return
            del self._machines[oldest]
