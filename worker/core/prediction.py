"""What the stream would say of readings that came right after their machines' last events.

The same decoding, masking, scoring and explaining as in :mod:`worker.core.pipeline`, on a
scratch row of each reading's machine: nothing is changed, and readings of one call do not know
of each other. What is known of a machine is its own row of the changelog and the aggregates of
its window, to which the reading is added (T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating
formulae and a pairwise algorithm for computing sample variances", 1979). While the reading falls
into the pane of the last event, the aggregates are those of the stream but for the last digits
of their sums. In a later pane they still hold the oldest readings, which the stream has
dropped by then; a whole window later nothing of them is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.core import maintenance, messages, windows
from worker.core.channels import ChannelSpec
from worker.core.detection.detector import Scores
from worker.core.events import Chunk, Readings, Reject
from worker.core.explanation import Explanation
from worker.core.followed import machine_table
from worker.core.pipeline import Pipeline
from worker.core.rows import Layout, checks


class Known(NamedTuple):
    """What is known of a machine after its last event.

    Attributes:
        row: its own row as in the changelog; see :attr:`worker.core.rows.Layout.machine_dtype`.
        aggregates: (C, 5) of its window; see :func:`worker.core.windows.aggregate`.
        time_us: the last event's time.
    """

    row: bytes
    aggregates: NDArray[np.float64]
    time_us: int


class Prediction(NamedTuple):
    """What would be said of one reading.

    Attributes:
        timestamp: of the reading, RFC 3339 UTC.
        anomaly_score: in [-1, 1], lower is worse; an anomaly exactly where below ``threshold``.
        severity, reason, causes: of an anomaly; else None, "" and empty.
        features: the model's inputs by name.
        masked: channels whose reading was left out, as impossible, implausible or stuck.
        known: whether the machine's own past was used.
    """

    machine_id: str
    timestamp: str
    is_anomaly: bool
    anomaly_score: float
    threshold: float
    confidence: float
    experience: float
    severity: messages.Severity | None
    reason: str
    causes: list[messages.Cause]
    features: dict[str, float]
    masked: list[str]
    known: bool


class Predictor:
    """Predicts with one pipeline. Not thread-safe: the scratch rows are its own.

    Args:
        pipeline: what the stream is scored with; nothing of it changes.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._spec = pipeline.spec
        self._table = machine_table(pipeline.spec)
        self._channels = [channel.name for channel in pipeline.spec.continuous]
        self._features = [feature.name for feature in pipeline.spec.features]

    def predict(self, chunk: Chunk, known: Sequence[Known | None]) -> list[Prediction | Reject]:
        """Score readings, each as if it were its machine's next event.

        Args:
            chunk: one event a record, as a gateway would send it; its topic and offsets say
                nothing.
            known: of the machine of each record. What another bundle or layout wrote does not
                count.

        Returns:
            For each record what the stream would say, or why it would not be scored: a reading
            that is further behind its machine's last event than the grace is out of range.
        """
        readings, rejects = self._pipeline.decoder.decode(chunk)
        pasts = [known[row] for row in readings.rows.tolist()]
        late = self._late(readings, pasts)
        rejects += late.values()
        at = np.array([i for i in range(len(pasts)) if i not in late], np.int64)
        results: dict[int, Prediction | Reject] = {}
        if len(at):
            part = readings.take(at)
            found = self._score(part, [pasts[i] for i in at.tolist()], rejects)
            results |= zip(part.rows.tolist(), found, strict=True)
        results |= {reject.row: reject for reject in rejects}
        return [results[row] for row in range(len(chunk))]

    def _late(self, readings: Readings, pasts: Sequence[Known | None]) -> dict[int, Reject]:
        """Refusals of what the stream would call late, by position."""
        late = {}
        for i, past in enumerate(pasts):
            if past is not None and readings.times_us[i] < past.time_us - self._spec.grace_us:
                detail = (
                    f"{messages.format_time_us(int(readings.times_us[i]))} is before the machine's "
                    f"last event, at {messages.format_time_us(past.time_us)}, by more than the "
                    "grace"
                )
                late[i] = Reject(int(readings.rows[i]), "timestamp-out-of-range", detail)
        return late

    def _score(
        self, readings: Readings, pasts: Sequence[Known | None], rejects: list[Reject]
    ) -> list[Prediction]:
        """Score readings (n,), each in a table row of its own."""
        pipeline, table = self._pipeline, self._table
        machines = np.arange(len(readings.rows))
        is_known = self._load(readings.machine_ids, pasts)
        maintained = maintenance.follow(
            table,
            pipeline.planned,
            machines,
            readings.machine_ids,
            readings.times_us,
            [maintenance.announcement(i, i, readings.notices[i]) for i in sorted(readings.notices)],
        )
        for i in maintained.refused:
            detail = messages.DEAD_LETTER_REASONS["too-many-windows"]
            rejects.append(Reject(int(readings.rows[i]), "too-many-windows", detail))
        values, _ = pipeline.health.check(
            table,
            readings.times_us,
            machines,
            readings.times_us,
            readings.record_times_us,
            readings.values,
            readings.impossible,
        )
        signals = pipeline.detector.signals(values, list(readings.codes.values()))
        scores = pipeline.detector.score(
            table,
            machines,
            readings.times_us,
            signals,
            _aggregates(self._spec, readings.times_us, values, pasts, is_known),
            maintained.maintained,
            maintained.relearn,
        )
        return [
            self._prediction(readings, i, values[i], signals, scores, bool(is_known[i]))
            for i in machines.tolist()
        ]

    def _prediction(
        self,
        readings: Readings,
        i: int,
        values: NDArray[np.float64],
        signals: NDArray[np.float64],
        scores: Scores,
        is_known: bool,
    ) -> Prediction:
        """What is said of the reading at ``i``, of which ``values`` (C,) were used."""
        score, threshold = float(scores.anomaly_score[i]), float(scores.threshold[i])
        severity: messages.Severity | None = None
        explained = Explanation([], "")
        if score < threshold:
            explained = self._pipeline.explain_reading(readings, i, signals, scores, i)
            severity = self._pipeline.episodes.severity(score, threshold, scores.contributions[i])
        masked = ~np.isnan(readings.values[i]) & np.isnan(values)
        return Prediction(
            machine_id=readings.machine_ids[i].decode(),
            timestamp=messages.format_time_us(int(readings.times_us[i])),
            is_anomaly=score < threshold,
            anomaly_score=score,
            threshold=threshold,
            confidence=float(scores.confidence[i]),
            experience=float(scores.experience[i]),
            severity=severity,
            reason=explained.reason,
            causes=explained.causes,
            features=dict(zip(self._features, scores.inputs[i].tolist(), strict=True)),
            masked=[name for name, out in zip(self._channels, masked.tolist(), strict=True) if out],
            known=is_known,
        )

    def _load(
        self, machine_ids: Sequence[bytes], pasts: Sequence[Known | None]
    ) -> NDArray[np.bool_]:
        """Give each reading its machine's past, or a beginning; which (n,) have a past."""
        layout, rows = self._pipeline.layout, np.arange(len(pasts))
        if len(pasts) > len(self._table):
            self._table.grow(len(pasts))
        fitting = [past.row if past and _fits(layout, past.row) else b"" for past in pasts]
        is_known = np.array([bool(row) for row in fitting], np.bool_)
        records = np.frombuffer(b"".join(fitting), layout.machine_dtype)
        of_this = records["fields"]["model"] == self._pipeline.fingerprint
        usable = of_this & (checks(records) == records["check"])
        is_known[is_known] = usable
        self._table.load(rows[is_known], records["fields"][usable])
        new = rows[~is_known]
        if len(new):
            self._table.reset(new)
            names = [machine_ids[i].decode() for i in new.tolist()]
            self._pipeline.begin(self._table, new, names)
        return is_known


def _fits(layout: Layout, row: bytes) -> bool:
    return len(row) == layout.machine_dtype.itemsize and row[:8] == layout.machine_prefix


def _aggregates(
    spec: ChannelSpec,
    times_us: NDArray[np.int64],
    values: NDArray[np.float64],
    pasts: Sequence[Known | None],
    is_known: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Aggregates (n, C, 5) of the windows with the readings (n, C) added."""
    merged = np.zeros((*values.shape, windows.STATS))
    merged[..., windows.MIN], merged[..., windows.MAX] = np.inf, -np.inf
    for i, past in enumerate(pasts):
        if past is not None and is_known[i] and times_us[i] < past.time_us + spec.length_us:
            merged[i] = past.aggregates
    _add(merged, values)
    return merged


def _add(aggregates: NDArray[np.float64], values: NDArray[np.float64]) -> None:
    """Add a reading to each window (..., C, 5), in place; NaN (..., C): there is none."""
    count, mean, std, low, high = (aggregates[..., stat] for stat in range(windows.STATS))
    there = ~np.isnan(values)
    more = count + 1.0
    delta = values - mean
    squares = std * std * count + delta * delta * (count / more)
    # The extremes of panes are in single precision, which is what models take.
    short = values.astype(np.float32)
    np.copyto(std, np.sqrt(squares / more), where=there)
    np.copyto(mean, mean + delta / more, where=there)
    np.copyto(low, np.minimum(low, short), where=there)
    np.copyto(high, np.maximum(high, short), where=there)
    np.copyto(count, more, where=there)
