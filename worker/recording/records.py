"""The records of a recording in the order of time, as they are played or applied again."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from worker.recording.files import Segment
from worker.recording.parquet import read_batches

BATCH_ROWS = 2_000


class Recorded(NamedTuple):
    """One record of a recording, without what places it."""

    time_ms: int
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, str | bytes | None]]


@dataclass(frozen=True)
class Part:
    """Which records are played.

    Attributes:
        since_ms, until_ms: their Kafka timestamps; the end is exclusive.
        machines: their keys; None: all.
    """

    since_ms: int | None = None
    until_ms: int | None = None
    machines: frozenset[bytes] | None = None

    def has(self, record: Recorded) -> bool:
        """Whether a record belongs to it."""
        return (
            (self.since_ms is None or record.time_ms >= self.since_ms)
            and (self.until_ms is None or record.time_ms < self.until_ms)
            and (self.machines is None or record.key in self.machines)
        )


def merged(segments: list[Segment]) -> Iterator[Recorded]:
    """The records of files, partitions merged by time, each in the order of its offsets."""
    by_partition: dict[int, list[Segment]] = {}
    for segment in segments:
        by_partition.setdefault(segment.partition, []).append(segment)
    # By the newest time so far: a record that is older than the one before stays behind it.
    streams = [_in_order(part) for part in by_partition.values()]
    for _, record in heapq.merge(*streams, key=lambda item: (item[0], item[1].partition)):
        yield record


def _in_order(segments: list[Segment]) -> Iterator[tuple[int, Recorded]]:
    newest_ms = 0
    for batch in read_batches(segments, BATCH_ROWS):
        times_ms = batch.column("timestamp").cast("int64").fill_null(0).to_pylist()
        columns = (batch.column(name).to_pylist() for name in Recorded._fields[1:])
        for time_ms, partition, offset, key, value, found in zip(times_ms, *columns, strict=True):
            headers = [(header["key"], header["value"]) for header in found or ()]
            newest_ms = max(newest_ms, time_ms)
            yield newest_ms, Recorded(time_ms, partition, offset, key, value, headers)
