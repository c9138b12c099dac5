from __future__ import annotations

import json
from pathlib import Path

import pytest

from worker.cli.main import run
from worker.settings import MASK, setting_keys


@pytest.fixture(autouse=True)
def _no_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def test_every_setting_is_shown_with_its_origin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[http]\nport = 81\n")
    monkeypatch.setenv("DRIFTDETECTOR_LOG__LEVEL", "debug")
    assert run(["--config", str(file), "config", "show"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "│" in line]
    row = {cells[1]: cells[3:] for cells in ([*line.split()] for line in rows)}
    assert row["http.port"][:1] == ["81"]
    assert row["http.port"][-2] == str(file)
    assert row["log.level"][-2] == "DRIFTDETECTOR_LOG__LEVEL"
    assert row["log.format"][-2] == "default"
    assert set(setting_keys()) - {"kafka.client"} <= row.keys()


def test_secrets_are_masked_in_both_forms(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTDETECTOR_HTTP__TOKEN", "hush")
    monkeypatch.setenv("DRIFTDETECTOR_KAFKA__CLIENT", '{"sasl.password": "hush"}')
    for arguments in (["config", "show"], ["config", "show", "--json"]):
        assert run(arguments) == 0
        shown = capsys.readouterr().out
        assert "hush" not in shown
        assert shown.count(MASK) == 2


def test_json_has_key_value_and_origin(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {"key": "http.port", "value": 8080, "origin": "default"} in shown
    assert {"key": "http.token", "value": None, "origin": "default"} in shown


def test_a_wrong_setting_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTDETECTOR_HTTP__PORT", "http")
    assert run(["config", "show"]) == 78
    expected = (
        "error: http.port (DRIFTDETECTOR_HTTP__PORT): 'http' is not a whole number; "
        "write one without quotes.\n"
    )
    assert capsys.readouterr() == ("", expected)
