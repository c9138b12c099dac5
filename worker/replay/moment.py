"""What was known of a machine at a moment of a recording, and why it was judged as it was.

Machines are judged each on its own, so its own records are enough: they are applied from the
first to the last before that moment, by a worker's own ``step``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from worker.assets import asset_dir
from worker.core.errors import ConfigError
from worker.core.events import Chunk
from worker.core.explanation import SeenCode, explain
from worker.core.messages import format_time_us
from worker.core.outgoing import Scored
from worker.core.pipeline import Pipeline
from worker.core.state import PartitionState
from worker.models.bundle import load_bundle
from worker.pipelines import create_pipeline
from worker.recording.files import Segment, segments_of
from worker.recording.parquet import READ, chunk_of, read_batches
from worker.replay.partition import Source
from worker.replay.tables import Told

BATCH_ROWS = 50_000


@dataclass(frozen=True)
class SignalThen:
    """A signal of the reading; ``contribution`` is 0 where the reading was ordinary."""

    name: str
    unit: str
    value: float
    expected: float
    deviation: float
    contribution: float


@dataclass(frozen=True)
class InputThen:
    """One of the model's inputs, and what it usually is."""

    name: str
    value: float
    usual: float


@dataclass(frozen=True)
class Moment:
    """The last reading of a machine before a moment, and what was open then.

    Attributes:
        records: how many records of the machine were applied, this one among them.
        experience: share of the machine's warm-up that was done, in [0, 1].
        episodes, conditions: the messages of those that were open.
    """

    machine_id: str
    timestamp: str
    partition: int
    offset: int
    records: int
    anomaly_score: float
    threshold: float
    confidence: float
    experience: float
    reason: str
    signals: tuple[SignalThen, ...]
    inputs: tuple[InputThen, ...]
    episodes: tuple[dict[str, Any], ...]
    conditions: tuple[dict[str, Any], ...]
    model_version: str

    @property
    def is_anomaly(self) -> bool:
        """Whether the reading was one."""
        return self.anomaly_score < self.threshold


def moment_of(
    source: Source,
    machine_id: str,
    at_us: int,
    on_progress: Callable[[int, int], None] = lambda done, size: None,
) -> Moment:
    """Rebuild a machine's state at a moment.

    Args:
        at_us: epoch microseconds; readings of later are not applied.
        on_progress: told how many files are done, and of how many.

    Raises:
        ConfigError: the recording has no reading of the machine up to then.
        BundleError, RecordingError: as of a backtest.
    """
    bundle = load_bundle(source.bundle, asset_dir("models"), threads=1)
    pipeline = create_pipeline(source.settings, bundle)
    by_partition: dict[int, list[Segment]] = {}
    for segment in segments_of(source.root, source.topic):
        by_partition.setdefault(segment.partition, []).append(segment)
    # A machine's records are in one partition, unless its gateway was changed.
    found: list[_Last] = []
    for done, own in enumerate(by_partition.values()):
        on_progress(done, len(by_partition))
        last = _apply(pipeline, source.topic, own, machine_id.encode(), at_us)
        if last is not None:
            found.append(last)
    on_progress(len(by_partition), len(by_partition))
    if not found:
        raise ConfigError(
            f"--machine: {source.root} has no usable reading of {machine_id!r} up to "
            f"{format_time_us(at_us)}; see its keys and times."
        )
    latest = max(found, key=lambda last: int(last.scored.readings.times_us[-1]))
    return _describe(pipeline, machine_id, latest, bundle.model_version)


class _Last(NamedTuple):
    """The last stretch of a machine's readings that was scored, and what was told until then."""

    chunk: Chunk
    scored: Scored
    records: int
    told: Told


def _apply(
    pipeline: Pipeline, topic: str, segments: Sequence[Segment], key: bytes, at_us: int
) -> _Last | None:
    """Apply a machine's records of one partition up to a moment; None without a reading."""
    state, told, records = PartitionState(pipeline.spec), Told(), 0
    last: tuple[Chunk, Scored] | None = None
    for batch in read_batches(segments, BATCH_ROWS, READ):
        own = batch.filter(pc.equal(batch.column("key"), pa.scalar(key, pa.binary())))
        if not own.num_rows:
            continue
        chunk = chunk_of(topic, segments[0].partition, own)
        readings, _ = pipeline.decoder.decode(chunk)
        later = readings.rows[readings.times_us > at_us]
        if len(later):
            chunk = chunk_of(topic, segments[0].partition, own.slice(0, int(later[0])))
        outputs = pipeline.step(state, chunk, tells_anomalies=False)
        records += outputs.events
        told.take(outputs)
        if outputs.scored_events:
            last = (chunk, outputs.scored_events[-1])
        if len(later):
            break
    return None if last is None else _Last(*last, records, told)


def _describe(pipeline: Pipeline, machine_id: str, last: _Last, model_version: str) -> Moment:
    spec, scored, scores = pipeline.spec, last.scored, last.scored.scores
    codes = [column[-1:] for column in scored.readings.codes.values()]
    (values,) = pipeline.detector.signals(scored.values[-1:], codes)
    found = explain(
        spec,
        scores.contributions[-1],
        values,
        scores.expected[-1],
        scores.deviation[-1],
        codes=[
            seen and SeenCode(*seen) for seen in pipeline.detector.codes.seen([c[0] for c in codes])
        ],
        experience=float(scores.experience[-1]),
    )
    ordinary = not scores.contributions[-1].any()
    signals = zip(
        spec.signals,
        spec.signal_units,
        values,
        scores.expected[-1],
        scores.deviation[-1],
        scores.contributions[-1],
        strict=True,
    )
    inputs = zip(spec.feature_names, scores.inputs[-1], pipeline.detector.usual_inputs, strict=True)
    return Moment(
        machine_id=machine_id,
        timestamp=format_time_us(int(scored.readings.times_us[-1])),
        partition=last.chunk.partition,
        offset=int(last.chunk.offsets[scored.readings.rows[-1]]),
        records=last.records,
        anomaly_score=float(scores.anomaly_score[-1]),
        threshold=float(scores.threshold[-1]),
        confidence=float(scores.confidence[-1]),
        experience=float(scores.experience[-1]),
        reason="As usual." if ordinary else found.reason,
        signals=tuple(
            SignalThen(name, unit, *map(float, numbers)) for name, unit, *numbers in signals
        ),
        inputs=tuple(InputThen(name, float(x), float(usual)) for name, x, usual in inputs),
        episodes=tuple(last.told.open("anomaly-episodes")),
        conditions=tuple(last.told.open("sensor-health")),
        model_version=model_version,
    )
