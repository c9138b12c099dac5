from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from worker.core.errors import ConfigError, DriftDetectorError
from worker.demo.report import Report, check_writable, summary
from worker.simulator import FaultReport

REPORT = Report(
    events_produced=100,
    events_scored=90,
    events_late=7,
    events_dead=3,
    anomalies=12,
    episodes=3,
    faults_injected=4,
    faults_detected=3,
    first_channel_right=3,
    chance_level=0.02,
    false_episodes_per_machine_day=0.015,
    sensor_faults=2,
    sensor_alarms=0,
    events_per_second=10.0,
    duration_s=10.0,
    simulated_s=3600.0,
    machines=5,
    seed=7,
    model_version="machine-health/1.0.0",
    broker="embedded",
    exactly_once=False,
)


FOUND = {"anomalies": 12, "anomaly-episodes": 8}


def test_figures_that_agree_pass() -> None:
    REPORT.check(published=FOUND, found=FOUND)


@pytest.mark.parametrize(
    ("change", "published", "sentence"),
    [
        ({"events_scored": 0, "events_produced": 10}, {}, "the demo scored no event"),
        ({"events_produced": 101}, {}, "produced 101 events, but scored, late and dead make 100"),
        ({}, {"anomalies": 13}, "the worker published 13 messages to anomalies, but 12 are there"),
        ({}, {"anomaly-episodes": 7}, "published 7 messages to anomaly-episodes, but 8 are there"),
    ],
)
def test_figures_that_do_not_agree_are_one_sentence(
    change: dict[str, int], published: dict[str, int], sentence: str
) -> None:
    with pytest.raises(DriftDetectorError, match=sentence):
        msgspec.structs.replace(REPORT, **change).check(FOUND | published, FOUND)


def test_the_report_is_flat_json(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    check_writable(path)
    REPORT.write(path)
    document = json.loads(path.read_text())
    assert document == msgspec.structs.asdict(REPORT)
    assert not any(isinstance(value, dict | list) for value in document.values())


def test_a_report_that_cannot_be_written_is_found_out_before_the_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "out.json"):
        with pytest.raises(ConfigError, match=r"--report: .* cannot be written"):
            check_writable(path)
    with pytest.raises(ConfigError, match=r"--report: .* cannot be written"):
        REPORT.write(tmp_path)


def test_the_summary_can_be_made_without_any_fault() -> None:
    faults = FaultReport(0, 0, {}, {}, 0, 0.0, 0, 0.0, 0, 0)
    assert summary(REPORT, faults).row_count > 5
