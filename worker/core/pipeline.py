"""The one piece of behaviour: ``step(state, chunk) -> outputs``.

Live worker, replay, backtest and tests call the same function. For the same
records it returns the same bytes, however they are cut into chunks, and whatever
restarts lie between: each record is applied once (``state.next_offset``), each
machine on its own but for the limits of the state (``StateLimits``), each score independent
of the other rows of its batch.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.core import messages, windows
from worker.core.channels import ChannelSpec
from worker.core.events import Chunk, EventDecoder, Readings
from worker.core.explanation import UNUSUAL_COMBINATION, describe
from worker.core.features import assemble, no_streams
from worker.core.scoring import Model, Scoring
from worker.core.state import PartitionState

Stream = Literal["anomalies", "late-events", "dead-letters"]


class Record(NamedTuple):
    """One output message, ready to be published."""

    stream: Stream
    key: bytes | None
    value: bytes


@dataclass
class Outputs:
    """What one chunk gave.

    Attributes:
        records: messages to publish, in the order of their events.
        events: records applied; always scored + late + the sum of dead.
        masked: readings outside their physical range, by channel.
        newest_time_us: latest event time among scored and late events; -1 without any.
    """

    records: list[Record] = field(default_factory=list)
    events: int = 0
    scored: int = 0
    late: int = 0
    anomalies: int = 0
    dead: Counter[messages.DeadLetterReason] = field(default_factory=Counter)
    masked: Counter[str] = field(default_factory=Counter)
    newest_time_us: int = -1


class Pipeline:
    """Decode, aggregate, score and explain, for one specification and model.

    Holds no state of its own, so one pipeline serves every partition.
    """

    def __init__(self, spec: ChannelSpec, scoring: Scoring, model: Model) -> None:
        self.spec = spec
        self.scoring = scoring
        self.model = model
        self.decoder = EventDecoder(spec)

    def step(self, state: PartitionState, chunk: Chunk) -> Outputs:
        """Apply the records of ``chunk`` that ``state`` has not seen yet.

        Args:
            state: the partition's state, changed in place.
            chunk: records of that partition, in offset order.
        """
        chunk = chunk.since(state.next_offset)
        outputs = Outputs(events=len(chunk))
        if not len(chunk):
            return outputs
        readings, rejects = self.decoder.decode(chunk)
        found: list[tuple[int, Record]] = []
        for row, reason, detail in rejects:
            outputs.dead[reason] += 1
            found.append((row, self._dead_letter(chunk, row, reason, detail)))
        if len(readings.rows):
            self._apply(state, chunk, readings, outputs, found)
        outputs.records = [record for _, record in sorted(found, key=lambda item: item[0])]
        state.next_offset = int(chunk.offsets[-1]) + 1
        return outputs

    def _apply(
        self,
        state: PartitionState,
        chunk: Chunk,
        readings: Readings,
        outputs: Outputs,
        found: list[tuple[int, Record]],
    ) -> None:
        machines = state.indices(readings.machine_ids)
        aggregates, watermarks_us = state.add(machines, readings.times_us, readings.values)
        late = np.flatnonzero(watermarks_us >= 0)
        scored = np.flatnonzero(watermarks_us == windows.EMPTY)
        refused = np.flatnonzero(watermarks_us == windows.REFUSED)
        for i in late:
            record = self._late_event(chunk, readings, int(i), int(watermarks_us[i]))
            found.append((int(readings.rows[i]), record))
        for row in readings.rows[refused].tolist():
            detail = f"the partition has {state.limits.max_machines} machines already"
            outputs.dead["too-many-machines"] += 1
            found.append((row, self._dead_letter(chunk, row, "too-many-machines", detail)))

        values = readings.values[scored]
        streams = no_streams(self.spec, len(scored))
        features = assemble(self.spec, values, aggregates[scored], streams, self.scoring.expected)
        scores = self.model(features) if len(scored) else np.empty(0, np.float32)
        # In float64, as everybody who reads the anomaly's score and threshold compares them.
        abnormal = np.flatnonzero(scores.astype(np.float64) < self.scoring.threshold)
        for i in abnormal:
            record = self._anomaly(chunk, readings, int(scored[i]), features[i], float(scores[i]))
            found.append((int(readings.rows[scored[i]]), record))

        outputs.scored = len(scored)
        outputs.late = len(late)
        outputs.anomalies = len(abnormal)
        outputs.newest_time_us = int(readings.times_us.max())
        for channel, count in zip(self.spec.continuous, readings.masked.tolist(), strict=True):
            if count:
                outputs.masked[channel.name] += count

    def _anomaly(
        self,
        chunk: Chunk,
        readings: Readings,
        i: int,
        features: NDArray[np.float32],
        score: float,
    ) -> Record:
        key = readings.machine_ids[i]
        causes = self.scoring.causes(self.spec, features.astype(np.float64))
        offset = int(chunk.offsets[readings.rows[i]])
        values = {
            channel.name: None if np.isnan(value) else float(value)
            for channel, value in zip(self.spec.continuous, readings.values[i], strict=True)
        }
        categories = {
            name: category
            for name, column in readings.categories.items()
            if (category := column[i]) is not None
        }
        message = messages.Anomaly(
            id=messages.record_id(chunk.topic, chunk.partition, offset),
            machine_id=key.decode(),
            timestamp=messages.format_time_us(int(readings.times_us[i])),
            is_anomaly=True,
            anomaly_score=score,
            threshold=self.scoring.threshold,
            confidence=self.scoring.confidence(score),
            experience=1.0,
            severity=self.scoring.severity(score),
            episode_id=None,
            reason="; ".join(map(describe, causes)) or UNUSUAL_COMBINATION,
            causes=causes,
            channels=[name for name, value in values.items() if value is not None],
            values=values,
            categories=categories,
            model_version=self.scoring.version,
        )
        return Record("anomalies", key, messages.encode(message))

    def _late_event(self, chunk: Chunk, readings: Readings, i: int, watermark_us: int) -> Record:
        row, key = int(readings.rows[i]), readings.machine_ids[i]
        message = messages.late_event(
            key.decode(),
            int(readings.times_us[i]),
            watermark_us,
            _origin(chunk, row),
            chunk.values[row] or b"",
        )
        return Record("late-events", key, messages.encode(message))

    def _dead_letter(
        self, chunk: Chunk, row: int, reason: messages.DeadLetterReason, detail: str
    ) -> Record:
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
