from __future__ import annotations

from datetime import timedelta

import msgspec
import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tests.replay.conftest import Pumps
from worker.core.events import Chunk
from worker.core.messages import format_time_us
from worker.core.state import PartitionState
from worker.replay.backtest import Backtest, backtest
from worker.replay.tables import EPISODES, HEALTH, SCORES
from worker.training.readings import recording_of

ANSWERS = ["anomaly_score", "threshold", "is_anomaly", "top_channels"]


def run(pumps: Pumps, frame: pl.DataFrame, warm_up: pl.DataFrame | None = None) -> Backtest:
    spec = pumps.bundle.spec
    before = None if warm_up is None else recording_of(warm_up, spec, "before")
    return backtest(pumps.bundle, recording_of(frame, spec, "test"), warm_up=before)


def raise_flow(frame: pl.DataFrame, machine_id: str, by: float, *, hours: float) -> pl.DataFrame:
    """The last hours of a machine with a fault in its flow."""
    since = frame["timestamp"].max() - timedelta(hours=hours)  # type: ignore[operator]
    faulty = (pl.col("machine_id") == machine_id) & (pl.col("timestamp") > since)
    return frame.with_columns(pl.when(faulty).then(pl.col("flow") + by).otherwise(pl.col("flow")))


@pytest.fixture(scope="module")
def healthy(pumps: Pumps) -> Backtest:
    return run(pumps, pumps.frame)


def test_the_columns_are_those_of_the_contract(healthy: Backtest) -> None:
    assert dict(healthy.scores.schema) == SCORES
    assert dict(healthy.episodes.schema) == EPISODES
    assert dict(healthy.health.schema) == HEALTH


def test_a_backtest_says_what_the_worker_says(pumps: Pumps, healthy: Backtest) -> None:
    spec = pumps.bundle.spec
    names = [c.name for c in spec.continuous]
    frame = pumps.frame.with_columns(us=pl.col("timestamp").dt.epoch("us"))
    state, pipeline = PartitionState(spec), pumps.bundle.pipeline()
    scores, thresholds = np.full(len(frame), np.nan), np.full(len(frame), np.nan)
    for start in range(0, len(frame), 97):
        rows = frame[start : start + 97].to_dicts()
        events = [
            {name: row[name] for name in ("machine_id", *names)}
            | {"timestamp": format_time_us(row["us"])}
            for row in rows
        ]
        outputs = pipeline.step(
            state,
            Chunk(
                "sensor-events",
                0,
                start + np.arange(len(rows)),
                frame["us"][start : start + 97].to_numpy() // 1000,
                [row["machine_id"].encode() for row in rows],
                list(map(msgspec.json.encode, events)),
            ),
        )
        for part in outputs.scored_events:
            scores[start + part.readings.rows] = part.scores.anomaly_score
            thresholds[start + part.readings.rows] = part.scores.threshold
    np.testing.assert_array_equal(healthy.scores["anomaly_score"].to_numpy(), scores)
    np.testing.assert_array_equal(healthy.scores["threshold"].to_numpy(), thresholds)


def test_each_row_has_its_answer_wherever_it_stands(pumps: Pumps, healthy: Backtest) -> None:
    rows = np.random.default_rng(1).permutation(len(pumps.frame))
    shuffled = run(pumps, pumps.frame[rows])
    assert_frame_equal(shuffled.scores, healthy.scores[rows])
    assert_frame_equal(shuffled.episodes, healthy.episodes)


def test_what_comes_later_changes_nothing_before(pumps: Pumps, healthy: Backtest) -> None:
    half = len(pumps.frame) // 2
    assert_frame_equal(run(pumps, pumps.frame[:half]).scores, healthy.scores[:half])


def test_after_a_warm_up_answers_go_on_as_if_nothing_had_been_cut(
    pumps: Pumps, healthy: Backtest
) -> None:
    half = len(pumps.frame) // 2
    after = run(pumps, pumps.frame[half:], warm_up=pumps.frame[:half])
    assert_frame_equal(after.scores, healthy.scores[half:])
    assert after.summary["warm_up"] == "before"
    fresh = run(pumps, pumps.frame[half:])
    assert not fresh.scores["anomaly_score"].equals(after.scores["anomaly_score"])


def test_rows_that_the_worker_would_not_score_have_no_score(
    pumps: Pumps, healthy: Backtest
) -> None:
    channels = [c.name for c in pumps.bundle.spec.continuous]
    bad = pl.DataFrame(
        {
            "machine_id": [None, "pump-x", pumps.frame["machine_id"][0]],
            "timestamp": [pumps.frame["timestamp"][0], None, pumps.frame["timestamp"][0]],
            **dict.fromkeys(channels, None),
        },
        schema=pumps.frame.schema,
    )
    found = run(pumps, pl.concat([bad, pumps.frame]))
    assert_frame_equal(found.scores[3:], healthy.scores)
    for name in ANSWERS[:2]:
        assert found.scores[name][:3].is_null().all()
    assert found.scores["is_anomaly"][:3].to_list() == [False] * 3
    assert found.scores["top_channels"][:3].to_list() == [[]] * 3
    assert found.scores["machine_id"][:3].to_list() == bad["machine_id"].to_list()
    assert found.summary["not_scored"] == 3
    assert found.summary["notes"] == ["rows without machine_id or timestamp, left out: 2"]


def test_it_is_said_where_readings_differ_from_those_of_the_training(
    pumps: Pumps, healthy: Backtest
) -> None:
    assert healthy.summary["notes"] == []
    seldom = pumps.frame.group_by("machine_id", maintain_order=True).map_groups(
        lambda own: own.gather_every(3)
    )
    new = seldom.with_columns(machine_id="new-" + pl.col("machine_id"))
    first, second = run(pumps, new).summary["notes"]
    machines = pumps.frame["machine_id"].n_unique()
    assert first.endswith(f"which learn their own level first: {machines}")
    assert "in training each" in second
    assert "train on readings of this rate" in second


def test_readings_before_the_warm_up_are_late(pumps: Pumps) -> None:
    half = len(pumps.frame) // 2
    found = run(pumps, pumps.frame[:half], warm_up=pumps.frame[half:])
    assert found.summary["scored"] == 0
    assert found.scores["anomaly_score"].null_count() == half


def test_a_fault_is_one_episode_of_its_channel_and_open_until_it_ends(
    pumps: Pumps, healthy: Backtest
) -> None:
    (machine_id, *_) = pumps.frame["machine_id"].unique(maintain_order=True)
    found = run(pumps, raise_flow(pumps.frame, machine_id, 60.0, hours=24))
    new = found.episodes.filter(
        ~pl.col("episode_id").is_in(healthy.episodes["episode_id"].to_list())
    )
    assert new["machine_id"].to_list() == [machine_id]
    assert new["top_channels"].list.first().to_list() == ["flow"]
    assert new["closed_at"].to_list() == [None]
    end = pumps.frame["timestamp"].max()
    assert timedelta(hours=22) < end - new["opened_at"][0] <= timedelta(hours=24)  # type: ignore[operator]
    anomalous = found.scores.filter(pl.col("is_anomaly") & (pl.col("machine_id") == machine_id))
    assert set(anomalous["top_channels"].list.first()) == {"flow"}
    assert (anomalous["anomaly_score"] < anomalous["threshold"]).all()
    assert found.summary["episodes_open"] == healthy.summary["episodes_open"] + 1


def test_a_stuck_sensor_is_told_as_such(pumps: Pumps) -> None:
    frame = pumps.frame.with_columns(
        pressure=pl.when(pl.col("timestamp") > pl.col("timestamp").min() + timedelta(days=2))
        .then(pl.col("pressure").first().over("machine_id"))
        .otherwise(pl.col("pressure"))
    )
    found = run(pumps, frame).health
    stuck = found.filter((pl.col("kind") == "stuck") & (pl.col("channel") == "pressure"))
    assert sorted(stuck["machine_id"]) == sorted(frame["machine_id"].unique())
    assert stuck["closed_at"].is_null().all()


def test_the_summary_counts_what_the_tables_hold(pumps: Pumps, healthy: Backtest) -> None:
    summary, scores = healthy.summary, healthy.scores
    assert summary["rows"] == summary["scored"] == len(pumps.frame) == len(scores)
    assert summary["machines"] == 4
    assert summary["machine_days"] == pytest.approx(16.0, rel=0.01)
    assert summary["anomalies"] == scores["is_anomaly"].sum()
    assert summary["episodes"] == len(healthy.episodes)
    assert summary["episodes_per_machine_day"] == pytest.approx(
        len(healthy.episodes) / 16, rel=0.01
    )
    assert summary["budget"] == pumps.bundle.budget
    assert summary["model"] == "pump/1.0.0"
    assert summary["start"].startswith("2026-01-21T00:00:")
    assert summary["start"].endswith("Z")


def test_no_rows_give_empty_tables(pumps: Pumps) -> None:
    found = run(pumps, pumps.frame.clear())
    assert (len(found.scores), len(found.episodes), len(found.health)) == (0, 0, 0)
    assert dict(found.scores.schema) == SCORES
    assert found.summary["episodes_per_machine_day"] is None
    assert found.summary["start"] is None
