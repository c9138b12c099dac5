"""What passes from the polling thread to the agents: a chunk and where it belongs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from confluent_kafka import Message

from worker.core.events import Chunk
from worker.tracing import TRACEPARENT

MAX_CHUNK_BYTES = 2 * 1024 * 1024
"""More than 10,000 ordinary events have; it cuts what floods of large records would give."""


@dataclass(frozen=True)
class Delivery:
    """One fetched chunk.

    Attributes:
        epoch: which assignment of the partition it was fetched under; a chunk of an
            earlier assignment must not be applied.
        begin: the position before it; anything between ``begin`` and the first offset
            holds no records (transaction markers, compacted away).
        traceparents: that header of the records that carry it, by offset, where traces are on.
    """

    chunk: Chunk
    epoch: int
    begin: int
    traceparents: Mapping[int, bytes] = field(default_factory=dict)

    @cached_property
    def size_bytes(self) -> int:
        """Bytes of all keys and values."""
        parts = chain(self.chunk.keys, self.chunk.values)
        return sum(map(len, filter(None, parts)))

    @property
    def end(self) -> int:
        """The position after it."""
        return int(self.chunk.offsets[-1]) + 1


def by_partition(messages: Iterable[Message]) -> Mapping[int, list[Message]]:
    """Sort fetched messages by partition, keeping their order."""
    groups: dict[Any, list[Message]] = {}  # the client's types allow messages without one
    for message in messages:
        groups.setdefault(message.partition(), []).append(message)
    return groups


def chunks_by_partition(topic: str, messages: Iterable[Message]) -> Iterator[Chunk]:
    """Sort fetched messages into chunks of one partition, ``MAX_CHUNK_BYTES`` or one record each.

    What a chunk gives goes into one transaction, which must be sent before it times out.
    """
    for partition, group in by_partition(messages).items():
        keys: list[bytes | None] = [message.key() for message in group]
        values: list[bytes | None] = [message.value() for message in group]
        offsets = np.array([message.offset() for message in group], np.int64)
        timestamps_ms = np.array([message.timestamp()[1] for message in group], np.int64)
        for begin, end in _cuts(keys, values):
            yield Chunk(
                topic=topic,
                partition=partition,
                offsets=offsets[begin:end],
                timestamps_ms=timestamps_ms[begin:end],
                keys=keys[begin:end],
                values=values[begin:end],
            )


def traceparents(messages: Iterable[Message]) -> dict[int, dict[int, bytes]]:
    """The trace contexts that records carry, by partition and offset."""
    found: dict[Any, dict[Any, bytes]] = {}
    for message in messages:
        headers: list[Any] = message.headers() or []  # type: ignore[assignment]  # never a dict
        for name, value in headers:
            if name == TRACEPARENT and value:
                found.setdefault(message.partition(), {})[message.offset()] = value
    return found


def _cuts(
    keys: Sequence[bytes | None], values: Sequence[bytes | None]
) -> Iterator[tuple[int, int]]:
    """Ranges of records that together have at most ``MAX_CHUNK_BYTES``, or are one record."""
    if sum(map(len, filter(None, chain(keys, values)))) <= MAX_CHUNK_BYTES:
        yield 0, len(keys)
        return
    begin, size_bytes = 0, 0
    for row, (key, value) in enumerate(zip(keys, values, strict=True)):
        record_bytes = len(key or b"") + len(value or b"")
        if row > begin and size_bytes + record_bytes > MAX_CHUNK_BYTES:
            yield begin, row
            begin, size_bytes = row, 0
        size_bytes += record_bytes
    yield begin, len(keys)
