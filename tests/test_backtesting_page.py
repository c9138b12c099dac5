"""The commands of docs/backtesting.md do what the page says they print."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from worker.cli.main import run

PAGE = (Path(__file__).parents[1] / "docs" / "backtesting.md").read_text()
SETS = {
    "AI4I 2020": ("ai4i.toml", "ai4i2020/ai4i2020.csv", "ai4i2020.csv"),
    "SKAB": ("skab.toml", "skab/valve1", "data/valve1"),
}


@pytest.mark.skipif(not os.environ.get("DRIFTDETECTOR_DATA"), reason="DRIFTDETECTOR_DATA is unset")
@pytest.mark.parametrize("name", SETS)
def test_a_public_data_set_goes_from_csv_to_report_in_three_commands(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    channels, source, target = SETS[name]
    section = re.split(r"^##+ ", PAGE.partition(f"### {name}\n")[2], flags=re.MULTILINE)[0]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    Path(target).parent.mkdir(exist_ok=True)
    Path(target).symlink_to(Path(os.environ["DRIFTDETECTOR_DATA"]) / source)
    Path(channels).write_text(section.split("```toml\n")[1].split("```")[0])
    commands = re.findall(r"^    driftdetector (.*)$", section, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        assert run(shlex.split(command)) == 0
    printed = capsys.readouterr().out
    promised = re.findall(r"^    ([│┃].*)$", section, re.MULTILINE)
    assert len(promised) > 15
    assert [line for line in promised if line not in printed] == []
    assert (Path(shlex.split(commands[2])[-3]) / "report.html").exists()
