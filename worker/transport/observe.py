"""What the watchdog looks at: each thing in the worker that should move while it has work.

Only reads numbers that the threads keep anyway; nothing here waits. The ends of the
partitions come from an admin client of its own, because a client that has stopped fetching
also stops learning how far it is behind.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its stub hides one
    AdminClient,
    OffsetSpec,
)

from worker.transport.poller import Poller
from worker.transport.processor import Processor
from worker.transport.stall import Observation
from worker.transport.takeover import not_taken_over

ASK_EVERY_S = 1.0
ANSWER_WITHIN_S = 10.0


class Ends:
    """Where the partitions of a topic end for readers of committed records, asked now and then.

    Not thread-safe: belongs to the watchdog.
    """

    def __init__(self, admin: AdminClient, topic: str) -> None:
        self._admin = admin
        self._topic = topic
        self._known: dict[int, int] = {}
        self._underway: Mapping[TopicPartition, Future[Any]] = {}
        self._asked_s = 0.0

    def look(self, partitions: Collection[int]) -> Mapping[int, int]:
        """What is known; empty while the brokers do not answer, for then nothing is due."""
        if not all(future.done() for future in self._underway.values()):
            return self._known
        if self._underway:
            self._known = {
                partition.partition: future.result().offset
                for partition, future in self._underway.items()
                if future.exception() is None
            }
            self._underway = {}
        now_s = time.monotonic()
        if partitions and now_s - self._asked_s >= ASK_EVERY_S:
            self._asked_s = now_s
            latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
            self._underway = self._admin.list_offsets(
                {TopicPartition(self._topic, partition): latest for partition in partitions},
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=ANSWER_WITHIN_S,
            )
        return self._known


class Observer:
    """Collects the observations of one worker, from the polling thread to the commit."""

    def __init__(self, poller: Poller, processor: Processor, ends: Ends) -> None:
        self._poller = poller
        self._processor = processor
        self._ends = ends
        self._drained = 0

    def look(self, restored_to: int) -> Iterator[Observation]:
        """Everything that should move.

        Args:
            restored_to: grows while a restore gets on.
        """
        poller, processor = self._poller, self._processor
        sight = poller.sight()
        yield Observation("polling", _polling(poller), sight.turns)
        yield Observation("processing", processor.doing or None, processor.moves)
        missing = sorted(not_taken_over(poller, processor))
        yield Observation(
            "restoring",
            f"the state of partitions {missing} has not come nearer" if missing else None,
            (tuple(missing), restored_to),
        )
        # While the processor has something in hand, whatever follows has to wait for that.
        free = not processor.doing
        waiting = sight.buffered_events if free else 0
        yield Observation(
            "handing over",
            f"{waiting} fetched events have waited without one being applied" if waiting else None,
            processor.moves,
        )
        yield Observation(
            "committing",
            "nothing of what was applied has been committed"
            if free and processor.has_uncommitted
            else None,
            processor.commits,
        )
        # As long as the client hands out what it has fetched, a partition may have to wait.
        may_wait = sight.drained == self._drained
        self._drained = sight.drained
        ends = self._ends.look(sight.positions)
        for partition, position in sight.positions.items():
            behind = ends.get(partition, 0) - position
            yield Observation(
                f"reading {partition}",
                None
                if behind <= 0 or may_wait
                else f"partition {partition} has {behind} events more, and none was read",
                position,
            )


def _polling(poller: Poller) -> str:
    return (
        "the polling thread has been blocked"
        if poller.is_alive()
        else "the polling thread has been dead"
    )
