"""Kafka to files: reads topics to a place or without end, and keeps what it read.

Nothing is remembered but the files themselves. A recorder that is killed loses what it had not
finished, which is in Kafka still, so the next one goes on from there: each record is recorded
once, however often that happens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import (
    TIMESTAMP_CREATE_TIME,
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    Message,
    TopicPartition,
)

from worker.cluster import STALLED_AFTER_S, Cluster, Range, explained, headers_of, passes
from worker.core.errors import RecordingError
from worker.recording.files import (
    Gap,
    Segment,
    positions,
    segments_of,
    unwritable,
)
from worker.recording.parquet import FIELDS, Columns
from worker.recording.writing import PartitionWriter

BATCH = 5_000
GROUP_ROWS = 50_000
GROUP_BYTES = 8 * 2**20
REPORT_EVERY_S = 0.5
_TYPES = {TIMESTAMP_CREATE_TIME: "create", TIMESTAMP_LOG_APPEND_TIME: "append"}

Place = tuple[str, int]
"""A topic and one of its partitions."""


@dataclass(frozen=True)
class Rotation:
    """When a file is finished and the next begins.

    Attributes:
        size_bytes: when it is as large as this.
        age_s: when it was begun so long ago, so that others see what was recorded.
    """

    size_bytes: int = 128 * 2**20
    age_s: float = 300.0


class Progress(NamedTuple):
    """How far a recording is.

    Attributes:
        records: recorded by this process.
        passed: offsets that were passed.
        size: offsets there are to pass, as known now.
    """

    records: int
    passed: int
    size: int


@dataclass
class _Pending:
    """Records of a partition that are not in its file yet.

    Attributes:
        end: offset to go on from.
        begun_s: when the first record came that no finished file has.
    """

    writer: PartitionWriter
    end: int
    begun_s: float | None = None
    columns: Columns = field(default_factory=lambda: {name: [] for name in FIELDS})
    size_bytes: int = 0


class Recorder:
    """Records partitions into a folder that this process has locked.

    Args:
        root: folder of the recording.
        should_stop: asked now and then; when it says so, files are finished and recording ends.
        on_progress: told now and then.
    """

    def __init__(
        self,
        cluster: Cluster,
        root: Path,
        rotation: Rotation = Rotation(),
        should_stop: Callable[[], bool] = lambda: False,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self._cluster, self._root, self._rotation = cluster, root, rotation
        self._should_stop, self._on_progress = should_stop, on_progress
        self._pending: dict[Place, _Pending] = {}
        self.records = 0

    @property
    def finished(self) -> list[Segment]:
        """The files that this recorder has finished."""
        return [segment for p in self._pending.values() for segment in p.writer.finished]

    def plan(self, wanted: Mapping[str, Mapping[int, Range]]) -> dict[Place, Range]:
        """What is left to record: each range from where the files of its partition end.

        Args:
            wanted: ranges of each topic, by partition.

        Raises:
            RecordingError: the folder has offsets that the topic does not have.
        """
        left = {}
        for topic, ranges in wanted.items():
            done = positions(segments_of(self._root, topic))
            ends = {p: span.end for p, span in self._cluster.ranges(topic).items()}
            for partition, span in ranges.items():
                begin = max(done.get(partition, span.begin), span.begin)
                if done.get(partition, 0) > ends[partition]:
                    raise RecordingError(
                        f"{self._root} has offsets of topic {topic!r} that Kafka does not have, so "
                        "it is of another cluster or an earlier topic; record to another folder."
                    )
                left[topic, partition] = Range(begin, max(span.end, begin))
        return left

    def gaps(self, wanted: Mapping[Place, Range]) -> dict[str, list[Gap]]:
        """Offsets that Kafka has deleted before they were recorded, by topic."""
        found: dict[str, list[Gap]] = {}
        for topic in dict.fromkeys(topic for topic, _ in wanted):
            done = positions(segments_of(self._root, topic))
            held = self._cluster.ranges(topic)
            lost = [
                Gap(p, done[p], held[p].begin)
                for p in sorted(done)
                if p in held and (topic, p) in wanted and held[p].begin > done[p]
            ]
            if lost:
                found[topic] = lost
        return found

    def run(self, wanted: Mapping[Place, Range], *, follow: bool = False) -> None:
        """Record ranges; with ``follow`` everything from their begins on, until stopped.

        Raises:
            BrokerError: the brokers do not answer, or refuse.
            RecordingError: the folder cannot be written; what was finished is complete.
        """
        begins = {place: span.begin for place, span in wanted.items()}
        ends = None if follow else {place: span.end for place, span in wanted.items()}
        self._pending = {
            (topic, partition): _Pending(
                PartitionWriter(self._root, topic, partition, begin, self._rotation.size_bytes),
                begin,
            )
            for (topic, partition), begin in begins.items()
        }
        try:
            self._read(begins, ends)
            for pending in self._pending.values():
                self._finish(pending)
        except OSError as error:
            raise unwritable(self._root, error) from error
        finally:
            for pending in self._pending.values():
                pending.writer.discard()

    def _read(self, begins: Mapping[Place, int], ends: Mapping[Place, int] | None) -> None:
        unread = {place for place in begins if ends is None or begins[place] < ends[place]}
        topics = ", ".join(sorted({topic for topic, _ in begins}))
        size = sum(ends[p] - begins[p] for p in unread) if ends is not None else 0
        consumer = self._cluster.consumer("record", {"auto.offset.reset": "error"})
        try:
            with explained(topics):
                consumer.assign([TopicPartition(*place, begins[place]) for place in unread])
            moved_s = reported_s = time.monotonic()
            while unread and not self._should_stop():
                with explained(topics):
                    messages = consumer.consume(BATCH, 0.1)
                moved = False
                for place, records, end in _by_place(messages):
                    if place not in unread:
                        continue
                    limit = None if ends is None else ends[place]
                    moved |= self._take(place, records, end, limit)
                    if limit is not None and self._pending[place].end >= limit:
                        unread.discard(place)
                now_s = time.monotonic()
                moved_s = now_s if moved or ends is None else moved_s
                if now_s - moved_s > STALLED_AFTER_S:
                    raise RecordingError(
                        f"Kafka gave nothing of {topics} for {STALLED_AFTER_S:.0f} s; check the "
                        "cluster for unavailable partitions or a hanging transaction."
                    )
                if now_s - reported_s > REPORT_EVERY_S or not unread:
                    reported_s = now_s
                    self._rotate(now_s)
                    self._report(begins, size if ends is not None else _known(consumer, begins))
        finally:
            consumer.close()

    def _take(self, place: Place, records: list[Message], end: int, limit: int | None) -> bool:
        """Keep records of a partition up to its limit; returns whether it moved on."""
        pending = self._pending[place]
        if limit is not None and end > limit:
            records = [record for record in records if (record.offset() or 0) < limit]
            end = limit
        if end <= pending.end:
            return False
        columns = pending.columns
        for record in records:
            kind, time_ms = record.timestamp()
            key, value = record.key(), record.value()
            columns["offset"].append(record.offset())
            columns["timestamp"].append(time_ms if kind in _TYPES else None)
            columns["timestamp_type"].append(_TYPES.get(kind))
            columns["key"].append(key)
            columns["value"].append(value)
            headers = headers_of(record)
            columns["headers"].append([{"key": k, "value": v} for k, v in headers] or None)
            pending.size_bytes += len(key or b"") + len(value or b"")
        if records and pending.begun_s is None:
            pending.begun_s = time.monotonic()
        self.records += len(records)
        pending.end = end
        full = min(GROUP_BYTES, self._rotation.size_bytes)
        if len(columns["offset"]) >= GROUP_ROWS or pending.size_bytes >= full:
            self._write(pending)
        return True

    def _write(self, pending: _Pending) -> None:
        """Move pending records into the partition's file."""
        columns, pending.columns = pending.columns, {name: [] for name in FIELDS}
        pending.size_bytes = 0
        pending.writer.write(columns, pending.end)

    def _rotate(self, now_s: float) -> None:
        for pending in self._pending.values():
            if pending.begun_s is not None and now_s - pending.begun_s >= self._rotation.age_s:
                self._finish(pending)

    def _finish(self, pending: _Pending) -> None:
        self._write(pending)
        pending.writer.finish()
        pending.begun_s = None

    def _report(self, begins: Mapping[Place, int], size: int) -> None:
        passed = sum(self._pending[place].end - begin for place, begin in begins.items())
        self._on_progress(Progress(self.records, passed, max(size, passed)))


def _by_place(messages: list[Message]) -> Iterator[tuple[Place, list[Message], int]]:
    """Records by partition, in their order, and the offset to go on from."""
    found: dict[Place, tuple[list[Message], int]] = {}
    for message in messages:
        if passes(message):
            continue
        place = (str(message.topic()), message.partition() or 0)
        records, end = found.get(place, ([], 0))
        offset, error = message.offset() or 0, message.error()
        if error is not None and error.code() == KafkaError._PARTITION_EOF:
            found[place] = (records, max(end, offset))
            continue
        records.append(message)
        found[place] = (records, offset + 1)
    for place, (records, end) in found.items():
        yield place, records, end


def _known(consumer: Consumer, begins: Mapping[Place, int]) -> int:
    """Offsets from the begins to the present ends, as the consumer last heard."""
    size = 0
    for place, begin in begins.items():
        _, end = consumer.get_watermark_offsets(TopicPartition(*place), cached=True)
        size += max(end - begin, 0)
    return size
