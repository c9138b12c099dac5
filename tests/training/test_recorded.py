from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tests.support.recorded import keep
from worker.core.channels import ChannelSpec, parse_spec
from worker.core.errors import ConfigError
from worker.replay.importing import Fields, import_files
from worker.training.readings import before, read_recording
from worker.training.recorded import read_recorded

TOPIC = "events"


@pytest.fixture
def spec() -> ChannelSpec:
    return parse_spec(
        """
        name = "mill"
        [[channel]]
        name = "load"
        max = 100.0
        [[channel]]
        name = "speed"
        [[channel]]
        name = "kind"
        kind = "categorical"
        values = ["L", "M"]
        [[channel]]
        name = "alarm"
        kind = "event"
        """
    )


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Readings in the order of time, with missing and impossible ones."""
    path = tmp_path / "mill.csv"
    path.write_text(
        "machine_id,timestamp,load,speed,kind,alarm,other\n"
        "b,2026-01-01T00:00:00Z,1.5,1500,L,,x\n"
        "a,2026-01-01T00:00:01Z,,1400.25,M,17,x\n"
        "a,2026-01-01T00:00:02Z,900,1300,,,x\n"
        "b,2026-01-01T00:00:03Z,2.5,,L,E2,x\n"
    )
    return path


def test_a_recording_gives_the_readings_of_the_table_it_was_made_of(
    spec: ChannelSpec, table: Path, tmp_path: Path
) -> None:
    import_files([table], Fields(), tmp_path / "out", TOPIC)
    found = read_recorded(tmp_path / "out", TOPIC, spec)
    assert found.source == "out, topic events"
    assert found.notes == ()
    assert_frame_equal(found.frame, read_recording(table, spec).frame)


def test_what_is_no_event_is_left_out_and_said(spec: ChannelSpec, tmp_path: Path) -> None:
    event = b'{"machine_id": "a", "timestamp": "2026-01-01T00:00:00Z", "load": 1}'
    values = [event, b"\xffgarbage", None]
    keep(tmp_path, TOPIC, 0, [(b"a", value, 1_767_225_600_000) for value in values])
    found = read_recorded(tmp_path, TOPIC, spec)
    assert found.frame["load"].to_list() == [1.0]
    assert found.notes == ("records that are no events of these channels, left out: 2",)
    with pytest.raises(ConfigError, match=r"has no event of topic 'none' .* load, speed"):
        read_recorded(tmp_path, "none", spec)


def test_readings_from_a_moment_on_are_left_out_and_said(spec: ChannelSpec, table: Path) -> None:
    recording = read_recording(table, spec)
    found = before(recording, datetime(2026, 1, 1, 0, 0, 2, tzinfo=UTC))
    assert found.frame.rows() == recording.frame[:2].rows()
    assert found.notes == ("readings from 2026-01-01T00:00:02+00:00 on, left out: 2",)
    assert before(recording, datetime(2027, 1, 1, tzinfo=UTC)).notes == ()
    nothing = pl.col("timestamp").is_null()
    assert before(found, datetime(2020, 1, 1, tzinfo=UTC)).frame.filter(~nothing).is_empty()
