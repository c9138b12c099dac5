"""When the broker has compacted a topic, and what is left of it."""

from __future__ import annotations

import time
from pathlib import Path

from load.feed import Background
from load.records import iterate_topic
from load.torture.recovery import Injection

LOOK_EVERY_S = 0.1


class Compactions(Background):
    """Watches the broker's note of how far it has compacted each partition.

    Args:
        data: the broker's folder of topics.

    Attributes:
        times_s: ``perf_counter`` of each time that a partition of the topic was compacted.
    """

    def __init__(self, data: Path, topic: str) -> None:
        super().__init__("watch over compaction")
        self.times_s: list[float] = []
        self._checkpoint = data / "cleaner-offset-checkpoint"
        self._topic = topic

    def work(self) -> None:
        """Look until stopped."""
        known = self._cleaned()
        while not self.stopping.wait(LOOK_EVERY_S):
            now = self._cleaned()
            self.times_s += [time.perf_counter()] * len(now - known)
            known = now

    def during(self, injection: Injection) -> int:
        """How often before the injection had recovered."""
        end_s = injection.begun_s + (injection.recovery_s or 0.0)
        return sum(injection.begun_s < time_s < end_s for time_s in self.times_s)

    def _cleaned(self) -> set[str]:
        try:
            lines = self._checkpoint.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return set()
        return {line for line in lines if line.startswith(f"{self._topic} ")}


def sizes(brokers: str, topic: str) -> tuple[int, int]:
    """Records that were written to a topic, markers of transactions included, and what is left."""
    ends: dict[int, int] = {}
    left = 0
    for record in iterate_topic(brokers, topic, isolation_level="read_uncommitted"):
        left += 1
        ends[record.partition] = record.offset + 1
    return sum(ends.values()), left
