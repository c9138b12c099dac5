"""Announcing maintenance: where a machine's events are, and a notice that stands among them.

A notice has to be in the partition of the machine's events, which depends on how its gateway
partitions, and to have a time that makes none of them late. Both are taken from the events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import NamedTuple

import msgspec
from confluent_kafka import KafkaException, Message, Producer

from worker.cluster import Cluster, Range, Record
from worker.core.errors import BrokerError, ConfigError
from worker.core.messages import (
    AwareTime,
    EpochTime,
    MaintenanceNotice,
    Origin,
    encode,
    format_time_us,
    to_time_us,
)
from worker.kafka_config import create_client, describe

SEND_S = 30.0
FIRST_LOOK = 2_000
"""Newest records of each partition that are looked at first; then ever more, to the oldest."""
WIDER = 20
MAX_FUTURE_US = 300_000_000
"""Events further ahead of their record do not tell the machine's time: workers refuse them."""


class Place(NamedTuple):
    """Where a machine's events are, and the newest time of the latest of them."""

    partition: int
    time_us: int


class _Event(msgspec.Struct):
    timestamp: AwareTime | EpochTime | None = None


class _Announcing(msgspec.Struct):
    machine_id: str
    timestamp: str
    maintenance: MaintenanceNotice


def find_machine(
    cluster: Cluster, machine_id: str, on_progress: Callable[[int, int], None]
) -> Place:
    """Look for the newest events of a machine in the input, the newest records first.

    Args:
        cluster: where the input is.
        machine_id: of whom.
        on_progress: told how many records were looked at, and of how many.

    Raises:
        ConfigError: there is none.
        BrokerError: the brokers do not answer, or refuse.
    """
    topic = cluster.settings.topics.sensor_events
    unread = cluster.ranges(topic)
    size = _size(unread)
    look = FIRST_LOOK
    while _size(unread):
        part = {p: Range(max(s.begin, s.end - look), s.end) for p, s in unread.items()}
        report = partial(_report, on_progress, size - _size(unread), size)
        place = _newest(cluster.read(topic, part, report), machine_id)
        if place is not None:
            return place
        unread = {p: Range(s.begin, part[p].begin) for p, s in unread.items()}
        look *= WIDER
    raise ConfigError(
        f"there is no event of machine {machine_id!r} in topic {topic!r}; see how its gateway "
        "writes machine_id."
    )


def announce(cluster: Cluster, machine_id: str, place: Place, notice: MaintenanceNotice) -> Origin:
    """Publish a notice behind a machine's newest event; returns where it is.

    Raises:
        BrokerError: Kafka does not take it within half a minute.
    """
    value = encode(_Announcing(machine_id, format_time_us(place.time_us), notice))
    topic = cluster.settings.topics.sensor_events
    return publish_one(cluster, topic, place.partition, machine_id.encode(), value)


def publish_one(cluster: Cluster, topic: str, partition: int, key: bytes, value: bytes) -> Origin:
    """Publish one record that does no harm when it comes twice; returns where it is.

    Raises:
        BrokerError: Kafka does not take it within half a minute.
    """
    results: list[tuple[object, Message]] = []
    producer = create_client(Producer, cluster.settings.kafka, {"enable.idempotence": True})
    try:
        producer.produce(
            topic,
            value,
            key,
            partition=partition,
            on_delivery=lambda error, message: results.append((error, message)),
        )
        producer.flush(SEND_S)
    except KafkaException as error:
        raise BrokerError(
            f"topic {topic!r} does not take the notice: {describe(error)}."
        ) from error
    if not results:
        raise BrokerError(
            f"topic {topic!r} did not take the notice within {SEND_S:g} s; it may still come: look "
            "whether its partitions have a leader, then do it again, which does no harm."
        )
    failure, message = results[0]
    if failure is not None:
        raise BrokerError(f"topic {topic!r} does not take the notice: {failure}.")
    offset = message.offset()
    assert offset is not None  # it was delivered
    return Origin(topic, partition, offset)


def _newest(batches: Iterator[list[Record]], machine_id: str) -> Place | None:
    """The partition of a machine's newest record, and its newest event time there."""
    newest_ms, found = -1, None
    times_us: dict[int, int] = {}
    for record in chain.from_iterable(batches):
        time_us = _time_us(record, machine_id)
        if time_us is None:
            continue
        times_us[record.partition] = max(time_us, times_us.get(record.partition, 0))
        if record.time_ms >= newest_ms:
            newest_ms, found = record.time_ms, record.partition
    return None if found is None else Place(found, times_us[found])


def _time_us(record: Record, machine_id: str) -> int | None:
    """The event time, if the record is a usable event of the machine."""
    if record.key != machine_id.encode() or not record.value:
        return None
    try:
        event = msgspec.json.decode(record.value, type=_Event)
    except (msgspec.DecodeError, UnicodeError):
        return None
    record_us = record.time_ms * 1000
    time_us = record_us if event.timestamp is None else to_time_us(event.timestamp)
    return time_us if time_us <= record_us + MAX_FUTURE_US else None


def _size(ranges: Mapping[int, Range]) -> int:
    return sum(span.end - span.begin for span in ranges.values())


def _report(on_progress: Callable[[int, int], None], before: int, size: int, done: int) -> None:
    on_progress(before + done, size)
