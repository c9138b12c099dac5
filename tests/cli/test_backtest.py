from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from worker.cli.main import run
from worker.replay.tables import EPISODES, HEALTH, SCORES

START_MS = 1_767_225_600_000


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An hour of two mills, in no order, one row of them unusable."""
    path = tmp_path / "mills.csv"
    pl.DataFrame(
        {
            "machine_id": ["b", "a", None] * 20,
            "timestamp": [START_MS + 60_000 * i for i in range(60)][::-1],
            "vibration": 2.5,
            "temperature": 50.0,
            "rotational_speed": 1500.0,
            "torque": 40.0,
            "tool_wear": [float(i) for i in range(60)],
        }
    ).write_csv(path)
    return path


def test_a_backtest_writes_its_tables_and_ends_with_their_folder(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "results"
    assert run(f"backtest --data {data} --model machine-health --out {out}".split()) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == str(out)
    assert "readings per second" in captured.out
    assert "note: rows without machine_id or timestamp, left out: 20" in captured.err
    scores = pl.read_parquet(out / "scores.parquet")
    assert dict(scores.schema) == SCORES
    assert scores["machine_id"].to_list() == ["b", "a", None] * 20
    assert scores["anomaly_score"].null_count() == 20
    assert dict(pl.read_parquet(out / "episodes.parquet").schema) == EPISODES
    assert dict(pl.read_parquet(out / "health.parquet").schema) == HEALTH
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["rows"], summary["scored"], summary["machines"]) == (60, 40, 2)


@pytest.mark.parametrize(
    ("options", "status", "sentence"),
    [
        ("--data none.csv --model machine-health", 78, "--data: none.csv cannot be read"),
        ("--data {data} --model nothing", 65, "bundle 'nothing' does not exist"),
        ("--data {data} --model machine-health --warm-up none.csv", 78, "--warm-up: none.csv"),
    ],
)
def test_a_wrong_option_gives_one_sentence_and_a_bad_status(
    options: str,
    status: int,
    sentence: str,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["backtest", *options.format(data=data).split(), "--out", str(tmp_path / "out")]
    assert run(command) == status
    assert capsys.readouterr().err.strip().startswith(f"error: {sentence}")


def test_an_output_folder_that_is_a_file_is_refused(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"backtest --data {data} --model machine-health --out {data}".split()) == 78
    assert "--out:" in capsys.readouterr().err
