from __future__ import annotations

import json
from pathlib import Path

import pytest

from load.detection import report
from load.detection.campaign import run, summarise
from load.detection.cases import Case
from load.detection.fleets import SEEDS_TO_LEARN, Fleet, fleet_case


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [fleet_case(Fleet("iid"), seed, machines=3) for seed in (0, SEEDS_TO_LEARN)]


def test_every_detector_is_run_on_every_case_and_both_halves_are_reported(
    cases: list[Case], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[int, int]] = []
    outcomes = run(cases, ["flag all", "driftdetector"], lambda *done: seen.append(done))
    assert seen[-1] == (4, 4)
    results = [r for (group, name), own in outcomes.items() for r in summarise(group, name, own)]
    assert [(r.detector, r.role) for r in results] == [
        (name, part)
        for name in ("flag all", "driftdetector")
        for part in ("all", "confirm", "learn")
    ]
    report.show(results, "driftdetector")
    assert "driftdetector" in capsys.readouterr().out
    path = tmp_path / "bench.json"
    report.write(results, "driftdetector", path)
    written = json.loads(path.read_text())
    assert 0.0 <= written["fleet_iid_caught_ratio"] <= 1.0
    assert len(written["rows"]) == 6
