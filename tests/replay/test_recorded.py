from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tests.replay.conftest import Pumps
from tests.support.recorded import keep
from worker.cli.main import run
from worker.core.events import Chunk
from worker.core.outgoing import Record
from worker.core.state import PartitionState
from worker.pipelines import create_pipeline
from worker.recording.files import segments_of
from worker.recording.parquet import read_batches
from worker.replay.backtest import backtest
from worker.replay.moment import moment_of
from worker.replay.partition import Source
from worker.replay.recorded import backtest_recording
from worker.replay.tables import SCORES
from worker.settings import Settings
from worker.training.readings import recording_of

TOPIC = "events"
GARBAGE = b"\xffgarbage"


@pytest.fixture(scope="module")
def frame(pumps: Pumps) -> pl.DataFrame:
    """What the pumps did in the order of time, one of them with a fault."""
    faulty = pl.col("machine_id") == pumps.frame["machine_id"][0]
    after = pl.col("timestamp") > pumps.frame["timestamp"].quantile(0.75)
    flow = pl.when(faulty & after).then(pl.col("flow") + 60.0).otherwise(pl.col("flow"))
    return pumps.frame.with_columns(flow).sort("timestamp", maintain_order=True)


@pytest.fixture(scope="module")
def recording(frame: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as gateways would have sent it, on two partitions, with garbage and a late event."""
    root = tmp_path_factory.mktemp("recording")
    moment = pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
    values = frame.select(
        pl.struct(pl.exclude("timestamp"), moment.alias("timestamp")).struct.json_encode()
    ).to_series()
    keys = frame["machine_id"].to_list()
    first = sorted(set(keys))[:2]
    for partition in (0, 1):
        own = [i for i, key in enumerate(keys) if (key in first) == (partition == 0)]
        sent = [(keys[i].encode(), values[i].encode(), frame["timestamp"][i]) for i in own]
        sent.insert(40, (b"x", GARBAGE, sent[40][2]))
        sent.append((sent[0][0], sent[0][1], sent[-1][2]))
        keep(root, TOPIC, partition, [(k, v, round(t.timestamp() * 1000)) for k, v, t in sent])
    return root


def chunks(root: Path, partition: int, rows: int) -> list[Chunk]:
    own = [segment for segment in segments_of(root, TOPIC) if segment.partition == partition]
    return [
        Chunk(
            TOPIC,
            partition,
            batch.column("offset").to_numpy(),
            batch.column("timestamp").cast("int64").to_numpy(),
            batch.column("key").to_pylist(),
            batch.column("value").to_pylist(),
        )
        for batch in read_batches(own, rows)
    ]


def published(root: Path, topic: str, partition: int) -> Sequence[tuple[bytes, bytes]]:
    own = [segment for segment in segments_of(root, topic) if segment.partition == partition]
    return [(r["key"], r["value"]) for b in read_batches(own, 1_000) for r in b.to_pylist()]


@pytest.mark.parametrize("processes", [1, 2])
def test_it_says_and_would_publish_what_a_worker_does(
    pumps: Pumps, recording: Path, tmp_path: Path, processes: int
) -> None:
    settings = Settings()
    source = Source(recording, TOPIC, str(pumps.path), settings, tmp_path / "messages")
    result = backtest_recording(source, tmp_path / "scores.parquet", processes)
    told: list[tuple[int, Record]] = []
    scores: list[np.ndarray[tuple[int], np.dtype[np.float64]]] = []
    for partition in (0, 1):
        state, pipeline = PartitionState(pumps.bundle.spec), create_pipeline(settings, pumps.bundle)
        for chunk in chunks(recording, partition, 37):
            outputs = pipeline.step(state, chunk)
            told += [(partition, record) for record in outputs.records]
            own = np.full(len(chunk), np.nan)
            for part in outputs.scored_events:
                own[part.readings.rows] = part.scores.anomaly_score
            scores.append(own)
    table = pl.read_parquet(tmp_path / "scores.parquet")
    np.testing.assert_array_equal(table["anomaly_score"].to_numpy(), np.concatenate(scores))
    streams = {record.stream for _, record in told}
    assert streams >= {"anomalies", "anomaly-episodes", "late-events", "dead-letters"}
    for stream in streams:
        for partition in (0, 1):
            live = [(r.key, r.value) for p, r in told if p == partition and r.stream == stream]
            assert published(tmp_path / "messages", stream, partition) == live
    assert result.summary["anomalies"] == sum(r.stream == "anomalies" for _, r in told)


def test_each_record_has_a_row_and_garbage_an_empty_one(
    pumps: Pumps, recording: Path, frame: pl.DataFrame, tmp_path: Path
) -> None:
    source = Source(recording, TOPIC, str(pumps.path), Settings())
    result = backtest_recording(source, tmp_path / "scores.parquet", 1)
    table = pl.read_parquet(tmp_path / "scores.parquet")
    assert dict(table.schema) == SCORES
    assert len(table) == len(frame) + 4
    assert table.row(40) == (None, None, None, None, False, [])
    late = table.row(sum(map(len, chunks(recording, 0, 10_000))) - 1, named=True)
    assert (late["anomaly_score"], late["is_anomaly"]) == (None, False)
    assert late["timestamp"] == table["timestamp"][0]
    summary = result.summary
    assert (summary["rows"], summary["late"]) == (len(table), 2)
    assert summary["dead_letters"] == {"not-utf8": 2}
    assert summary["scored"] == len(frame)


def test_a_table_of_the_same_readings_says_the_same(
    pumps: Pumps, recording: Path, frame: pl.DataFrame, tmp_path: Path
) -> None:
    source = Source(recording, TOPIC, str(pumps.path), Settings())
    result = backtest_recording(source, tmp_path / "scores.parquet", 1)
    of_table = backtest(pumps.bundle, recording_of(frame, pumps.bundle.spec, "table"))
    assert_frame_equal(result.episodes, of_table.episodes)
    keys = ["machine_id", "timestamp"]
    found = pl.read_parquet(tmp_path / "scores.parquet").drop_nulls("anomaly_score").sort(keys)
    assert_frame_equal(found, of_table.scores.sort(keys))
    for key in ("machines", "machine_days", "anomalies", "episodes", "start", "end"):
        assert result.summary[key] == pytest.approx(of_table.summary[key])


def test_the_command_takes_a_recording(
    pumps: Pumps, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["backtest", "--data", str(recording), "--model", str(pumps.path)]
    command += ["--out", str(out), "--messages", "--jobs", "1"]
    assert run(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    assert json.loads((out / "summary.json").read_text())["data"].endswith(f"topic {TOPIC}")
    assert (out / "messages" / "topic=anomalies").is_dir()
    assert not list(out.glob(".scores-*"))
    assert run(command) == 78
    assert "is there already" in capsys.readouterr().err


def test_options_of_the_other_kind_are_refused(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--model", "machine-health", "--out", str(tmp_path / "out")]
    assert run(["backtest", "--data", str(recording), *out, "--warm-up", "x.csv"]) == 78
    assert "a recording begins with fresh state" in capsys.readouterr().err
    assert run(["backtest", "--data", str(tmp_path), *out, "--messages"]) == 78
    assert "is no recording" in capsys.readouterr().err


def test_a_moment_shows_the_score_that_a_backtest_gave_and_what_was_open(
    pumps: Pumps, recording: Path, tmp_path: Path
) -> None:
    source = Source(recording, TOPIC, str(pumps.path), Settings())
    backtest_recording(source, tmp_path / "scores.parquet", 1)
    table = pl.read_parquet(tmp_path / "scores.parquet").drop_nulls("anomaly_score")
    faulty = table.filter("is_anomaly")["machine_id"].mode()[0]
    own = table.filter(pl.col("machine_id") == faulty).with_columns(
        us=pl.col("timestamp").dt.epoch("us")
    )
    for row in (*own[::97].to_dicts(), *own.filter("is_anomaly")[-1:].to_dicts()):
        moment = moment_of(source, faulty, row["us"] + 1)
        assert moment.anomaly_score == row["anomaly_score"]
        assert moment.threshold == row["threshold"]
        assert moment.is_anomaly == row["is_anomaly"]
    largest = max(moment.signals, key=lambda one: one.contribution)
    assert largest.name == "flow"
    assert largest.deviation > 5.0
    assert "flow" in moment.reason
    (episode,) = moment.episodes
    assert episode["machine_id"] == faulty
    assert len(moment.inputs) == len(pumps.bundle.spec.feature_names)


def test_a_machine_that_was_not_heard_yet_is_named(
    pumps: Pumps, recording: Path, frame: pl.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["explain", str(recording), "--model", str(pumps.path)]
    assert run([*command, "--machine", "nobody", "--at", "2026-06-01T00:00:00Z"]) == 78
    assert "no usable reading of 'nobody'" in capsys.readouterr().err
    own, at = frame["machine_id"][0], frame["timestamp"].max()
    assert run([*command, "--machine", own, "--at", f"{at:%Y-%m-%dT%H:%M:%SZ}", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["machine_id"] == own
    assert said["signals"][0].keys() == {
        *("name", "unit", "value", "expected", "deviation", "contribution")
    }
