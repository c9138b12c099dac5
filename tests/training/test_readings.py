from __future__ import annotations

import gzip
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from worker.core.channels import ChannelSpec, parse_spec
from worker.core.errors import ConfigError
from worker.training.readings import (
    MachineReadings,
    halves,
    machine_readings,
    read_recording,
    recording_of,
    simulated_readings,
    without_repeats,
)

HEADER = "machine_id,timestamp,flow,pressure,motor_current\n"
SIX = 1_769_839_200_000_000  # 2026-01-31T06:00:00Z
COLUMNS = {"flow": [1.0, 2.0], "pressure": [3.0, 4.0], "motor_current": [5.0, 6.0]}


@pytest.fixture
def spec() -> ChannelSpec:
    return parse_spec((Path(__file__).parents[1] / "data/pump.toml").read_text())


def csv(tmp_path: Path, text: str, name: str = "readings.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def read(path: Path, spec: ChannelSpec) -> MachineReadings:
    return machine_readings(read_recording(path, spec), spec)


def test_rows_come_by_machine_and_time_and_know_where_they_stood(
    tmp_path: Path, spec: ChannelSpec
) -> None:
    path = csv(
        tmp_path,
        HEADER
        + "b,2026-01-31T06:00:02Z,3,,30\n"
        + "a,1769839204000000,8,9,10\n"
        + "a,2026-01-31T07:00:01.5+01:00,1.5,null,NaN\n"
        + "a,1769839203000,5,6,7\n",
    )
    readings = read(path, spec)
    assert readings.machine_ids == ("a", "b")
    assert readings.starts.tolist() == [0, 3, 4]
    assert readings.machines.tolist() == [0, 0, 0, 1]
    assert (readings.times_us - SIX).tolist() == [1_500_000, 3_000_000, 4_000_000, 2_000_000]
    np.testing.assert_array_equal(
        readings.values, [[1.5, np.nan, np.nan], [5, 6, 7], [8, 9, 10], [3, np.nan, 30]]
    )
    assert readings.rows.tolist() == [2, 3, 1, 0]
    assert readings.source == "readings.csv"
    assert readings.notes == ("rows older than the one before of their machine, sorted: 1",)


def test_a_recording_keeps_the_order_and_number_of_its_rows(
    tmp_path: Path, spec: ChannelSpec
) -> None:
    text = HEADER + "b,1769839200000,1,2,3\n,1769839200000,1,2,3\na,,1,2,3\na,1769839200000,,,\n"
    recording = read_recording(csv(tmp_path, text), spec)
    assert recording.frame["machine_id"].to_list() == ["b", None, "a", "a"]
    assert recording.frame["timestamp"].is_null().to_list() == [False, False, True, False]
    readings = machine_readings(recording, spec)
    assert readings.rows.tolist() == [3, 0]
    assert readings.notes == ("rows without machine_id or timestamp, left out: 2",)


def test_parquet_may_hold_any_types_and_other_columns_do_not_disturb(
    tmp_path: Path, spec: ChannelSpec
) -> None:
    path = tmp_path / "readings.parquet"
    moments = pl.Series([datetime.fromisoformat("2026-01-31T07:00:00"), None]).dt.replace_time_zone(
        "Europe/Berlin"
    )
    pl.DataFrame(
        {
            "is_anomaly": [True, False],
            "label": ["x", None],
            "machine_id": pl.Series([7, 7], dtype=pl.Int16),
            "timestamp": moments.dt.cast_time_unit("ns").fill_null(strategy="forward"),
            "flow": pl.Series([1, None], dtype=pl.Int64),
            "pressure": pl.Series([None, 4.5], dtype=pl.Float32),
            "motor_current": [None, None],
            "nested": [[1], [2]],
        }
    ).write_parquet(path)
    readings = read(path, spec)
    assert readings.machine_ids == ("7",)
    assert readings.times_us.tolist() == [SIX, SIX]
    np.testing.assert_array_equal(readings.values, [[1, np.nan, np.nan], [np.nan, 4.5, np.nan]])
    assert readings.notes == ()


def test_a_folder_is_all_its_files_and_columns_may_stand_in_any_order(
    tmp_path: Path, spec: ChannelSpec
) -> None:
    csv(tmp_path, HEADER + "a,2026-01-31T06:00:00,1,2,3\n", "1.csv")
    text = "motor_current; note;pressure; flow;timestamp;machine_id\n6;x;5;4;1769839202000;b\n"
    csv(tmp_path, "\ufeff" + text, "2.csv")
    csv(tmp_path, "not read", "notes.txt")
    with gzip.open(tmp_path / "3.CSV.gz", "wt") as stream:
        stream.write(HEADER + "a,2026-01-31 05:00:00,7,8,9\n")
    pl.DataFrame(
        {"machine_id": [3], "timestamp": [1769839203], "flow": 1, "pressure": 2, "motor_current": 3}
    ).write_parquet(tmp_path / "4.parquet")
    readings = read(tmp_path, spec)
    assert readings.machine_ids == ("3", "a", "b")
    assert readings.values.tolist() == [[1, 2, 3], [7, 8, 9], [1, 2, 3], [4, 5, 6]]
    assert readings.notes[0] == "timestamps without a time zone were taken as UTC"
    assert len(readings.notes) == 2


def test_infinite_and_impossible_readings_count_as_missing_and_it_is_said(
    spec: ChannelSpec,
) -> None:
    frame = pl.DataFrame(
        {"machine_id": "m", "timestamp": [SIX, SIX + 1], **COLUMNS, "flow": [np.inf, 501.0]}
    )
    readings = machine_readings(recording_of(frame, spec, "frame"), spec)
    np.testing.assert_array_equal(readings.values, [[np.nan, 3, 5], [np.nan, 4, 6]])
    assert readings.impossible.tolist() == [[True, False, False]] * 2
    assert readings.notes == (
        "flow: 2 of 2 readings are infinite or outside the physical range and count as missing",
    )


def test_repeated_rows_are_left_out_and_other_rows_of_the_same_time_stay(
    spec: ChannelSpec,
) -> None:
    rows = ["b", "a", "a", "a", "a", "b"]
    flow = [1.0, 2.0, 2.0, 3.0, None, 1.0]
    times = [SIX, SIX, SIX, SIX, SIX + 1, SIX + 1]
    frame = pl.DataFrame(
        {"machine_id": rows, "timestamp": times, "flow": flow, "pressure": None, "motor_current": 1}
    )
    readings = machine_readings(recording_of(frame, spec, "frame"), spec)
    kept = without_repeats(readings)
    assert kept.rows.tolist() == [1, 3, 4, 0, 5]
    assert kept.starts.tolist() == [0, 3, 5]
    assert kept.notes == ("rows that repeat the one before of their machine, left out: 1",)
    assert without_repeats(kept) is kept


def test_halves_are_the_earlier_and_the_later_readings_of_each_machine(spec: ChannelSpec) -> None:
    frame = pl.DataFrame(
        {
            "machine_id": ["a", "a", "a", "a", "b", "b", "b", "c"],
            "timestamp": [SIX + i for i in (3, 2, 1, 0, 0, 1, 2, 0)],
            **dict.fromkeys(COLUMNS, 1.0),
        }
    )
    earlier, later = halves(machine_readings(recording_of(frame, spec, "frame"), spec))
    assert (earlier.machine_ids, earlier.rows.tolist()) == (("a", "b"), [3, 2, 4])
    assert (later.machine_ids, later.rows.tolist()) == (("a", "b", "c"), [1, 0, 5, 6, 7])
    assert earlier.starts.tolist() == [0, 2, 3]
    assert later.starts.tolist() == [0, 2, 4, 5]


def test_other_channels_are_read_where_they_were_recorded() -> None:
    spec = parse_spec(
        'name = "x"\n[[channel]]\nname = "flow"\n'
        '[[channel]]\nname = "medium"\nkind = "categorical"\nvalues = ["oil"]\n'
        '[[channel]]\nname = "mode"\nkind = "categorical"\nvalues = ["1"]\n'
    )
    frame = pl.DataFrame(
        {"machine_id": "m", "timestamp": [SIX, SIX, SIX], "flow": 1, "medium": ["oil", "", None]}
    )
    readings = machine_readings(recording_of(frame, spec, "frame"), spec)
    assert readings.categories == {"medium": ["oil", None, None]}
    kept = without_repeats(readings)
    assert kept.categories == {"medium": ["oil", None]}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"is not a valid CSV file: empty CSV"),
        ("machine_id,timestamp,flow\n", r"no column 'pressure'; the columns must be machine_id,"),
        (HEADER + "a,yesterday,1,2,3\n", r"csv, row 1, timestamp: 'yesterday' is not a moment"),
        (HEADER + "a,1769839203000,1,2,3\na,-5,1,2,3\n", r"row 2, timestamp: '-5' is not a"),
        (HEADER + "a,1769839203000,1,x,3\n", r"row 1, pressure: 'x' is not a number; leave"),
        (HEADER + "a,1769839203000,1,2,3,4\n", r"is not a valid CSV file: found more fields"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_row(
    tmp_path: Path, spec: ChannelSpec, text: str, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as refusal:
        read(csv(tmp_path, text), spec)
    assert "\n" not in str(refusal.value)


def test_files_that_are_missing_empty_folders_or_of_another_kind_are_refused(
    tmp_path: Path, spec: ChannelSpec
) -> None:
    for name in ("none.csv", "none.parquet"):
        with pytest.raises(ConfigError, match=r"--warm-up: .* cannot be read: No such file"):
            read_recording(tmp_path / name, spec, "--warm-up")
    with pytest.raises(ConfigError, match=r"has no file named \*\.csv or \*\.parquet"):
        read_recording(tmp_path, spec)
    for content in (b"\xff\xfe\x00\x00", HEADER.encode() + b"a\xff,1769839203000,1,2,3\n"):
        (tmp_path / "x.csv").write_bytes(content)
        with pytest.raises(ConfigError, match=r"UTF-8 text|invalid utf-8"):
            read_recording(tmp_path / "x.csv", spec)
    with pytest.raises(ConfigError, match="is not a valid Parquet file"):
        read_recording((tmp_path / "x.csv").rename(tmp_path / "x.parquet"), spec)


def test_a_column_of_the_wrong_type_is_refused(spec: ChannelSpec) -> None:
    frame = pl.DataFrame({"machine_id": "m", "timestamp": [SIX, SIX], **COLUMNS})
    frame = frame.with_columns(pl.Series("flow", [[1], [2]], dtype=pl.List(pl.Int32)))
    with pytest.raises(ConfigError, match=r"frame: column 'flow' is of type List\(Int32\), which"):
        recording_of(frame, spec, "frame")


def test_no_rows_are_no_machines(spec: ChannelSpec) -> None:
    frame = pl.DataFrame(schema=dict.fromkeys(["machine_id", "timestamp", *COLUMNS], pl.String))
    readings = machine_readings(recording_of(frame, spec, "frame"), spec)
    assert (len(readings), readings.machine_ids) == (0, ())
    assert readings.values.shape == (0, 3)
    assert without_repeats(readings) is readings


def test_simulated_readings_cover_thirty_windows_of_healthy_machines(spec: ChannelSpec) -> None:
    readings = simulated_readings(spec, seed=1)
    assert len(readings.machine_ids) == 100
    assert len(readings) == 100 * 30 * 24 * 6
    assert np.ptp(readings.times_us) < 30 * spec.length_us
    assert np.isfinite(readings.values).all()
    assert "100 healthy machines over 720 hours" in readings.source
    assert readings.notes == ()
