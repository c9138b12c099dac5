"""What the pipeline gives: messages to publish, and counts of what was met."""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.core import messages
from worker.core.detection.detector import Scores
from worker.core.events import Chunk, Readings

Stream = Literal["anomalies", "anomaly-episodes", "sensor-health", "late-events", "dead-letters"]
"""What the pipeline tells of events."""
DriftStream = Literal["drift-partials", "drift-events", "retraining-requests"]
"""What is told of many together."""


class Record(NamedTuple):
    """One output message, ready to be published.

    Attributes:
        gathered: its key alone says which partition it goes to, so that what several partitions
            of the input tell under one key meets in one place. Else it goes by the input's
            partition: the same in every run, also for records without a key, and a machine's
            records stay in order.
        offset: of the input's record that caused it; None: many did.
    """

    stream: Stream | DriftStream
    key: bytes | None
    value: bytes
    gathered: bool = False
    offset: int | None = None

    def partition(self, source: int, partitions: int) -> int:
        """Which of so many partitions it goes to, when it came of partition ``source``."""
        return partition_of(self.key or b"", partitions) if self.gathered else source % partitions


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of everything that is gathered under a key."""
    return zlib.crc32(key) % partitions


class Scored(NamedTuple):
    """The scores of some events, and what was scored.

    Attributes:
        readings: of these k events; its ``rows`` are their positions in the chunk.
        machines: (k,) positions in the state's arrays.
        values: (k, C) readings that were used, NaN where missing or masked.
        maintained: (k,) whether an event is under planned maintenance.
        previous_us: (k,) the machine's newest event time before each event, -1 without.
        aggregates: (k, C, 5) of the windows; see :func:`worker.core.windows.aggregate`.
    """

    scores: Scores
    readings: Readings
    machines: NDArray[np.int64]
    values: NDArray[np.float64]
    maintained: NDArray[np.bool_]
    previous_us: NDArray[np.int64]
    aggregates: NDArray[np.float64]


@dataclass
class Outputs:
    """What one chunk gave.

    Attributes:
        records: messages to publish, in the order of their events.
        scored_events: the scores, of which each event that was scored has one.
        events: records applied; always scored + late + the sum of dead.
        masked: readings outside their physical range, by channel.
        episodes: transitions of episodes, by status.
        health: transitions of sensors' conditions, by kind and status.
        newest_time_us: latest event time among scored and late events; -1 without any.
    """

    records: list[Record] = field(default_factory=list)
    scored_events: list[Scored] = field(default_factory=list)
    events: int = 0
    scored: int = 0
    late: int = 0
    anomalies: int = 0
    dead: Counter[messages.DeadLetterReason] = field(default_factory=Counter)
    masked: Counter[str] = field(default_factory=Counter)
    episodes: Counter[str] = field(default_factory=Counter)
    health: Counter[tuple[str, str]] = field(default_factory=Counter)
    newest_time_us: int = -1


def late_event(chunk: Chunk, readings: Readings, i: int, watermark_us: int) -> Record:
    """Tell of an event that came after its machine's watermark."""
    row, key = int(readings.rows[i]), readings.machine_ids[i]
    message = messages.late_event(
        key.decode(),
        int(readings.times_us[i]),
        watermark_us,
        _origin(chunk, row),
        chunk.values[row] or b"",
    )
    return Record("late-events", key, messages.encode(message))


def dead_letter(chunk: Chunk, row: int, reason: messages.DeadLetterReason, detail: str) -> Record:
    """Tell of a record that cannot be used."""
    message = messages.dead_letter(
        reason,
        detail,
        _origin(chunk, row),
        int(chunk.timestamps_ms[row]),
        chunk.keys[row],
        chunk.values[row],
    )
    key = chunk.keys[row]
    # A key as long as a record may be would leave no room for the message.
    key = None if key is None else key[: messages.MAX_PAYLOAD_BYTES]
    return Record("dead-letters", key, messages.encode(message))


def _origin(chunk: Chunk, row: int) -> messages.Origin:
    return messages.Origin(chunk.topic, chunk.partition, int(chunk.offsets[row]))
