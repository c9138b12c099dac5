"""A report of a recording: the same timelines as of a table, and what its records were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import html5lib
import pytest

from tests.support.backtested import Backtested
from tests.support.recorded import keep
from worker.cli.main import run

TOPIC = "sensor-events"
EVENT = b'{"machine_id":"x","timestamp":"2026-01-01T%s:00Z","vibration":2.0,"torque":40.0}'


@pytest.fixture(scope="module")
def recorded(mills: Path, tmp_path_factory: pytest.TempPathFactory) -> Backtested:
    """The mills, and a partition with garbage, another machine and what it sent too late."""
    root = tmp_path_factory.mktemp("recorded") / "recording"
    assert run(["import", str(mills), "--out", str(root), "--partitions", "2"]) == 0
    sent = [(b"x", EVENT % b"10:00"), (b"x", b"\xff"), (b"y", b"{}"), (b"x", EVENT % b"12:00")]
    sent.append((b"x", EVENT % b"09:00"))
    keep(root, TOPIC, 7, [(key, value, 1_767_300_000_000) for key, value in sent])
    out = root.parent / "results"
    command = ["backtest", "--data", str(root), "--model", "machine-health", "--out", str(out)]
    assert run([*command, "--jobs", "1"]) == 0
    return Backtested(root, out)


def machines_of(page: str) -> dict[str, Any]:
    root = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)
    data = json.loads(root.find(".//script[@id='chart-data']").text)
    return {machine["id"]: machine for machine in data["machines"]}


def test_a_recording_gives_the_timelines_of_the_table_it_was_made_of(
    recorded: Backtested, plain: Backtested
) -> None:
    before, after = machines_of(plain.page), machines_of(recorded.page)
    assert set(after) == {*before, "x"}
    for name, machine in before.items():
        assert after[name]["ranges"][2:] == machine["ranges"][2:]
        assert after[name]["channels"] == machine["channels"]
    assert after["x"]["n"] == 3


def test_late_events_and_dead_letters_are_counted_by_reason(recorded: Backtested) -> None:
    root = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(recorded.page)
    said = {
        "".join(term.itertext()): "".join(one.itertext())
        for term, one in zip(root.findall(".//dt"), root.findall(".//dd"), strict=True)
    }
    assert (said["late"], said["dead letters"]) == ("1", "2")
    assert (said["not-utf8"], said["invalid-field"]) == ("1", "1")
    assert said["data"] == f"recording, topic {TOPIC}"
    assert "of the list of" in said["data sha256"]
