"""How far the workers are: events published, events processed, and what lies between."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition

from worker.api.fleet import Progress
from worker.core.errors import BrokerError
from worker.kafka_config import create_client
from worker.settings import Settings

EVERY_S = 2.0
OVER_S = 15.0
"""Rates are over this time, so that commits every now and then do not make them jump."""
TIMEOUT_S = 3.0


class Look(NamedTuple):
    """Sums over the partitions at one moment.

    Attributes:
        processed: events up to the committed offsets; of a partition without one, none.
    """

    at_s: float
    published: int
    processed: int
    lag: int


class ProgressWatch:
    """Compares the ends of the input's partitions with what the workers' group has committed.

    Joins no group and commits nothing.
    """

    def __init__(self, settings: Settings) -> None:
        self._topic = settings.topics.sensor_events
        self._looks: deque[Look] = deque()
        self._thread = ThreadPoolExecutor(1, "progress")
        self._consumer: Consumer = create_client(
            Consumer,
            settings.kafka,
            {
                "group.id": settings.worker.app_id,
                "enable.auto.commit": False,
                # Events of a gateway's open transaction are waiting too.
                "isolation.level": "read_uncommitted",
            },
        )

    async def look(self) -> Progress:
        """Ask the brokers.

        Raises:
            BrokerError: they do not answer.
        """
        loop = asyncio.get_running_loop()
        look = await loop.run_in_executor(self._thread, self._look)
        if look is None:
            return Progress(None, None, None)
        self._looks.append(look)
        while look.at_s - self._looks[0].at_s > OVER_S:
            self._looks.popleft()
        return progress_of(self._looks[0], look)

    async def close(self) -> None:
        """Give up the connection."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._consumer.close)
        self._thread.shutdown()

    def _look(self) -> Look | None:
        try:
            metadata = self._consumer.list_topics(self._topic, timeout=TIMEOUT_S)
            found = metadata.topics[self._topic]
            if found.error is not None:
                return None
            places = [TopicPartition(self._topic, p) for p in found.partitions]
            spans = [self._consumer.get_watermark_offsets(p, timeout=TIMEOUT_S) for p in places]
            committed = self._consumer.committed(places, timeout=TIMEOUT_S)
        except KafkaException as error:
            raise BrokerError(f"looking at {self._topic!r}: {error.args[0]}.") from error
        published = processed = lag = 0
        for (begin, end), place in zip(spans, committed, strict=True):
            position = max(place.offset, begin) if place.offset >= 0 else begin
            published += end
            processed += position
            lag += max(0, end - position)
        return Look(time.monotonic(), published, processed, lag)


def progress_of(first: Look, last: Look) -> Progress:
    """Rates between two looks; unknown where they are the same."""
    passed_s = last.at_s - first.at_s
    if passed_s <= 0.0:
        return Progress(None, None, last.lag)
    return Progress(
        round(max(0, last.published - first.published) / passed_s, 1),
        round(max(0, last.processed - first.processed) / passed_s, 1),
        last.lag,
    )
