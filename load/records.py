"""Topics, records and reading to the end, for tests and campaigns on a real or embedded Kafka."""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its stub hides one
    AdminClient,
    NewTopic,
)

# librdkafka prints to stderr unless it has a logger; a broker that is stopped here is no news.
QUIET = logging.getLogger("load.librdkafka")
QUIET.setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class KafkaRecord:
    """A record as a consumer sees it; `headers` in order, `timestamp_ms` as stored."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to produce; without a partition the key chooses it, as gateways do."""

    value: bytes | None
    key: bytes | None = None
    partition: int | None = None
    timestamp_ms: int | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


def unique(name: str) -> str:
    """Return `name` with a random ending, for topics and groups no other test shares."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


def create_topics(
    bootstrap_servers: str,
    *names: str,
    partitions: int = 4,
    config: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
) -> None:
    """Create topics and return when the broker leads all their partitions."""
    admin = AdminClient({"bootstrap.servers": bootstrap_servers}, logger=QUIET)
    wanted = [NewTopic(name, partitions, 1, config=dict(config or {})) for name in names]
    for future in admin.create_topics(wanted, operation_timeout=timeout_s).values():
        future.result(timeout_s)

    def all_led() -> bool:
        known = admin.list_topics(timeout=timeout_s).topics
        return all(
            name in known
            and len(known[name].partitions) == partitions
            and all(partition.leader >= 0 for partition in known[name].partitions.values())
            for name in names
        )

    wait_until(all_led, f"topics {', '.join(names)} have leaders", timeout_s)


def produce(
    bootstrap_servers: str,
    topic: str,
    records: Iterable[NewRecord],
    *,
    timeout_s: float = 60.0,
) -> None:
    """Produce `records` in order and return when the broker has acknowledged every one."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            # Keeps the order; an idempotent producer would first wait a second for its id.
            "max.in.flight.requests.per.connection": 1,
            "linger.ms": 5,
            "message.max.bytes": 12 * 1024 * 1024,
            "queue.buffering.max.messages": 1_000_000,
            # Java's partitioner, so that keys land where other clients put them.
            "partitioner": "murmur2_random",
        },
        logger=QUIET,
    )
    failures: Counter[str] = Counter()

    def on_delivery(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failures[error.str()] += 1

    for record in records:
        optional = {"partition": record.partition, "timestamp": record.timestamp_ms}
        given: dict[str, Any] = {k: value for k, value in optional.items() if value is not None}
        while True:
            try:
                producer.produce(
                    topic,
                    value=record.value,
                    key=record.key,
                    headers=list(record.headers),
                    on_delivery=on_delivery,
                    **given,
                )
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    unsent = producer.flush(timeout_s)
    if unsent:
        raise RuntimeError(f"{unsent} records for {topic} were not acknowledged in {timeout_s} s")
    if failures:
        raise RuntimeError(f"records for {topic} were refused: {dict(failures)}")


def read_topic(
    bootstrap_servers: str,
    topic: str,
    *,
    timeout_s: float = 60.0,
    isolation_level: str = "read_committed",
) -> list[KafkaRecord]:
    """Read all partitions of `topic` from their beginning to their present end.

    Returns the records in order of partition and offset; under read_committed those of
    aborted transactions are left out, and the end is where the oldest open one begins.
    """
    records = iterate_topic(
        bootstrap_servers, topic, timeout_s=timeout_s, isolation_level=isolation_level
    )
    return sorted(records, key=lambda record: (record.partition, record.offset))


def iterate_topic(
    bootstrap_servers: str,
    topic: str,
    partitions: Collection[int] | None = None,
    *,
    starts: Mapping[int, int] | None = None,
    timeout_s: float = 60.0,
    isolation_level: str = "read_committed",
) -> Iterator[KafkaRecord]:
    """Like :func:`read_topic`, one record after the other, in each partition's order.

    Args:
        partitions: which to read; None: all.
        starts: offsets to begin at instead of the beginning.
        timeout_s: how long to wait without any record.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": unique("reader"),
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": isolation_level,
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": 50,
            "message.max.bytes": 12 * 1024 * 1024,
            "fetch.message.max.bytes": 12 * 1024 * 1024,
        },
        logger=QUIET,
    )
    deadline = time.monotonic() + timeout_s
    try:
        known = consumer.list_topics(topic, timeout=timeout_s).topics[topic]
        if known.error is not None:
            raise RuntimeError(f"cannot read {topic}: {known.error}")
        unfinished = set(known.partitions if partitions is None else partitions)
        consumer.assign(
            [
                TopicPartition(topic, number, (starts or {}).get(number, OFFSET_BEGINNING))
                for number in unfinished
            ]
        )
        while unfinished:
            if time.monotonic() > deadline:
                raise TimeoutError(f"partitions {sorted(unfinished)} of {topic} had no end in time")
            for message in consumer.consume(10_000, timeout=0.05):
                error = message.error()
                if error is None:
                    deadline = time.monotonic() + timeout_s
                    yield _record_of(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    unfinished.discard(message.partition())
                elif not error.retriable():
                    raise RuntimeError(f"cannot read {topic}: {error}")
    finally:
        consumer.close()


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Return once `condition` holds.

    Raises:
        TimeoutError: naming `what`, when it does not in time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s} s: {what}")
        time.sleep(0.05)


def _record_of(message: Any) -> KafkaRecord:  # its types allow records without a place
    return KafkaRecord(
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        key=message.key(),
        value=message.value(),
        headers=tuple(message.headers() or ()),
        timestamp_ms=message.timestamp()[1],
    )


def committed_offsets(
    bootstrap_servers: str, group: str, topic: str, *, timeout_s: float = 30.0
) -> dict[int, tuple[int, int]]:
    """Return (committed offset or -1, end of the partition) of each partition of `topic`.

    Reads without isolation, so the end counts open transactions too.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": group,
            "enable.auto.commit": False,
            "isolation.level": "read_uncommitted",
        },
        logger=QUIET,
    )
    try:
        metadata = consumer.list_topics(topic, timeout=timeout_s)
        partitions = [TopicPartition(topic, p) for p in metadata.topics[topic].partitions]
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return {
                    partition.partition: (
                        max(partition.offset, -1),
                        consumer.get_watermark_offsets(partition, timeout=timeout_s)[1],
                    )
                    for partition in consumer.committed(partitions, timeout=timeout_s)
                }
            except KafkaException:  # a broker that has just restarted looks for its roles
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
    finally:
        consumer.close()
