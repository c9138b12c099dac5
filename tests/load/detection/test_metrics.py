from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from load.detection import metrics
from load.detection.cases import US_PER_DAY, Case, Event, Frame, make_spec
from load.detection.detectors import Detections, Episode

HOUR_US = US_PER_DAY // 24
ROWS = 24 * 40


def hour(k: float) -> int:
    return int(k * HOUR_US)


def make_case(events: tuple[Event, ...]) -> Case:
    times_us = HOUR_US * np.arange(ROWS, dtype=np.int64)
    frame = Frame(np.full(ROWS, "m"), times_us, np.zeros((ROWS, 1)))
    labels = np.zeros(ROWS, np.bool_)
    for event in events:
        labels |= (times_us >= event.start_us) & (times_us <= event.end_us)
    parts = np.where(np.arange(ROWS) < ROWS // 2, "early", "late")
    spec = make_spec("test", ["a"], HOUR_US)
    return Case("test", "test", "learn", spec, frame, frame, labels, events, parts)


def detections(scores: np.ndarray, episodes: list[Episode]) -> Detections:
    flags = scores < 0
    return Detections(scores, np.zeros(ROWS), flags, [()] * ROWS, episodes)


FAULT = Event("m", "shift", hour(100), hour(150), ("a", "b"))
SENSOR = Event("m", "stuck", hour(300), hour(320), ("a",), "sensor")


def episode(opened: float, *channels: str) -> Episode:
    return Episode("m", hour(opened), hour(opened + 5), channels)


def test_an_event_is_caught_by_an_opening_while_it_is_in_force() -> None:
    quiet = np.ones(ROWS)
    outcome = metrics.judge(
        make_case((FAULT,)), detections(quiet, [episode(90), episode(130, "c", "a")])
    )
    measures = metrics.event_measures([outcome], budget=0.1)
    assert (measures["caught"], measures["delay_min"]) == (1, 30 * 60)
    assert (measures["right_channel_1"], measures["right_channel_3"]) == (0.0, 1.0)
    assert (measures["false_episodes"], measures["precision"]) == (1, 0.5)
    missed = metrics.judge(make_case((FAULT,)), detections(quiet, [episode(90)]))
    assert metrics.event_measures([missed], budget=0.1)["recall"] == 0.0


def test_openings_just_after_an_event_or_by_a_sensor_are_not_false() -> None:
    outcome = metrics.judge(
        make_case((FAULT, SENSOR)),
        detections(np.ones(ROWS), [episode(155), episode(310), episode(500)]),
    )
    measures = metrics.event_measures([outcome], budget=0.1)
    assert measures["false_episodes"] == 1
    assert measures["during_sensor_faults"] == 1


def test_false_episodes_are_set_against_quiet_time() -> None:
    outcome = metrics.judge(make_case((FAULT,)), detections(np.ones(ROWS), [episode(500)]))
    assert outcome.quiet_days == pytest.approx((ROWS - 51 - 24) / 24)
    measures = metrics.event_measures([outcome], budget=0.1)
    assert measures["false_of_budget_ratio"] == pytest.approx(1 / (0.1 * outcome.quiet_days))


def test_row_measures_have_their_usual_meaning() -> None:
    case = make_case((FAULT,))
    perfect = metrics.row_measures([metrics.judge(case, detections(0.5 - case.labels, []))])
    assert perfect["f1"] == perfect["roc_auc"] == perfect["pr_auc"] == 1.0
    everything = metrics.row_measures([metrics.judge(case, detections(-np.ones(ROWS), []))])
    share = case.labels.mean()
    assert everything["f1"] == pytest.approx(2 * share / (1 + share))
    assert (everything["far_pct"], everything["mar_pct"]) == (100.0, 0.0)
    assert everything["roc_auc"] == 0.5


def test_a_reading_without_score_counts_as_normal() -> None:
    case = make_case((FAULT,))
    scores = np.where(case.labels, -1.0, np.nan)
    assert metrics.row_measures([metrics.judge(case, detections(scores, []))])["roc_auc"] == 1.0


def test_slices_show_the_gap_between_parts() -> None:
    case = make_case((FAULT, Event("m", "shift", hour(700), hour(750))))
    scores = 0.5 - (case.labels & (case.slices == "early"))
    slices = metrics.slice_measures([metrics.judge(case, detections(scores, []))])
    assert slices["early"]["mar_pct"] == 0.0
    assert metrics.gap(slices, "mar_pct") == 100.0
    assert metrics.gap({"early": slices["early"]}, "mar_pct") == 0.0


def test_where_events_are_single_readings_the_reading_decides() -> None:
    event = Event("m", "spike", hour(100), hour(100), ("a",))
    case = dataclasses.replace(make_case((event,)), unit="row")
    scores = np.ones(ROWS)
    scores[100] = -1.0
    found = detections(scores, [])
    found.top_channels[100] = ("a",)  # type: ignore[index]
    measures = metrics.event_measures([metrics.judge(case, found)], budget=0.1)
    assert (measures["caught"], measures["right_channel_1"]) == (1, 1.0)
