from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from worker.core.channels import ChannelSpec, parse_spec
from worker.core.errors import ConfigError
from worker.training.readings import read_csv, simulate_readings

HEADER = "machine_id,timestamp,flow,pressure,motor_current\n"


@pytest.fixture
def spec() -> ChannelSpec:
    return parse_spec((Path(__file__).parents[1] / "data/pump.toml").read_text())


def csv(tmp_path: Path, text: str, name: str = "readings.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_rows_come_in_order_of_time_and_missing_readings_as_nan(
    tmp_path: Path, spec: ChannelSpec
) -> None:
    path = csv(
        tmp_path,
        HEADER
        + "b,2026-01-31T06:00:02Z,3,,30\n"
        + "a,2026-01-31T07:00:01.5+01:00,1.5,null,NaN\n"
        + "a,1769839203000,5,6,7\n"
        + "a,1769839204000000,8,9,10\n",
    )
    readings = read_csv(path, spec)
    assert readings.machine_ids == ["a", "b", "a", "a"]
    assert np.diff(readings.times_us).tolist() == [500_000, 1_000_000, 1_000_000]
    np.testing.assert_array_equal(
        readings.values,
        [[1.5, np.nan, np.nan], [3, np.nan, 30], [5, 6, 7], [8, 9, 10]],
    )
    assert readings.source == "readings.csv"


def test_a_folder_is_all_its_csv_files_and_columns_may_stand_in_any_order(
    tmp_path: Path, spec: ChannelSpec
) -> None:
    csv(tmp_path, HEADER + "a,1769839203000,1,2,3\n", "1.csv")
    csv(
        tmp_path,
        "\ufeffmotor_current,note,pressure,flow,timestamp,machine_id\n6,x,5,4,1769839202000,b\n",
        "2.csv",
    )
    csv(tmp_path, "not read", "notes.txt")
    readings = read_csv(tmp_path, spec)
    assert readings.machine_ids == ["b", "a"]
    assert readings.values.tolist() == [[4, 5, 6], [1, 2, 3]]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"no column 'machine_id'"),
        ("machine_id,timestamp,flow\n", r"no column 'pressure'; the columns must be machine_id,"),
        (HEADER, r"has no rows"),
        (HEADER + ",1769839203000,1,2,3\n", r"line 2: machine_id is empty"),
        (HEADER + "a,yesterday,1,2,3\n", r"line 2: 'yesterday' is not a timestamp"),
        (HEADER + "a,2026-01-31T06:00:00,1,2,3\n", r"line 2: .* is not a timestamp"),
        (HEADER + "a,-5,1,2,3\n", r"line 2: '-5' is not a timestamp"),
        (HEADER + "a,1769839203000,1,2,3\na,1769839203000,1,x,3\n", r"line 3, pressure: 'x' is"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(
    tmp_path: Path, spec: ChannelSpec, text: str, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read_csv(csv(tmp_path, text), spec)


def test_files_that_are_missing_empty_folders_or_not_text_are_refused(
    tmp_path: Path, spec: ChannelSpec
) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: No such file"):
        read_csv(tmp_path / "none.csv", spec)
    with pytest.raises(ConfigError, match=r"has no file named \*\.csv"):
        read_csv(tmp_path, spec)
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00\x00")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        read_csv(tmp_path / "x.csv", spec)


def test_simulated_readings_cover_thirty_windows_of_healthy_machines(spec: ChannelSpec) -> None:
    readings = simulate_readings(spec, seed=1)
    assert len(set(readings.machine_ids)) == 100
    assert len(readings.machine_ids) == 100 * 30 * 24 * 6
    assert readings.times_us[-1] - readings.times_us[0] < 30 * spec.length_us
    assert np.isfinite(readings.values).all()
    assert "100 healthy machines over 720 hours" in readings.source
