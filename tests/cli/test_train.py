from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from worker.cli.main import run
from worker.models.bundle import load_bundle

ROOT = Path(__file__).parents[2]
PUMP = ROOT / "tests/data/pump.toml"


def test_a_bundle_is_trained_on_the_simulator_and_its_path_is_the_last_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "models" / "pump"
    command = f"train --simulate --channels {PUMP} --out {out} --training-date 2026-01-31"
    assert run(command.split()) == 0
    output = capsys.readouterr().out
    assert output.splitlines()[-1] == str(out / "1.0.0")
    for name in ("readings", "machines", "features", "budget", "episodes in training"):
        assert name in output
    bundle = load_bundle("pump", tmp_path / "models")
    assert bundle.metadata["training_date"] == "2026-01-31"
    assert bundle.manifest.training.rows == 432_000


def test_a_bundle_is_trained_on_a_parquet_file_with_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(1)
    times = [1_767_225_600_000 + 600_000 * i for i in range(400)]
    columns = {name: rng.normal(50.0, 1.0, 800) for name in ("flow", "pressure", "motor_current")}
    columns["pressure"] /= 10.0
    table = pl.DataFrame({"machine_id": [1, 2] * 400, "timestamp": np.repeat(times, 2), **columns})
    data, labels = tmp_path / "history.parquet", tmp_path / "faults.csv"
    table.write_parquet(data)
    labels.write_text("machine_id,start,end\n1,2026-01-02T00:00:00,2026-01-02T01:00:00\n")
    command = f"train --data {data} --labels {labels} --channels {PUMP} --out {tmp_path / 'pump'}"
    assert run([*command.split(), "--machine-groups"]) == 0
    captured = capsys.readouterr()
    assert "known faults" in captured.out
    assert captured.out.splitlines()[-1] == str(tmp_path / "pump" / "1.0.0")
    assert captured.err.strip() == ""
    reference = load_bundle("pump", tmp_path).reference
    assert reference is not None
    assert list(reference.groups) == ["fleet", "machine_id=1", "machine_id=2"]


def test_a_bundle_is_trained_on_a_csv_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events, data = tmp_path / "events.jsonl", tmp_path / "history.csv"
    simulate = f"simulate --channels {PUMP} --out {events} --interval 10m --speed 600 --duration 2m"
    assert run([*simulate.split(), "--machines", "20"]) == 0
    with data.open("w", newline="") as file:
        names = ["machine_id", "timestamp", "flow", "pressure", "motor_current"]
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(json.loads(line) for line in events.read_bytes().splitlines())
    command = f"train --data {data} --channels {PUMP} --out {tmp_path / 'pump'} --version 2.0.0"
    assert run(command.split()) == 0
    path = Path(capsys.readouterr().out.splitlines()[-1])
    bundle = load_bundle(path, tmp_path)
    assert bundle.version == "2.0.0"
    assert bundle.manifest.training.source == "history.csv"
    assert bundle.manifest.training.machines == 20
    # A recording of the same readings gives the same bundle, up to when it is asked to.
    recording, out = tmp_path / "recorded", tmp_path / "again"
    assert run(f"import {data} --out {recording}".split()) == 0
    command = f"train --data {recording} --channels {PUMP} --out {out}"
    assert run(f"{command} --version 2.0.0".split()) == 0
    again = load_bundle(out, tmp_path)
    assert again.manifest.sha256 == bundle.manifest.sha256
    middle = np.datetime64(bundle.manifest.training.start.rstrip("Z")) + np.timedelta64(10, "h")
    assert run(f"{command} --until {middle}Z".split()) == 0
    earlier = load_bundle(out, tmp_path).manifest.training
    assert earlier.rows < bundle.manifest.training.rows
    assert earlier.end < f"{middle}Z"


def test_more_machines_than_can_be_groups_of_their_own_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = tmp_path / "many.csv"
    rows = [f"m{i},2026-01-01T00:{k:02}:00,{i},{k},{i * k}" for k in range(3) for i in range(65)]
    many.write_text("\n".join(["machine_id,timestamp,flow,pressure,motor_current", *rows]))
    command = f"train --data {many} --machine-groups --channels {PUMP} --out {tmp_path / 'pump'}"
    assert run(command.split()) == 78
    assert "error: --machine-groups: the readings are of 65 machines" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("", "train: give either --data FILE_OR_FOLDER or --simulate"),
        ("--simulate --data x.csv", "train: give either --data FILE_OR_FOLDER or --simulate"),
        ("--data none.csv", "--data: none.csv cannot be read"),
        ("--simulate --budget 0", "--budget: 0 is not a positive number"),
        ("--simulate --threshold 2", "--threshold: 2 is not an anomaly score"),
        ("--simulate --labels none.csv", "--labels: none.csv cannot be read"),
        ("--simulate --until 2h", "--simulate: a simulation has no --topic and no --until"),
        ("--data x.csv --topic events", "--topic: x.csv is no recording"),
        ("--data x.csv --until soon", "--until: 'soon' is not a time"),
        ("--simulate --version latest", "--version: 'latest' is not a version"),
        ("--simulate --training-date today", "--training-date: 'today' is not a date"),
    ],
)
def test_a_wrong_option_gives_one_sentence_and_a_bad_status(
    options: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--channels", str(PUMP), "--out", str(tmp_path / "m"), *options.split()]
    assert run(command) == 78
    assert capsys.readouterr().err.strip().startswith(f"error: {sentence}")
    assert not (tmp_path / "m").exists()
