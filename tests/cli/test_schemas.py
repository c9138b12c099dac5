from __future__ import annotations

import json
from pathlib import Path

import pytest

from worker.cli.main import run

PUMP = Path(__file__).parents[1] / "data" / "pump.toml"


def test_the_committed_schemas_pass_the_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schemas", "check"]) == 0
    assert capsys.readouterr().out == "The files are as generated.\n"


def test_what_is_written_passes_the_check_until_it_is_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "schemas"
    assert run(["schemas", "write", "--dir", str(folder)]) == 0
    assert {path.name for path in folder.iterdir()} == {
        "anomaly.json",
        "asyncapi.json",
        "channels.json",
        "dead-letter.json",
        "drift-event.json",
        "episode.json",
        "late-event.json",
        "replay.json",
        "retraining-request.json",
        "acknowledgement.json",
        "sensor-event.json",
        "sensor-health.json",
    }
    assert run(["schemas", "check", "--dir", str(folder)]) == 0
    (folder / "anomaly.json").write_text("{}")
    (folder / "channels.json").unlink()
    capsys.readouterr()
    assert run(["schemas", "check", "--dir", str(folder)]) == 1
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("anomaly.json: differs at /")
    assert second == "channels.json: missing"
    assert "schemas write" in last


def test_another_channel_set_gives_its_own_contracts(tmp_path: Path) -> None:
    assert run(["schemas", "write", "--channels", str(PUMP), "--dir", str(tmp_path)]) == 0
    event = json.loads((tmp_path / "sensor-event.json").read_text())
    assert {"flow", "pressure", "motor_current"} < event["properties"].keys()
    assert run(["schemas", "check", "--channels", str(PUMP), "--dir", str(tmp_path)]) == 0
    assert run(["schemas", "check", "--dir", str(tmp_path)]) == 1


def test_a_missing_channel_specification_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["schemas", "check", "--channels", str(tmp_path / "none.toml")]) == 78
    assert "none.toml" in capsys.readouterr().err
