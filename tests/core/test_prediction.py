"""Predictions of single readings beside what the stream says of the same readings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from worker.assets import asset_dir
from worker.core.events import Chunk, Reject
from worker.core.messages import Anomaly
from worker.core.outgoing import Scored
from worker.core.pipeline import Pipeline
from worker.core.prediction import Known, Prediction, Predictor
from worker.core.state import PartitionState
from worker.models.bundle import load_bundle
from worker.simulator import FaultRates, Simulator

START_US = 1_772_432_130_000_000
US_PER_S = 1_000_000
MACHINES = 20


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load_bundle("machine-health", asset_dir("models")).pipeline()


def chunk_of(payloads: Sequence[tuple[bytes, bytes]], first: int = 0) -> Chunk:
    times_ms = [int(START_US // 1000) + 86_400_000] * len(payloads)
    return Chunk(
        "sensor-events",
        0,
        np.arange(first, first + len(payloads)),
        np.array(times_ms, np.int64),
        [key for key, _ in payloads],
        [value for _, value in payloads],
    )


class Stream:
    """A partition that is applied round by round: each round an event of every machine."""

    def __init__(self, pipeline: Pipeline, interval_s: float = 15.0, faults: float = 40.0) -> None:
        self.pipeline = pipeline
        self.state = PartitionState(pipeline.spec)
        self.known: dict[bytes, Known] = {}
        self._simulator = Simulator(
            pipeline.spec,
            machines=MACHINES,
            interval_s=interval_s,
            start_us=START_US,
            seed=3,
            faults=FaultRates(faults, 0.0, 0.0),
        )
        self._interval_us = int(interval_s * US_PER_S)
        self._now_us = START_US
        self._offset = 0

    def next_round(self) -> Chunk:
        self._now_us += self._interval_us
        chunk = chunk_of(list(self._simulator.advance(self._now_us)), self._offset)
        self._offset += len(chunk)
        return chunk

    def apply(self, chunk: Chunk) -> tuple[list[Scored], dict[bytes, Anomaly]]:
        outputs = self.pipeline.step(self.state, chunk)
        rows = {
            key.removesuffix(b"|m"): value
            for key, value in self.state.take_changes()
            if value is not None and key.endswith(b"|m")
        }
        for scored in outputs.scored_events:
            for i, name in enumerate(scored.readings.machine_ids):
                time_us = int(scored.readings.times_us[i])
                self.known[name] = Known(rows[name], scored.aggregates[i].copy(), time_us)
        anomalies = {
            record.key: json.loads(record.value)
            for record in outputs.records
            if record.stream == "anomalies" and record.key is not None
        }
        return outputs.scored_events, anomalies  # type: ignore[return-value]


@pytest.fixture(scope="module")
def compared(pipeline: Pipeline) -> list[tuple[Prediction, Scored, int, Any, bool]]:
    """Predictions, what the stream said, and whether the pane was that of the event before."""
    stream = Stream(pipeline)
    predictor = Predictor(pipeline)
    found = []
    pane_us = pipeline.spec.pane_us
    for _ in range(400):
        chunk = stream.next_round()
        predictions = predictor.predict(chunk, [stream.known.get(key) for key in chunk.keys])
        before = {name: known.time_us // pane_us for name, known in stream.known.items()}
        scored_events, anomalies = stream.apply(chunk)
        for scored in scored_events:
            for i, (row, name) in enumerate(
                zip(scored.readings.rows.tolist(), scored.readings.machine_ids, strict=True)
            ):
                same_pane = before.get(name) == int(scored.readings.times_us[i]) // pane_us
                prediction = predictions[row]
                assert isinstance(prediction, Prediction)
                found.append((prediction, scored, i, anomalies.get(name), same_pane))
    return found


def differences(
    compared: list[tuple[Prediction, Scored, int, Any, bool]], in_pane: bool
) -> Iterator[float]:
    for prediction, scored, i, _, same_pane in compared:
        if same_pane is in_pane:
            yield abs(prediction.anomaly_score - float(scored.scores.anomaly_score[i]))


def test_a_prediction_within_the_pane_is_what_the_stream_then_says(
    compared: list[tuple[Prediction, Scored, int, Any, bool]],
) -> None:
    distances = list(differences(compared, in_pane=True))
    assert len(distances) > 5_000
    assert max(distances) <= 1e-12
    assert any(anomaly for _, _, _, anomaly, _ in compared)
    for prediction, scored, i, anomaly, same_pane in compared:
        if same_pane:
            assert list(prediction.features.values()) == pytest.approx(
                scored.scores.inputs[i].tolist(), rel=1e-6, abs=1e-9
            )
            assert prediction.is_anomaly == (anomaly is not None)
        if same_pane and anomaly is not None:
            told = (prediction.reason, prediction.severity, prediction.experience)
            assert told == tuple(anomaly[key] for key in ("reason", "severity", "experience"))


def test_in_the_next_pane_a_prediction_differs_by_what_has_left_the_window_only(
    compared: list[tuple[Prediction, Scored, int, Any, bool]],
) -> None:
    distances = list(differences(compared, in_pane=False))
    assert len(distances) > 1_000
    assert max(distances) < 0.05
    assert float(np.mean(np.array(distances) == 0.0)) > 0.8


@pytest.fixture(scope="module")
def after(pipeline: Pipeline) -> tuple[Stream, Chunk]:
    """A stream of some rounds, and the next."""
    stream = Stream(pipeline)
    for _ in range(30):
        stream.apply(stream.next_round())
    return stream, stream.next_round()


def test_readings_of_one_call_do_not_know_of_each_other(
    pipeline: Pipeline, after: tuple[Stream, Chunk]
) -> None:
    stream, chunk = after
    known = [stream.known[key] for key in chunk.keys if key is not None]
    predictor = Predictor(pipeline)
    together = predictor.predict(chunk, known)
    keys, values = [*chunk.keys] * 3, [*chunk.values] * 3
    thrice = chunk_of(list(zip(keys, values, strict=True)))  # type: ignore[arg-type]
    assert predictor.predict(thrice, known * 3) == together * 3
    for row, expected in enumerate(together):
        one = chunk_of([(keys[row], values[row])])  # type: ignore[list-item]
        assert predictor.predict(one, [known[row]]) == [expected]


def test_a_prediction_changes_nothing_that_it_was_given(
    pipeline: Pipeline, after: tuple[Stream, Chunk]
) -> None:
    stream, chunk = after
    known = [stream.known[key] for key in chunk.keys if key is not None]
    before = [(k.row, k.aggregates.copy()) for k in known]
    snapshot = stream.state.snapshot()
    Predictor(pipeline).predict(chunk, known)
    assert stream.state.snapshot() == snapshot
    for (row, aggregates), k in zip(before, known, strict=True):
        assert k.row == row
        np.testing.assert_array_equal(k.aggregates, aggregates)


def test_what_another_bundle_or_layout_wrote_and_what_is_damaged_does_not_count(
    pipeline: Pipeline, after: tuple[Stream, Chunk]
) -> None:
    stream, chunk = after
    predictor = Predictor(pipeline)
    known = [stream.known[key] for key in chunk.keys if key is not None]
    alone = predictor.predict(chunk, [None] * len(chunk))
    damaged = [k._replace(row=k.row[:99] + bytes([k.row[99] ^ 1]) + k.row[100:]) for k in known]
    shorter = [k._replace(row=k.row[:-8]) for k in known]
    other_layout = [k._replace(row=bytes(8) + k.row[8:]) for k in known]
    for rows in (damaged, shorter, other_layout):
        assert predictor.predict(chunk, rows) == alone
    other = load_bundle("machine-health", asset_dir("models")).pipeline()
    other.fingerprint += 1
    assert Predictor(other).predict(chunk, known) == alone
    assert not any(prediction.known for prediction in alone if isinstance(prediction, Prediction))
    assert predictor.predict(chunk, known) != alone


def test_a_reading_is_refused_for_the_reason_that_the_stream_has(
    pipeline: Pipeline, after: tuple[Stream, Chunk]
) -> None:
    stream, chunk = after
    key, value = chunk.keys[0], chunk.values[0]
    assert key is not None
    assert value is not None
    event = json.loads(value)
    known = stream.known[key]
    early_us = known.time_us - pipeline.spec.grace_us - 1
    requests = [
        (key, b"{"),
        (key, json.dumps(event | {"timestamp": early_us}).encode()),
        (key, value),
        (b"other", value),
        (key, json.dumps({"machine_id": event["machine_id"]}).encode()),
    ]
    found = Predictor(pipeline).predict(chunk_of(requests), [known] * len(requests))
    assert [r.reason if isinstance(r, Reject) else None for r in found] == [
        "malformed-json",
        "timestamp-out-of-range",
        None,
        "key-mismatch",
        "no-usable-channel",
    ]


def test_a_whole_window_later_only_the_reading_itself_is_in_it(
    pipeline: Pipeline, after: tuple[Stream, Chunk]
) -> None:
    stream, chunk = after
    key, value = chunk.keys[0], chunk.values[0]
    assert key is not None
    assert value is not None
    later_us = stream.known[key].time_us + pipeline.spec.length_us
    later = json.dumps(json.loads(value) | {"timestamp": later_us}).encode()
    (prediction,) = Predictor(pipeline).predict(chunk_of([(key, later)]), [stream.known[key]])
    assert isinstance(prediction, Prediction)
    assert prediction.known
    spreads = [v for name, v in prediction.features.items() if name.startswith("rolling_std_")]
    assert spreads
    assert set(spreads) == {0.0}
