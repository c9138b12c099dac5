"""Reading state back from the changelog.

A partition is restored when everything in its changelog at the start has been read
or is known to be aborted. The end is asked for without isolation: an earlier owner's
transaction may still be open, and its rows must be waited for, not missed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its stub hides one
    AdminClient,
    OffsetSpec,
)

from worker.core.errors import BrokerError, StateError
from worker.core.state import PartitionState
from worker.kafka_config import describe, is_passing, retried
from worker.transport.delivery import by_partition

log = logging.getLogger(__name__)

BATCH_ROWS = 10_000
BROKER_DEADLINE_S = 30.0
STALLED_AFTER_S = 90.0
"""Longer than any transaction may stay open: then something other than waiting is needed."""
PROGRESS_EVERY_S = 5.0


@dataclass
class _Progress:
    """How far a partition's changelog has been read."""

    end: int
    position: int = 0

    @property
    def done(self) -> bool:
        return self.position >= self.end


def restore(
    consumer: Consumer,
    admin: AdminClient,
    topic: str,
    states: dict[int, PartitionState],
    wanted: Callable[[int], bool],
) -> int:
    """Fill the states of some partitions from the changelog.

    Args:
        consumer: reads committed records, reports ends of partitions, belongs to no group;
            it is closed afterwards.
        states: fresh states by partition.
        wanted: whether a partition is still needed; asked from time to time.

    Returns:
        Number of rows read.

    Raises:
        StateError: a row is not what this version wrote for these channels, or reading
            makes no progress.
        BrokerError: the brokers do not answer, or the topic cannot be read.
    """
    try:
        progress = {
            partition: _Progress(end) for partition, end in _ends(admin, topic, states).items()
        }
        consumer.assign([TopicPartition(topic, partition, 0) for partition in progress])
        return _read(consumer, topic, states, progress, wanted)
    except KafkaException as error:
        raise BrokerError(f"reading changelog {topic!r}: {describe(error)}.") from error
    finally:
        consumer.close()


def _ends(admin: AdminClient, topic: str, partitions: Collection[int]) -> dict[int, int]:
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    request = {TopicPartition(topic, partition): latest for partition in partitions}

    def ask() -> dict[int, int]:
        futures = admin.list_offsets(request, request_timeout=BROKER_DEADLINE_S)
        return {
            partition.partition: future.result(BROKER_DEADLINE_S).offset
            for partition, future in futures.items()
        }

    return retried(ask, BROKER_DEADLINE_S)


def _read(
    consumer: Consumer,
    topic: str,
    states: dict[int, PartitionState],
    progress: dict[int, _Progress],
    wanted: Callable[[int], bool],
) -> int:
    rows = 0
    moved_s = told_s = time.monotonic()
    while any(not p.done and wanted(number) for number, p in progress.items()):
        messages = consumer.consume(BATCH_ROWS, 0.1)
        now_s = time.monotonic()
        if messages:
            moved_s = now_s
        elif now_s - moved_s > STALLED_AFTER_S:
            raise StateError(
                f"changelog {topic!r} has not moved for {STALLED_AFTER_S:.0f} s while restoring; "
                "check the cluster for unavailable partitions or a hanging transaction."
            )
        for partition, batch in _rows_by_partition(messages, topic, progress).items():
            states[partition].restore(batch)
            rows += len(batch)
        if now_s - told_s > PROGRESS_EVERY_S:
            told_s = now_s
            log.info("restoring %d partitions: %d rows so far", len(progress), rows)
    return rows


def _rows_by_partition(
    messages: list[Message], topic: str, progress: dict[int, _Progress]
) -> dict[int, list[tuple[Any, Any]]]:
    """Group rows, and move ``progress`` past them."""
    records = []
    for message in messages:
        error = message.error()
        if error is None:
            records.append(message)
        elif error.code() == KafkaError._PARTITION_EOF:
            progress[_number(message.partition())].position = _number(message.offset())
        elif not is_passing(error):
            raise BrokerError(f"reading changelog {topic!r}: {describe(error)}.")
    groups = by_partition(records)
    for partition, group in groups.items():
        read = progress[partition]
        read.position = max(read.position, _number(group[-1].offset()) + 1)
    return {
        partition: [(message.key(), message.value()) for message in group]
        for partition, group in groups.items()
    }


def _number(value: int | None) -> int:
    assert value is not None  # consumed messages have a partition and an offset
    return value
