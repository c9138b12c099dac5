from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from worker.cli.main import run
from worker.core.channels import parse_spec
from worker.core.errors import ConfigError
from worker.core.events import Chunk, EventDecoder
from worker.recording.files import segments_of
from worker.recording.parquet import read_batches
from worker.replay.importing import Fields, import_files

ROOT = Path(__file__).parents[2]
TOPIC = "events"


def rows_of(root: Path) -> list[dict[str, Any]]:
    return [row for b in read_batches(segments_of(root, TOPIC), 10) for row in b.to_pylist()]


def events_of(root: Path) -> list[dict[str, Any]]:
    return [json.loads(row["value"]) for row in rows_of(root)]


def test_rows_become_events_in_the_order_of_time(tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    data.write_text(
        "unit;when;Vibration [mm/s];type\n"
        "7;2026-01-31 06:00:10;2.5;M\n"
        "8;2026-01-31 06:00:00;;L\n"
        ";2026-01-31 06:00:00;1;L\n"
    )
    columns = {"machine_id": "unit", "timestamp": "when", "vibration": "Vibration [mm/s]"}
    found = import_files([data], Fields(columns=columns), tmp_path / "out", TOPIC)
    assert (found.records, found.machines, found.left_out) == (2, 2, 1)
    rows = rows_of(tmp_path / "out")
    assert [row["key"] for row in rows] == [b"8", b"7"]
    assert [row["offset"] for row in rows] == [0, 1]
    assert rows[0]["timestamp"].isoformat() == "2026-01-31T06:00:00+00:00"
    assert events_of(tmp_path / "out")[1] == {
        "machine_id": "7",
        "timestamp": "2026-01-31T06:00:10.000000Z",
        "vibration": 2.5,
        "type": "M",
    }


def test_a_file_may_be_a_machine(tmp_path: Path) -> None:
    for name in ("press-1", "press-2"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{name}.csv").write_text("timestamp,load\n1769839200,1\n")
    fields = Fields(layout="machine-files")
    import_files([tmp_path / "data"], fields, tmp_path / "out", TOPIC)
    assert [e["machine_id"] for e in events_of(tmp_path / "out")] == ["press-1", "press-2"]


def test_a_row_may_be_one_value(tmp_path: Path) -> None:
    data = tmp_path / "long.parquet"
    pl.DataFrame(
        {
            "machine_id": ["a", "a", "a"],
            "timestamp": [1_769_839_200, 1_769_839_200, 1_769_839_260],
            "tag": ["torque", "speed", "torque"],
            "reading": [4.5, 1500.0, 4.25],
        }
    ).write_parquet(data)
    fields = Fields(layout="long", channel="tag", value="reading")
    import_files([data], fields, tmp_path / "out", TOPIC)
    first, second = events_of(tmp_path / "out")
    assert (first["torque"], first["speed"]) == (4.5, 1500.0)
    assert (second["torque"], second["speed"]) == (4.25, None)


def test_json_lines_are_read(tmp_path: Path) -> None:
    data = tmp_path / "events.jsonl"
    data.write_text('{"machine_id": "a", "timestamp": "2026-01-31T06:00:00Z", "load": 1}\n')
    import_files([data], Fields(), tmp_path / "out", TOPIC)
    assert events_of(tmp_path / "out")[0]["load"] == 1.0


def test_the_worker_can_use_what_was_imported(tmp_path: Path) -> None:
    spec = parse_spec((ROOT / "tests/data/pump.toml").read_text())
    channels = [c.name for c in spec.continuous]
    data = tmp_path / "data.csv"
    values = [",".join(["1.5"] * len(channels)), ",".join(["nan"] + ["2.5"] * (len(channels) - 1))]
    lines = [
        f"p-{i},2026-01-31T06:00:0{i}Z,{v}" for i, v in enumerate([*values, "inf" + values[0][3:]])
    ]
    data.write_text("\n".join(["machine_id,timestamp," + ",".join(channels), *lines]))
    import_files([data], Fields(), tmp_path / "out", TOPIC)
    rows = rows_of(tmp_path / "out")
    chunk = Chunk(
        TOPIC,
        0,
        offsets=pl.Series([row["offset"] for row in rows]).to_numpy(),
        timestamps_ms=pl.Series(
            [round(row["timestamp"].timestamp() * 1e3) for row in rows]
        ).to_numpy(),
        keys=[row["key"] for row in rows],
        values=[row["value"] for row in rows],
    )
    readings, rejects = EventDecoder(spec).decode(chunk)
    assert rejects == []
    assert len(readings.rows) == 3


def test_machines_keep_to_one_partition_each(tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    lines = [f"m{i % 5},{1_769_839_200 + i},1" for i in range(50)]
    data.write_text("\n".join(["machine_id,timestamp,load", *lines]))
    import_files([data], Fields(), tmp_path / "out", TOPIC, partitions=3)
    places: dict[bytes, set[int]] = {}
    for row in rows_of(tmp_path / "out"):
        places.setdefault(row["key"], set()).add(row["partition"])
    assert {len(found) for found in places.values()} == {1}
    assert len({next(iter(found)) for found in places.values()}) > 1


@pytest.mark.parametrize(
    ("text", "fields", "says"),
    [
        ("machine_id,load\na,1\n", Fields(), "has no column 'timestamp'"),
        ("a,b\n1,2\n", Fields(columns={"machine_id": "unit"}), "has no column 'unit'"),
        ("machine_id,timestamp\na,soon\n", Fields(), "row 1: 'soon'"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, fields: Fields, says: str, tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    data.write_text(text)
    with pytest.raises(ConfigError, match=says):
        import_files([data], fields, tmp_path / "out", TOPIC)


def test_a_recording_is_not_mixed_with_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.csv"
    data.write_text("machine_id,timestamp,load\na,1769839200,1\n")
    command = ["import", str(data), "--out", str(tmp_path / "out"), "--topic", TOPIC]
    assert run(command) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    assert run(command) == 78
    assert "has a recording of 'events' already" in capsys.readouterr().err


def test_a_mapping_without_equals_sign_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["import", str(tmp_path), "--out", str(tmp_path), "--map", "unit"]) == 78
    assert "is not NAME=COLUMN" in capsys.readouterr().err


def test_files_without_machines_and_times_are_given_both(tmp_path: Path) -> None:
    for name in ("1.csv", "2.csv"):
        (tmp_path / name).write_text("UDI,Air temperature [K]\n1,298.1\n2,298.2\n")
    paths = [tmp_path / "1.csv", tmp_path / "2.csv"]
    fields = Fields(machine="mill", interval_us=60_000_000)
    import_files(paths, fields, tmp_path / "out", TOPIC)
    events = events_of(tmp_path / "out")
    assert {event["machine_id"] for event in events} == {"mill"}
    # The second file goes on where the first one ended.
    assert [event["timestamp"][11:19] for event in events] == [
        "00:00:00",
        "00:01:00",
        "00:02:00",
        "00:03:00",
    ]
    assert [event["air_temperature_k"] for event in events] == [298.1, 298.2] * 2


def test_with_a_file_a_machine_each_begins_at_the_same_time(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("load\n1\n2\n")
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    fields = Fields(layout="machine-files", interval_us=1_000_000)
    import_files(paths, fields, tmp_path / "out", TOPIC)
    found = [(e["machine_id"], e["timestamp"][17:19]) for e in events_of(tmp_path / "out")]
    assert found == [("a", "00"), ("b", "00"), ("a", "01"), ("b", "01")]


@pytest.mark.parametrize(
    ("text", "layout", "sentence"),
    [
        ("machine_id,timestamp,Load,load\n1,2026-01-01,1,1\n", "rows", "'Load' and 'load' would"),
        (
            "machine_id,timestamp,channel,value\n1,2026-01-01,A b,1\n1,2026-01-01,a-b,1\n",
            "long",
            "a_b",
        ),
    ],
)
def test_two_columns_that_would_be_one_channel_are_refused(
    text: str, layout: Any, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "data.csv").write_text(text)
    with pytest.raises(ConfigError, match=f"{sentence}.*--map"):
        import_files([tmp_path / "data.csv"], Fields(layout), tmp_path / "out", TOPIC)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--machine a --layout machine-files", "--machine: with machine-files each file is one"),
        ("--interval 1m --layout long", "--interval: with long a row is no reading"),
        ("--interval often", "--interval: 'often' is not a duration"),
        ("--map timestamp=t", "say with --map machine_id=COLUMN which it is, or with --machine"),
        ("--machine a", "say with --map timestamp=COLUMN which it is, or with --interval"),
    ],
)
def test_an_import_that_cannot_be_gives_one_sentence(
    options: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data.csv").write_text("t,load\n2026-01-01,1\n")
    command = f"import {tmp_path / 'data.csv'} --out {tmp_path / 'out'} {options}"
    assert run(command.split()) == 78
    assert sentence in capsys.readouterr().err
