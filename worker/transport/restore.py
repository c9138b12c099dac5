"""Reading state back from the changelog.

A partition is restored when everything in its changelog at the start has been read
or is known to be aborted. The end is asked for without isolation: an earlier owner's
transaction may still be open, and its rows must be waited for, not missed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its stub hides one
    AdminClient,
    OffsetSpec,
)

from worker.core.errors import BrokerError
from worker.kafka_config import describe, is_passing, retried
from worker.transport.delivery import by_partition
from worker.transport.processor import State

log = logging.getLogger(__name__)

BATCH_ROWS = 10_000
BROKER_DEADLINE_S = 30.0
STALLED_AFTER_S = 90.0
"""Longer than any transaction may stay open: then something other than waiting is needed."""
PROGRESS_EVERY_S = 5.0


class StateReader(Protocol):
    """Collects the rows of one partition's changelog and makes them state."""

    def read(self, rows: Sequence[tuple[bytes, bytes | None]], offsets: Sequence[int]) -> None:
        """Take further rows, in the order of the log, and their offsets."""

    def finish(self, next_offset: int) -> State:
        """The state that begins at an offset of the input; raises StateError."""


@dataclass
class Follower:
    """A reader, and how far it has followed its partition's changelog."""

    reader: StateReader
    position: int = 0


def restore(
    consumer: Consumer,
    admin: AdminClient,
    topic: str,
    followers: Mapping[int, Follower],
    wanted: Callable[[int], bool],
) -> int:
    """Let the followers of some partitions read on to the end of the changelog.

    Args:
        consumer: reads committed records, reports ends of partitions, belongs to no group;
            it is closed afterwards.
        followers: by partition.
        wanted: whether a partition is still needed; asked from time to time.

    Returns:
        Number of rows read.

    Raises:
        BrokerError: the brokers do not answer, the topic cannot be read, or reading it makes
            no progress.
    """
    try:
        ends = ask_ends(admin, topic, followers)
        consumer.assign([TopicPartition(topic, p, f.position) for p, f in followers.items()])
        return _read(consumer, topic, followers, ends, wanted)
    except KafkaException as error:
        raise BrokerError(f"reading changelog {topic!r}: {describe(error)}.") from error
    finally:
        consumer.close()


def ask_ends(admin: AdminClient, topic: str, partitions: Collection[int]) -> dict[int, int]:
    """Where partitions end without isolation: behind what is not decided yet too.

    Raises:
        KafkaException: the brokers do not answer in time, or refuse.
    """
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
    followers: Mapping[int, Follower],
    ends: Mapping[int, int],
    wanted: Callable[[int], bool],
) -> int:
    rows = 0
    moved_s = told_s = time.monotonic()
    while any(f.position < ends[p] and wanted(p) for p, f in followers.items()):
        messages = consumer.consume(BATCH_ROWS, 0.1)
        now_s = time.monotonic()
        if messages:
            moved_s = now_s
        elif now_s - moved_s > STALLED_AFTER_S:
            raise BrokerError(
                f"changelog {topic!r} has not moved for {STALLED_AFTER_S:.0f} s while restoring; "
                "check the cluster for unavailable partitions or a hanging transaction."
            )
        rows += follow(topic, followers, messages)
        if now_s - told_s > PROGRESS_EVERY_S:
            told_s = now_s
            log.info("restoring %d partitions: %d rows so far", len(followers), rows)
    return rows


def follow(topic: str, followers: Mapping[int, Follower], messages: list[Message]) -> int:
    """Let followers read what a consumer gave, and move their positions past it.

    Returns:
        Number of rows.

    Raises:
        BrokerError: the consumer gave an error that does not pass by itself.
    """
    records = []
    for message in messages:
        error = message.error()
        if error is None:
            records.append(message)
        elif error.code() == KafkaError._PARTITION_EOF:
            followers[_number(message.partition())].position = _number(message.offset())
        elif not is_passing(error):
            raise BrokerError(f"reading changelog {topic!r}: {describe(error)}.")
    for partition, group in by_partition(records).items():
        offsets = [_number(message.offset()) for message in group]
        rows = [(message.key() or b"", message.value()) for message in group]
        follower = followers[partition]
        follower.reader.read(rows, offsets)
        # The end that came with these records may lie behind them: markers, aborted rows.
        follower.position = max(follower.position, offsets[-1] + 1)
    return len(records)


def _number(value: int | None) -> int:
    assert value is not None  # consumed messages have a partition and an offset
    return value
