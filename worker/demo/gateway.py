"""The demo's gateway: publishes simulated events, never far ahead of the worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from worker.gateway import TICK_S, KafkaSink, Pace
from worker.simulator import Simulator, Truth

MAX_BACKLOG_BYTES = 4_000_000
"""Events that the worker has not processed; the embedded broker deletes beyond 5 MB a partition."""
MAX_STEP_EVENTS = 5_000
BACKLOG_PAUSE_S = 0.005
TRUTH_EVERY_S = 0.5


class Gateway:
    """Publishes until told to stop; see :class:`worker.gateway.Pace` for when.

    Args:
        rate: events a second of simulated time, to cut the stream into small steps.
        processed: number of published events that the worker is done with.

    Attributes:
        produced: events published.
        done_us: simulated time up to which they are.
        latest: the newest payload by machine, for display.
        truth: the faults until now, renewed every ``TRUTH_EVERY_S`` and at the end.
    """

    def __init__(
        self,
        simulator: Simulator,
        sink: KafkaSink,
        speed: float,
        rate: float,
        processed: Callable[[], int],
    ) -> None:
        self.produced = 0
        self.done_us = simulator.start_us
        self.latest: dict[bytes, bytes] = {}
        self.truth: Truth = simulator.truth()
        self._simulator = simulator
        self._sink = sink
        self._speed = speed
        self._longest_step_us = max(1, round(MAX_STEP_EVENTS / rate * 1e6))
        self._processed = processed
        self._bytes = 0
        self._stopping = threading.Event()

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """End :meth:`run` after the current step, once all is acknowledged."""
        self._stopping.set()

    def run(self) -> None:
        """Publish, on the calling thread, until :meth:`stop`.

        Raises:
            BrokerError: Kafka does not take the events.
        """
        pace = Pace(self._simulator.start_us, self._speed, self._longest_step_us)
        told_s = 0.0
        while not self._stopping.is_set():
            if self._backlog_bytes() > MAX_BACKLOG_BYTES:
                self._stopping.wait(BACKLOG_PAUSE_S)
                continue
            end_us, caught_up = pace.step(self.done_us)
            self._step(end_us)
            if time.monotonic() - told_s > TRUTH_EVERY_S:
                told_s = time.monotonic()
                self.truth = self._simulator.truth()
            if caught_up:
                self._stopping.wait(TICK_S)
        self.truth = self._simulator.truth()
        self._sink.close()

    def _step(self, end_us: int) -> None:
        events = self._simulator.advance(end_us)
        self._sink.send(events)
        self._bytes += sum(len(value) for _, value in events)
        self.latest.update(events[-2 * len(self._simulator.machine_ids) :])
        self.produced += len(events)
        self.done_us = end_us

    def _backlog_bytes(self) -> float:
        waiting = self.produced - self._processed()
        return waiting * self._bytes / max(self.produced, 1)
