"""Follows the output topics, and hands what they tell to the fleet.

Everything is read anew at each start: from the beginning where that is little, else the end of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential

from worker.api.fleet import Fleet, Told
from worker.cluster import Cluster, passes
from worker.core.errors import BrokerError, TopicError
from worker.core.messages import Acknowledgement, Anomaly, DriftEvent, Episode, SensorHealth
from worker.settings import Settings, TopicSettings

log = logging.getLogger(__name__)

BATCH = 500
POLL_S = 0.2
CONNECT_S = 3.0
"""Short, for nothing can interrupt it when the service is to stop."""
LOOK_AGAIN_S = 30.0
"""How often topics are looked for that did not exist, or that have got more partitions."""
LONGEST_PAUSE_S = 15.0
LAST_ANOMALIES = 10_000
"""Of each partition; earlier ones would only be samples that nobody sees."""

R = TypeVar("R")


class Follower:
    """Reads anomalies, episodes, sensor health, drift and acknowledgements, committed ones only.

    Args:
        settings: brokers and names of the topics.
        fleet: gets the messages on the event loop that :meth:`run` runs on.
    """

    def __init__(self, settings: Settings, fleet: Fleet) -> None:
        self._settings = settings
        self._fleet = fleet
        self._types = _types_of(settings.topics)
        self._decoders = {name: msgspec.json.Decoder(kind) for name, kind in self._types.items()}
        # Not known before the topics are.
        self._behind: set[tuple[str, int]] | None = None
        self._unreadable = 0

    async def run(self) -> None:
        """Follow until cancelled; brokers that are away are tried again."""
        with ThreadPoolExecutor(1, "follower") as thread:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type((BrokerError, TopicError, KafkaException)),
                wait=wait_exponential(max=LONGEST_PAUSE_S),
                before_sleep=lambda state: log.warning(
                    "following the output topics: %s; trying again",
                    state.outcome.exception() if state.outcome else "",
                ),
            ):
                with attempt:
                    while True:
                        await self._follow(thread)

    @property
    def is_behind(self) -> bool:
        """Whether messages from before the start are still being read."""
        return self._behind is None or bool(self._behind)

    async def _follow(self, thread: ThreadPoolExecutor) -> None:
        """Read until the topics are other ones than at the beginning."""
        in_thread = _caller(thread)
        consumer, places = await in_thread(self._open)
        try:
            looked_s = time.monotonic()
            while True:
                messages = await in_thread(lambda: consumer.consume(BATCH, POLL_S))
                for message in messages:
                    self._take(message)
                if time.monotonic() - looked_s > LOOK_AGAIN_S:
                    looked_s = time.monotonic()
                    if await in_thread(self._places) != places:
                        return
        finally:
            await asyncio.shield(in_thread(consumer.close))

    def _open(self) -> tuple[Consumer, set[tuple[str, int]]]:
        places = self._places()
        with Cluster(self._settings, CONNECT_S) as cluster:
            anomalies = self._settings.topics.anomalies
            spans = cluster.written(anomalies) if cluster.has(anomalies) else {}
            consumer = cluster.consumer("page", {"fetch.wait.max.ms": 100})
        starts = {
            (anomalies, partition): max(span.begin, span.end - LAST_ANOMALIES)
            for partition, span in spans.items()
        }
        consumer.assign([TopicPartition(*place, starts.get(place, 0)) for place in places])
        self._behind = set(places)
        return consumer, places

    def _places(self) -> set[tuple[str, int]]:
        with Cluster(self._settings, CONNECT_S) as cluster:
            return {
                (topic, partition)
                for topic in self._types
                if cluster.has(topic)
                for partition in cluster.partitions(topic)
            }

    def _take(self, message: Message) -> None:
        if passes(message):
            return
        topic, error = message.topic(), message.error()
        if topic is None:
            return
        if error is not None:
            assert error.code() == KafkaError._PARTITION_EOF  # others were raised
            if self._behind is not None:
                self._behind.discard((topic, message.partition() or 0))
            return
        value = message.value()
        if not value:
            return
        try:
            told = self._decoders[topic].decode(value)
        except (msgspec.DecodeError, UnicodeError) as problem:
            self._unreadable += 1
            if self._unreadable == 1:
                log.warning("topic %s has a record that is no message of it: %s", topic, problem)
            return
        self._fleet.apply(told, message.timestamp()[1])


def _types_of(topics: TopicSettings) -> dict[str, type[Told]]:
    return {
        topics.anomalies: Anomaly,
        topics.anomaly_episodes: Episode,
        topics.sensor_health: SensorHealth,
        topics.drift_events: DriftEvent,
        topics.audit: Acknowledgement,
    }


def _caller(thread: ThreadPoolExecutor) -> Callable[[Callable[[], R]], asyncio.Future[R]]:
    loop = asyncio.get_running_loop()
    return lambda call: loop.run_in_executor(thread, call)
