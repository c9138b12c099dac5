"""How long it takes until work goes on, seen from outside: by the offsets that are committed.

An injection has recovered when every partition of the input has committed an event that
came after it. With a load that never ends, that needs a worker for each partition that
reads, scores and commits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, KafkaException, TopicPartition

from load.records import QUIET

LOOK_EVERY_S = 0.1
ANSWER_S = 2.0
BROKER_S = 60.0


@dataclass
class Injection:
    """Something done to the system.

    Attributes:
        kind: as in the report's table.
        begun_s: ``perf_counter`` when it was done.
        ends: of the input's partitions at that time.
        recovery_s: how long until work went on; None: not yet.
    """

    kind: str
    begun_s: float
    ends: Mapping[int, int]
    recovery_s: float | None = None


class Watch:
    """Looks at the group's committed offsets ten times a second, beside everything else.

    Args:
        brokers: an address that no injection cuts.
    """

    def __init__(self, brokers: str, group: str, topic: str) -> None:
        self.injections: list[Injection] = []
        self._topic = topic
        self._config = {
            "bootstrap.servers": brokers,
            "group.id": group,
            "enable.auto.commit": False,
            "isolation.level": "read_uncommitted",
            "reconnect.backoff.max.ms": 200,
        }
        self._consumer = Consumer(self._config, logger=QUIET)
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def begin(self, kind: str, begun_s: float | None = None) -> Injection:
        """Note that something is about to be done, or was done at ``begun_s``."""
        injection = Injection(kind, begun_s or time.perf_counter(), self.ends())
        with self._lock:
            self.injections.append(injection)
        return injection

    def ends(self) -> dict[int, int]:
        """Where each partition ends, counting open transactions too.

        Raises:
            TimeoutError: the broker does not answer.
        """
        deadline_s = time.monotonic() + BROKER_S
        while True:
            try:
                with self._lock:
                    known = self._consumer.list_topics(self._topic, timeout=ANSWER_S)
                    return {
                        number: self._consumer.get_watermark_offsets(
                            TopicPartition(self._topic, number), timeout=ANSWER_S
                        )[1]
                        for number in known.topics[self._topic].partitions
                    }
            except KafkaException as error:
                if time.monotonic() > deadline_s:
                    raise TimeoutError(f"{self._topic} has no ends: {error}") from error

    def committed(self) -> dict[int, int] | None:
        """Committed offset of each partition, -1 without one; None while no broker answers."""
        with self._lock:
            try:
                known = self._consumer.list_topics(self._topic, timeout=ANSWER_S)
                wanted = [
                    TopicPartition(self._topic, p) for p in known.topics[self._topic].partitions
                ]
                found = self._consumer.committed(wanted, timeout=ANSWER_S)
            except KafkaException:
                return None
        if any(partition.error is not None for partition in found):
            return None
        return {partition.partition: max(partition.offset, -1) for partition in found}

    def wait(self, timeout_s: float) -> bool:
        """Wait until everything noted has recovered; False when time is over."""
        deadline_s = time.monotonic() + timeout_s
        while any(injection.recovery_s is None for injection in self.injections):
            if time.monotonic() > deadline_s:
                return False
            time.sleep(LOOK_EVERY_S)
        return True

    def wait_for_all(self, timeout_s: float) -> None:
        """Wait until the group has committed the end of every partition.

        Raises:
            TimeoutError: it has not in time.
        """
        deadline_s = time.monotonic() + timeout_s
        ends = self.ends()
        while True:
            committed = self.committed()
            if committed is not None and all(committed[p] >= end for p, end in ends.items()):
                return
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"committed {committed} of {ends} within {timeout_s:.0f} s")
            time.sleep(LOOK_EVERY_S)

    def __enter__(self) -> Self:
        """Start to look."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop looking."""
        self._ending.set()
        self._thread.join()
        self._consumer.close()

    def _look(self) -> None:
        while not self._ending.wait(LOOK_EVERY_S):
            committed = self.committed()
            if committed is None:
                continue
            now_s = time.perf_counter()
            with self._lock:
                waiting = [i for i in self.injections if i.recovery_s is None]
            for injection in waiting:
                if all(committed[p] > end for p, end in injection.ends.items()):
                    injection.recovery_s = now_s - injection.begun_s
