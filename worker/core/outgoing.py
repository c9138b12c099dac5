"""What the pipeline gives: messages to publish, and counts of what was met."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.core import messages
from worker.core.detection.detector import Scores
from worker.core.events import Chunk, Readings

Stream = Literal["anomalies", "anomaly-episodes", "sensor-health", "late-events", "dead-letters"]


class Record(NamedTuple):
    """One output message, ready to be published."""

    stream: Stream
    key: bytes | None
    value: bytes


class Scored(NamedTuple):
    """The scores of some events.

    Attributes:
        rows: (k,) positions in the chunk.
        scores: of these k events.
    """

    rows: NDArray[np.int64]
    scores: Scores


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
