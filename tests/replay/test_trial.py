from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.replay.conftest import Pumps
from worker.cli.main import run
from worker.judging.verdict import TRUTH


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("DRIFTDETECTOR_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def table(pumps: Pumps, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pumps did, one of them with a fault that its rows are labelled by."""
    path = tmp_path_factory.mktemp("data") / "pumps.parquet"
    faulty = pl.col("machine_id") == pumps.frame["machine_id"][0]
    later = pl.col("timestamp") > pumps.frame["timestamp"].quantile(0.75)
    flow = pl.when(faulty & later).then(pl.col("flow") + 60.0).otherwise(pl.col("flow"))
    broken = (faulty & later).cast(pl.Int8)
    pumps.frame.with_columns(flow, broken.alias("broken")).write_parquet(path)
    return path


@pytest.fixture(scope="module")
def recording(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a recording of two partitions."""
    root = tmp_path_factory.mktemp("recording")
    assert run(f"import {table} --out {root} --partitions 2".split()) == 0
    return root


@pytest.fixture(scope="module")
def faults(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fault, and another that nothing shows of."""
    path = tmp_path_factory.mktemp("truth") / "faults.csv"
    rows = pl.read_parquet(table)
    broken = rows.filter(pl.col("broken") == 1)
    well = rows.filter(pl.col("machine_id") != broken["machine_id"][0])["machine_id"][0]
    begin, end = broken["timestamp"].min(), broken["timestamp"].max()
    pl.DataFrame(
        {
            "machine_id": [broken["machine_id"][0], well],
            "begin": [begin, begin],
            "end": [end, end],
            "label": ["leak", "silent"],
        }
    ).write_csv(path)
    return path


def summary_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def test_known_faults_are_found_or_missed_and_the_folder_says_which(
    pumps: Pumps, table: Path, faults: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"backtest --data {table} --model {pumps.path} --out {tmp_path} --truth {faults}"
    assert run(command.split()) == 0
    assert "true episodes found" in capsys.readouterr().out
    found = pl.read_parquet(tmp_path / "truth.parquet")
    assert dict(found.schema) == TRUTH
    assert found.select("label", "found").rows() == [("leak", True), ("silent", False)]
    assert 0.0 <= found["delay_s"][0] <= 6 * 3600
    judged = summary_of(tmp_path)["truth"]
    assert (judged["source"], judged["episodes"], judged["found"]) == ("faults.csv", 2, 1)
    assert judged["recall"]["low"] < judged["recall"]["value"] == 0.5 < judged["recall"]["high"]
    assert judged["delay_s"]["median"] == found["delay_s"][0]
    assert judged["rows"] is None


def test_labels_of_rows_in_table_recording_and_file_of_their_own_say_the_same(
    pumps: Pumps, table: Path, recording: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.parquet"
    pl.read_parquet(table).select("machine_id", "timestamp", label="broken").write_parquet(labels)
    found = []
    for name, data, truth in (
        ("column", table, "--truth-column broken"),
        ("recorded", recording, "--truth-column broken"),
        ("file", recording, f"--truth {labels}"),
    ):
        command = f"backtest --data {data} --model {pumps.path} --out {tmp_path / name} {truth}"
        assert run(f"{command} --jobs 1".split()) == 0
        judged = summary_of(tmp_path / name)["truth"]
        judged.pop("source")
        assert judged.pop("false_alarms_per_machine_day")["value"] == pytest.approx(
            1 / 16, rel=1e-3
        )
        found.append(judged)
    assert found[0] == found[1] == found[2]
    assert (found[0]["episodes"], found[0]["found"]) == (1, 1)
    assert found[0]["rows"]["roc_auc"] > 0.9
    assert 0.0 < found[0]["rows"]["recall"] <= 1.0


def test_another_side_is_judged_beside_with_other_settings_or_another_bundle(
    pumps: Pumps, table: Path, recording: Path, faults: Path, tmp_path: Path
) -> None:
    settings = tmp_path / "strict.toml"
    settings.write_text("[detection]\nthreshold = -0.999\n")
    for data, against, what in ((table, settings, "settings"), (recording, pumps.path, "a bundle")):
        out = tmp_path / data.name
        command = f"backtest --data {data} --model {pumps.path} --out {out} --truth {faults}"
        assert run(f"{command} --jobs 1 --against {against}".split()) == 0
        summary, other = summary_of(out), summary_of(out / "against")
        compared = summary["against"]
        assert (compared["what"], compared["summary"]) == (what, "against/summary.json")
        assert compared["model"] == other["model"] == pumps.bundle.model_version
        true_episodes = compared["true_episodes"]
        by_other = pl.read_parquet(out / "truth.parquet")["found_by_other"].to_list()
        if against == settings:
            assert other["threshold"] == -0.999
            assert (other["episodes"], compared["episodes"]["both"]) == (0, 0)
            assert compared["episodes"]["only_this"] == summary["episodes"] > 0
            assert (true_episodes["only_this"], true_episodes["neither"]) == (1, 1)
            assert by_other == [False, False]
        else:
            # The same bundle and settings tell of the same episodes.
            assert compared["episodes"]["both"] == summary["episodes"] == other["episodes"]
            assert (true_episodes["both"], true_episodes["neither"]) == (1, 1)
            assert by_other == [True, False]
        for name in ("scores", "episodes", "health"):
            assert (out / "against" / f"{name}.parquet").exists()
        assert other["truth"]["found"] == sum(by_other)
        assert "against" not in other


def test_settings_of_a_worker_hold_for_tables_too(
    pumps: Pumps, table: Path, tmp_path: Path
) -> None:
    settings = tmp_path / "driftdetector.toml"
    settings.write_text("[detection]\nbudget = 5.0\n")
    command = f"--config {settings} backtest --data {table} --model {pumps.path} --out {tmp_path}"
    assert run(command.split()) == 0
    assert summary_of(tmp_path)["budget"] == 5.0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--truth {table} --truth-column broken", "--truth-column: the truth is --truth already"),
        ("--truth-column flow", "--truth-column: a label is 0 or 1"),
        ("--truth-column none", "has no column 'none'"),
        ("--truth none.csv", "--truth: none.csv cannot be read"),
        ("--sweep window=1,2", "--sweep: 'window' cannot be swept"),
        ("--sweep threshold=0,2", "detection.threshold (command line): 2 is too large"),
        ("--fail-if rows", "--fail-if: 'rows' is no condition"),
        ("--fail-if recall<0.9", "only there with --truth"),
        ("--against none.toml", "--against: there is no file 'none.toml'"),
    ],
)
def test_what_cannot_be_judged_by_gives_one_sentence(
    options: str,
    sentence: str,
    pumps: Pumps,
    table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = f"backtest --data {table} --model {pumps.path} --out {tmp_path} {options}"
    assert run(command.format(table=table).split()) == 78
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "summary.json").exists()


def test_a_sweep_says_what_each_value_would_give(
    pumps: Pumps, table: Path, recording: Path, faults: Path, tmp_path: Path
) -> None:
    for data, truth in ((table, f" --truth {faults}"), (recording, " --jobs 1")):
        out = tmp_path / data.name
        command = f"backtest --data {data} --model {pumps.path} --out {out}{truth}"
        assert run(f"{command} --sweep threshold=-0.999,0.5".split()) == 0
        summary = summary_of(out)
        sweep = summary["sweep"]
        assert sweep["key"] == "threshold"
        strict, loose = sweep["points"]
        assert (strict["value"], loose["value"]) == (-0.999, 0.5)
        assert strict["episodes"] == 0 < loose["episodes"]
        assert strict["episodes_per_machine_day"] == 0.0
        if data == table:
            assert (strict["recall"]["value"], loose["recall"]["value"]) == (0.0, 0.5)
            assert strict["precision"]["value"] is None
            assert loose["false_alarms_per_machine_day"]["value"] > 0.0
        else:
            assert strict["recall"] is loose["precision"] is None
        # What was tried leaves nothing behind.
        assert {path.name for path in out.iterdir()} <= {
            "scores.parquet",
            "episodes.parquet",
            "health.parquet",
            "summary.json",
            "drift.parquet",
            "drift_windows.parquet",
            "truth.parquet",
            "report.html",
        }


def test_a_value_of_a_sweep_gives_what_a_backtest_with_that_setting_gives(
    pumps: Pumps, table: Path, faults: Path, tmp_path: Path
) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text("[episodes]\nmerge_gap_s = 86400\n")
    command = f"backtest --data {table} --model {pumps.path} --truth {faults}"
    swept, plain = tmp_path / "swept", tmp_path / "plain"
    assert run(f"{command} --out {swept} --sweep episodes.merge_gap_s=86400".split()) == 0
    assert run(f"--config {settings} {command} --out {plain}".split()) == 0
    (point,), expected = summary_of(swept)["sweep"]["points"], summary_of(plain)
    assert point.pop("value") == 86400
    assert point == {
        name: expected["truth"][name] if name in expected["truth"] else expected[name]
        for name in point
        if name != "episodes"
    } | {"episodes": expected["episodes"]}


def test_conditions_fail_a_backtest_with_status_1_a_table_and_a_junit_file(
    pumps: Pumps, table: Path, faults: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"backtest --data {table} --model {pumps.path} --out {tmp_path} --truth {faults}"
    assert run([*command.split(), "--fail-if", "recall < 0.9", "--fail-if", "rows < 10"]) == 1
    assert "recall < 0.9" in capsys.readouterr().out
    assert summary_of(tmp_path)["gate"] == {
        "passed": False,
        "conditions": [
            {"text": "recall < 0.9", "value": 0.5, "failed": True},
            {"text": "rows < 10", "value": 2304, "failed": False},
        ],
    }
    assert 'failures="1"' in (tmp_path / "junit.xml").read_text()
    assert run([*command.split(), "--fail-if", "recall < 0.1"]) == 0
    assert 'failures="0"' in (tmp_path / "junit.xml").read_text()


def test_a_results_folder_that_is_used_again_keeps_nothing_of_before(
    pumps: Pumps, table: Path, faults: Path, tmp_path: Path
) -> None:
    command = f"backtest --data {table} --model {pumps.path} --out {tmp_path}"
    judged = f"{command} --truth {faults} --against {pumps.path} --fail-if rows<1"
    assert run(judged.split()) == 0
    for name in ("truth.parquet", "junit.xml", "against"):
        assert (tmp_path / name).exists()
    (tmp_path / "mine.txt").write_text("kept")
    assert run(command.split()) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "drift.parquet",
        "drift_windows.parquet",
        "episodes.parquet",
        "health.parquet",
        "mine.txt",
        "report.html",
        "scores.parquet",
        "summary.json",
    ]
