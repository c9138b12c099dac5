"""Drift in backtests: what the live agent says of the same events, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from load.drift_fleet import Event, events
from load.drift_live import CHANGES
from tests.drift.conftest import agent, partials, watch
from tests.support.recorded import keep
from worker.core.drift import Partial
from worker.core.drifting import DriftState
from worker.core.outgoing import Record, partition_of
from worker.models.bundle import Bundle
from worker.recording.files import segments_of
from worker.recording.parquet import read_batches
from worker.replay.backtest import backtest
from worker.replay.partition import Source
from worker.replay.recorded import Result, backtest_recording
from worker.settings import Settings
from worker.training.readings import recording_of

TOPIC, PARTITIONS = "sensor-events", 2
SETTINGS = Settings.model_validate({"drift": {"windows_min": [60, 360]}})


@pytest.fixture(scope="module")
def sent() -> list[list[Event]]:
    """What a fleet sends while a channel jumps, by partition."""
    found: list[list[Event]] = [[] for _ in range(PARTITIONS)]
    for key, value in events(16, [CHANGES["step"]]):
        found[partition_of(key, PARTITIONS)].append((key, value))
    return found


@pytest.fixture(scope="module")
def recording(sent: list[list[Event]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recording")
    for partition, own in enumerate(sent):
        times = pl.Series([json.loads(value)["timestamp"] for _, value in own])
        stamps = times.str.to_datetime(time_unit="ms", time_zone="UTC").to_physical()
        keep(root, TOPIC, partition, [(*event, t) for event, t in zip(own, stamps, strict=True)])
    return root


def applied(bundle: Bundle, recording: Path, out: Path, processes: int = 1) -> Result:
    out.mkdir(exist_ok=True)
    source = Source(recording, TOPIC, str(bundle.path), SETTINGS, out / "messages")
    return backtest_recording(source, out / "scores.parquet", processes)


def by_group(records: Sequence[Record], stream: str) -> dict[bytes | None, list[bytes]]:
    found: dict[bytes | None, list[bytes]] = {}
    for record in records:
        if record.stream == stream:
            found.setdefault(record.key, []).append(record.value)
    return found


def live(bundle: Bundle, sent: list[list[Event]]) -> list[Record]:
    """What an agent says that hears of both partitions side by side."""
    summaries = [
        (Partial.from_bytes(record.value).start_us, partition, record)
        for partition, own in enumerate(sent)
        for record in partials(bundle, own, chunk=300, partition=partition)
    ]
    summaries.sort(key=lambda one: one[:2])
    records = [record for _, _, record in summaries]
    return watch(agent(bundle, partitions=PARTITIONS), DriftState(), records)


@pytest.mark.parametrize("processes", [1, 2])
def test_it_says_what_the_live_agent_does(
    watched: Bundle, sent: list[list[Event]], recording: Path, tmp_path: Path, processes: int
) -> None:
    result = applied(watched, recording, tmp_path, processes)
    expected = live(watched, sent)
    assert result.drift is not None
    for stream in ("drift-events", "retraining-requests"):
        said = by_group(expected, stream)
        assert by_group(result.drift.records, stream) == said
        assert said
        own = segments_of(tmp_path / "messages", stream)
        kept = [row["value"] for b in read_batches(own, 1_000) for row in b.to_pylist()]
        assert sorted(kept) == sorted(value for values in said.values() for value in values)


def test_tables_say_what_changed_and_what_was_judged(
    watched: Bundle, recording: Path, tmp_path: Path
) -> None:
    result = applied(watched, recording, tmp_path)
    drift = result.drift
    assert drift is not None
    fleet = drift.events.filter(pl.col("group") == "fleet")
    (event,) = fleet.to_dicts()
    assert event["kind"] == "drift"
    assert event["closed_at"] is None
    assert event["features"][0].rpartition("_")[2] in CHANGES["step"].channels
    windows = drift.windows.filter(pl.col("group") == "fleet")
    assert set(windows["window_s"]) == {3600.0, 21600.0}
    shorter = windows.filter(pl.col("window_s") == 3600.0)
    assert (shorter["end"] - shorter["start"]).unique().to_list() == [timedelta(hours=1)]
    assert event["opened_at"] in windows["end"].to_list()
    assert result.summary["drift"] == drift.summary
    assert drift.summary["events"] == len(drift.events)


def test_rows_of_a_pane_that_come_in_parts_count_once(
    watched: Bundle,
    sent: list[list[Event]],
    recording: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = applied(watched, recording, tmp_path / "a")
    monkeypatch.setattr("worker.replay.recorded.CHUNK_ROWS", 50)
    monkeypatch.setattr("worker.replay.drift_windows.KEPT_PANES", -1)
    parts = applied(watched, recording, tmp_path / "b")
    assert whole.drift is not None
    assert parts.drift is not None
    assert parts.drift.records == whole.drift.records
    assert parts.drift.windows.equals(whole.drift.windows)


def test_a_table_is_judged_too_and_only_where_asked(
    watched: Bundle, sent: list[list[Event]]
) -> None:
    rows = [json.loads(value) for own in sent for _, value in own]
    frame = pl.DataFrame(rows).with_columns(
        pl.col("timestamp").str.to_datetime(time_unit="us", time_zone="UTC")
    )
    recording = recording_of(frame, watched.spec, "table")
    found = backtest(watched, recording, settings=SETTINGS)
    assert found.drift is not None
    assert "fleet" in found.drift.events["group"].to_list()
    assert found.summary["drift"]["events"] >= 1
    quiet = backtest(watched, recording, settings=SETTINGS, watches_drift=False)
    assert quiet.drift is None
    assert quiet.summary["drift"] is None
    without = backtest(replace(watched, reference=None), recording, settings=SETTINGS)
    assert without.drift is None
