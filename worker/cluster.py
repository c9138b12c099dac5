"""Reading topics without a consumer group: from a place to the present end, or one record.

Only committed records are seen. Ends are fixed before reading begins, so that reading
a topic that somebody is writing to comes to an end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]  # its stub hides it

from worker.core.errors import BrokerError, TopicError
from worker.core.messages import Origin
from worker.kafka_config import connect, create_client, describe, is_passing, retried
from worker.settings import Settings

CONNECT_S = 10.0
REQUEST_S = 30.0
STALLED_AFTER_S = 90.0
"""Longer than any transaction of ours may stay open and hold back what comes after it."""
BATCH = 2_000
"""Records at a time: some 90 MB of the longest letters there are."""
LAST_OFFSET = 2**63 - 1


class Record(NamedTuple):
    """One record as read.

    Attributes:
        time_ms: its Kafka timestamp, epoch milliseconds.
        headers: read only where one record is asked for.
    """

    topic: str
    partition: int
    offset: int
    time_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, str | bytes | None], ...] = ()


class Range(NamedTuple):
    """Offsets ``begin`` to ``end`` (exclusive) of one partition."""

    begin: int
    end: int


class Cluster:
    """A connection for reading; a context manager.

    Raises:
        BrokerError: no broker answers.
        ConfigError: librdkafka refuses a setting of ``kafka.client``.
    """

    def __init__(self, settings: Settings, connect_s: float = CONNECT_S) -> None:
        self.settings = settings
        self._admin, self._metadata = connect(settings.kafka, connect_s)
        self._single: Consumer | None = None

    def has(self, topic: str) -> bool:
        """Whether the topic exists."""
        return topic in self._metadata.topics

    def partitions(self, topic: str) -> list[int]:
        """The topic's partitions.

        Raises:
            TopicError: it does not exist.
        """
        if not self.has(topic):
            raise TopicError(
                f"topic {topic!r} does not exist at {self.settings.kafka.brokers}; create it "
                "with: driftdetector topics apply."
            )
        return sorted(self._metadata.topics[topic].partitions)

    def ranges(
        self, topic: str, since_ms: int | None = None, until_ms: int | None = None
    ) -> dict[int, Range]:
        """What a topic holds now, by partition; ends where the oldest open transaction begins.

        Args:
            topic: its name.
            since_ms: leave out what comes before the first record that is as new as this.
            until_ms: leave out the first record that is as new as this, and what comes after it.
        """
        ends = self._offsets(topic, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        begins = self._offsets(topic, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        if since_ms is not None:
            found = self._offsets(topic, OffsetSpec.for_timestamp(since_ms))
            # -1 where nothing is as new as that
            begins = {p: at if at >= 0 else ends[p] for p, at in found.items()}
        if until_ms is not None:
            found = self._offsets(topic, OffsetSpec.for_timestamp(until_ms))
            ends = {p: min(at, ends[p]) if at >= 0 else ends[p] for p, at in found.items()}
        return {p: Range(min(begins[p], ends[p]), ends[p]) for p in ends}

    def written(self, topic: str) -> dict[int, Range]:
        """Like :meth:`ranges`, but with what open transactions have written so far."""
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        ends = self._offsets(topic, latest, IsolationLevel.READ_UNCOMMITTED)
        begins = self._offsets(topic, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        return {p: Range(begins[p], ends[p]) for p in ends}

    def read(
        self,
        topic: str,
        ranges: Mapping[int, Range],
        on_progress: Callable[[int], None] | None = None,
    ) -> Iterator[list[Record]]:
        """Read ranges of a topic, in batches; each partition in the order of its offsets.

        Args:
            topic: its name.
            ranges: by partition.
            on_progress: told from time to time how many offsets have been passed.

        Raises:
            BrokerError: the brokers do not answer, or refuse.
        """
        positions = {p: span.begin for p, span in ranges.items() if span.begin < span.end}
        size = left = sum(ranges[p].end - at for p, at in positions.items())
        consumer = self.consumer()
        try:
            with explained(topic):
                consumer.assign([TopicPartition(topic, p, at) for p, at in positions.items()])
            moved_s = time.monotonic()
            while positions:
                with explained(topic):
                    messages = consumer.consume(BATCH, 0.1)
                records = list(_within(messages, ranges, positions))
                before, left = left, sum(ranges[p].end - at for p, at in positions.items())
                if left == before:
                    _check_moving(topic, moved_s)
                    continue
                if records:
                    yield records
                if on_progress is not None:
                    on_progress(size - left)
                moved_s = time.monotonic()
        finally:
            consumer.close()

    def fetch(self, place: Origin) -> Record | None:
        """The record at one offset, with its headers; None where there is none (any more).

        Raises:
            BrokerError: the brokers do not answer, or refuse.
        """
        topic, partition, offset = place.topic, place.partition, place.offset
        if not self.has(topic) or partition not in self.partitions(topic):
            return None
        if self._single is None:
            self._single = self.consumer()
        with explained(topic):
            self._single.assign([TopicPartition(topic, partition, offset)])
        moved_s = time.monotonic()
        while True:
            with explained(topic):
                message = self._single.poll(0.1)
            if message is not None and not passes(message):
                # Out of range, the consumer goes on at the earliest record there is.
                if message.error() is not None or message.offset() != offset:
                    return None
                return _record(message)._replace(headers=headers_of(message))
            _check_moving(topic, moved_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._single is not None:
            self._single.close()

    def consumer(
        self, name: str = "letters", differing: Mapping[str, Any] | None = None
    ) -> Consumer:
        """A consumer of committed records that is assigned by hand and commits nothing.

        Args:
            name: tells it from others in the broker's log.
            differing: settings of librdkafka that are not the usual ones.
        """
        extra = {
            "group.id": f"{self.settings.worker.app_id}-{name}",  # never joined
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,
            "fetch.queue.backoff.ms": 10,
            "queued.max.messages.kbytes": 32_768,
            **(differing or {}),
        }
        tuned = {k: v for k, v in extra.items() if k not in self.settings.kafka.client}
        consumer: Consumer = create_client(Consumer, self.settings.kafka, tuned)
        return consumer

    def _offsets(
        self,
        topic: str,
        spec: Any,
        isolation: IsolationLevel = IsolationLevel.READ_COMMITTED,
    ) -> dict[int, int]:
        request = {TopicPartition(topic, p): spec for p in self.partitions(topic)}

        def ask() -> dict[int, int]:
            futures = self._admin.list_offsets(
                request, isolation_level=isolation, request_timeout=REQUEST_S
            )
            return {
                place.partition: future.result(REQUEST_S).offset
                for place, future in futures.items()
            }

        with explained(topic):
            return retried(ask, REQUEST_S)


def _within(
    messages: list[Message], ranges: Mapping[int, Range], positions: dict[int, int]
) -> Iterator[Record]:
    """The records in their ranges; moves positions past them, and drops those at their end."""
    for message in messages:
        if passes(message):
            continue
        partition, offset = _place(message)
        if partition not in positions:
            continue
        end = ranges[partition].end
        at_end_of_partition = message.error() is not None
        if not at_end_of_partition and offset < end:
            yield _record(message)
        # What is committed may end before the range does; then this end is told once more later.
        positions[partition] = offset if at_end_of_partition else offset + 1
        if positions[partition] >= end:
            del positions[partition]


def passes(message: Message) -> bool:
    """Whether a consumed message only reports an error that passes by itself.

    Raises:
        BrokerError: it reports one that does not.
    """
    error = message.error()
    if error is None or error.code() == KafkaError._PARTITION_EOF:
        return False
    if not is_passing(error):
        raise BrokerError(f"reading topic {message.topic()!r}: {describe(error)}.")
    return True


def _place(message: Message) -> tuple[int, int]:
    partition, offset = message.partition(), message.offset()
    assert partition is not None  # records and ends of partitions have both
    assert offset is not None
    return partition, offset


def _record(message: Message) -> Record:
    key, value = message.key(), message.value()
    assert not isinstance(key, str)  # no deserialiser is set
    assert not isinstance(value, str)
    return Record(str(message.topic()), *_place(message), message.timestamp()[1], key, value)


def headers_of(message: Message) -> tuple[tuple[str, str | bytes | None], ...]:
    """The headers of a record, in their order."""
    headers = message.headers() or ()
    return tuple(headers.items() if isinstance(headers, dict) else headers)


def _check_moving(topic: str, moved_s: float) -> None:
    if time.monotonic() - moved_s > STALLED_AFTER_S:
        raise BrokerError(
            f"topic {topic!r} gave nothing for {STALLED_AFTER_S:.0f} s; check the cluster for "
            "unavailable partitions or a hanging transaction."
        )


@contextmanager
def explained(topic: str) -> Iterator[None]:
    """Turn what librdkafka raises while a topic is read into a ``BrokerError``."""
    try:
        yield
    except KafkaException as error:
        raise BrokerError(f"reading topic {topic!r}: {describe(error)}.") from error
