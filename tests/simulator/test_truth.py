from __future__ import annotations

import json

import numpy as np
import pytest

from worker.simulator.faults import US_PER_DAY, US_PER_HOUR, Category, Fault
from worker.simulator.truth import (
    OpenedEpisode,
    Truth,
    fault_free_intervals,
    match_faults,
)

START_US = 1_767_225_600_000_000


def fault(
    start_h: float, end_h: float, machine: str = "a", kind: str = "power", category: str = "machine"
) -> Fault:
    kind_of: Category = category  # type: ignore[assignment]
    start_us, end_us = (START_US + int(h * US_PER_HOUR) for h in (start_h, end_h))
    return Fault(machine, kind, kind_of, ("torque",), start_us, end_us, 1.0)


def truth(*faults: Fault, days: float = 1.0, machines: tuple[str, ...] = ("a", "b")) -> Truth:
    end_us = START_US + int(days * US_PER_DAY)
    return Truth("machine-health", 7, US_PER_HOUR, START_US, end_us, machines, faults)


def opened(
    hour: float, machine: str = "a", channels: tuple[str, ...] = ("torque",)
) -> list[OpenedEpisode]:
    return [OpenedEpisode(machine, START_US + int(hour * US_PER_HOUR), channels)]


def test_an_episode_that_opens_during_a_fault_detects_it() -> None:
    known = truth(fault(5, 6))
    for hour in (5.0, 5.5, 5.9999):
        assert match_faults(known, opened(hour)).detected == 1


def test_episodes_that_open_outside_the_fault_or_of_another_machine_do_not_detect_it() -> None:
    known = truth(fault(5, 6))
    for others in (opened(4.9), opened(6.0), opened(5.5, "b"), opened(5.5, "elsewhere")):
        assert match_faults(known, others).detected == 0


def test_the_first_episode_of_a_fault_must_name_a_channel_of_it_first() -> None:
    known = truth(fault(5, 6))
    right, wrong = ("torque", "vibration"), ("vibration", "torque")
    for channels, expected in ((right, 1), (wrong, 0), ((), 0)):
        found = [*opened(5.2, channels=channels), *opened(5.6, channels=right)]
        assert match_faults(known, found[::-1]).first_channel_right == expected


def test_a_sensor_fault_that_opens_an_episode_of_the_machine_is_counted() -> None:
    sensors = [fault(5 + 3 * i, 6 + 3 * i, kind="stuck", category="sensor") for i in range(3)]
    known = truth(*sensors, fault(20, 21))
    report = match_faults(known, [*opened(5.5), *opened(5.6), *opened(8.1), *opened(20.5)])
    assert (report.sensor_faults, report.sensor_alarms, report.detected) == (3, 2, 1)


def test_faults_are_counted_by_kind_and_only_those_of_machines() -> None:
    known = truth(
        fault(5, 6, kind="power"),
        fault(8, 9, kind="bearing"),
        fault(5, 6, "b", kind="power"),
        fault(12, 13, "b", kind="stuck", category="sensor"),
        fault(15, 20, "b", kind="slow-drift", category="drift"),
    )
    report = match_faults(known, [*opened(5.5), *opened(12.5, "b")])
    assert (report.injected, report.detected) == (3, 1)
    assert report.injected_by_kind == {"bearing": 1, "power": 2}
    assert report.detected_by_kind == {"bearing": 0, "power": 1}


def test_a_fault_that_the_end_cuts_off_at_once_is_not_counted() -> None:
    assert match_faults(truth(fault(23.9, 24)), []).injected == 0
    assert match_faults(truth(fault(23.7, 24)), []).injected == 1


def test_fault_free_time_leaves_out_the_first_window_and_the_one_after_each_fault() -> None:
    known = truth(fault(5, 6), fault(10, 11, category="sensor", kind="stuck"))
    hours = [
        ((start - START_US) / US_PER_HOUR, (end - START_US) / US_PER_HOUR)
        for start, end in fault_free_intervals(known)["a"]
    ]
    assert hours == [(1, 5), (7, 10), (12, 24)]
    assert match_faults(known, []).fault_free_machine_days == pytest.approx((19 + 23) / 24)


def test_opening_an_episode_every_minute_has_a_chance_level_of_one() -> None:
    everything = [e for m in "ab" for minute in range(1440) for e in opened(minute / 60, m)]
    report = match_faults(truth(fault(5, 6)), everything)
    assert report.detected == 1
    assert report.chance_level == 1.0
    assert report.false_episodes_per_machine_day == pytest.approx(1440, rel=0.01)


def test_the_chance_level_is_the_share_of_equally_long_stretches_in_which_one_opens() -> None:
    # b is quiet for 23 hours after its first; a for 4 and then 17.
    report = match_faults(truth(fault(5, 6)), [*opened(1.5, "b"), *opened(1.7, "b")])
    assert report.chance_level == pytest.approx(1 / (23 + 4 + 17), abs=1e-4)
    assert report.false_episodes == 2


def test_without_faults_or_time_the_report_is_empty() -> None:
    report = match_faults(truth(days=0.0), [])
    assert (report.injected, report.detected, report.chance_level) == (0, 0, 0.0)
    assert report.false_episodes_per_machine_day == 0.0


def test_the_truth_file_is_json_with_readable_times() -> None:
    document = json.loads(truth(fault(5, 6)).to_json())
    assert document["start"] == "2026-01-01T00:00:00.000000Z"
    assert document["machines"] == ["a", "b"]
    assert document["faults"] == [
        {
            "machine_id": "a",
            "kind": "power",
            "category": "machine",
            "channels": ["torque"],
            "start": "2026-01-01T05:00:00.000000Z",
            "end": "2026-01-01T06:00:00.000000Z",
            "severity": 1.0,
        }
    ]


def test_episodes_may_come_in_any_order() -> None:
    known = truth(fault(5, 6), fault(8, 9, "b"))
    found = [*opened(5.5), *opened(8.5, "b"), *opened(15), *opened(16, "b")]
    shuffled = [found[i] for i in np.random.default_rng(0).permutation(len(found))]
    assert match_faults(known, shuffled) == match_faults(known, found)
