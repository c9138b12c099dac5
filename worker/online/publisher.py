"""Writing machines to an online store, on a thread of its own, at a bounded share of the CPU.

Python runs one thread at a time, so what this one takes the processor waits for. After
each piece of work it rests for a multiple of the time that the piece took: whatever the number of
machines, scoring keeps its throughput, and with very many of them each is written less often.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from worker.core.errors import OnlineStoreError
from worker.core.latest import Latest, LatestEvents
from worker.online.machine import OnlineMachine
from worker.online.metrics import OnlineMetrics
from worker.online.store import OnlineWriter

log = logging.getLogger(__name__)

PIECE = 64
"""Machines written at once: a few milliseconds, for which others may wait."""
REST = 24.0
"""So many times as long as it worked the thread rests: it takes at most 4 % of a core."""
LONGEST_PAUSE_S = 10.0
"""Between two attempts to reach a store that is down."""
STOP_S = 5.0

Describe = Callable[[Latest, float], Sequence[OnlineMachine]]
"""Makes the documents of machines; the second argument is the time, in seconds since 1970."""


@dataclass(frozen=True)
class Batch:
    """Machines of one partition.

    Attributes:
        source: where they were taken from, and are given back to if nothing comes of it.
    """

    source: LatestEvents
    latest: Latest


class OnlinePublisher:
    """Takes a batch at a time, from one thread, and asks for the next when it has rested.

    Args:
        writer: the store; released at the end.
        describe: makes documents.
        interval_s: the shortest time between two batches.
    """

    def __init__(
        self,
        writer: OnlineWriter,
        describe: Describe,
        metrics: OnlineMetrics,
        interval_s: float,
    ) -> None:
        self._writer = writer
        self._describe = describe
        self._metrics = metrics
        self._interval_s = interval_s
        self._inbox: queue.SimpleQueue[Sequence[Batch]] = queue.SimpleQueue()
        self._failures = 0  # in a row
        self._failed: list[Batch] = []
        self._wanting = True
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_ready(self) -> bool:
        """Whether a batch may be offered now."""
        return self._wanting

    def take_failed(self) -> list[Batch]:
        """Batches that were not written, once; only when it is ready."""
        failed, self._failed = self._failed, []
        return failed

    def offer(self, batches: Sequence[Batch]) -> None:
        """Have machines written; only when it is ready."""
        self._wanting = False
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="online-store", daemon=True)
            self._thread.start()
        self._inbox.put(batches)

    def stop(self) -> None:
        """End the thread; what waits is not written."""
        self._stopping.set()
        self._inbox.put(())
        if self._thread is not None:
            self._thread.join(STOP_S)
        self._writer.release()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                batches = self._inbox.get()
                started_s = time.monotonic()
                self._write(batches)
                spent_s = time.monotonic() - started_s
                self._stopping.wait(max(self._pause_s() - spent_s, 0.0))
                self._wanting = True
        finally:
            # Also after an error of our own, which must not look like a store that is well.
            self._metrics.on_ended()

    def _pause_s(self) -> float:
        """From the beginning of one batch to that of the next."""
        pause_s = self._interval_s * 2.0 ** min(self._failures, 16)
        return max(min(pause_s, LONGEST_PAUSE_S), self._interval_s)

    def _write(self, batches: Sequence[Batch]) -> None:
        """Write piece by piece; what is not written is kept to be given back."""
        pieces = [
            Batch(batch.source, batch.latest.part(start, start + PIECE))
            for batch in batches
            for start in range(0, len(batch.latest.machine_ids), PIECE)
        ]
        for written, piece in enumerate(pieces):
            if self._stopping.is_set():
                return
            worked_s = time.thread_time()
            started_s = time.monotonic()
            machines = self._describe(piece.latest, time.time())
            try:
                self._writer.write(machines)
            except OnlineStoreError as error:
                self._fail(error, pieces[written:])
                return
            self._metrics.on_written(len(machines), time.monotonic() - started_s)
            if self._failures:
                log.info("%d machines were written to the online store again", len(machines))
                self._failures = 0
            self._stopping.wait(REST * (time.thread_time() - worked_s))

    def _fail(self, error: OnlineStoreError, pieces: list[Batch]) -> None:
        self._metrics.on_failed()
        if not self._failures:
            log.warning("%s Scoring goes on without it, and it is tried again.", error)
        self._failures += 1
        self._failed = pieces
