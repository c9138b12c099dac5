"""What passes from the polling thread to the agents: a chunk and where it belongs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from confluent_kafka import Message

from worker.core.events import Chunk


@dataclass(frozen=True)
class Delivery:
    """One fetched chunk.

    Attributes:
        epoch: which assignment of the partition it was fetched under; a chunk of an
            earlier assignment must not be applied.
        begin: the position before it; anything between ``begin`` and the first offset
            holds no records (transaction markers, compacted away).
    """

    chunk: Chunk
    epoch: int
    begin: int

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
    """Sort fetched messages into one chunk a partition."""
    for partition, group in by_partition(messages).items():
        yield Chunk(
            topic=topic,
            partition=partition,
            offsets=np.array([message.offset() for message in group], np.int64),
            timestamps_ms=np.array([message.timestamp()[1] for message in group], np.int64),
            keys=[message.key() for message in group],
            values=[message.value() for message in group],
        )
