from __future__ import annotations

import numpy as np
import pytest

from load.detection.nab import WEIGHT_FALSE, normalised_score, openings, raw_score, weight
from load.detection.public import NabTruth

SERIES = NabTruth(rows=1000, probation=150, windows=((300, 399), (700, 719)))
EMPTY = NabTruth(rows=400, probation=60, windows=())


def test_no_detections_score_0_and_perfect_ones_100() -> None:
    truths = [SERIES, EMPTY]
    assert normalised_score(truths, [[], []]) == 0.0
    assert normalised_score(truths, [[300, 700], []]) == pytest.approx(100.0)


def test_the_first_detection_in_a_window_counts_alone_and_earlier_is_better() -> None:
    assert raw_score(SERIES, [310, 390, 391]) == raw_score(SERIES, [310])
    scores = [raw_score(SERIES, [row]) for row in range(300, 400)]
    assert scores == sorted(scores, reverse=True)


def test_a_false_detection_costs_its_weight_and_less_just_after_a_window() -> None:
    nothing = raw_score(SERIES, [])
    assert raw_score(SERIES, [200]) == pytest.approx(nothing - WEIGHT_FALSE)
    assert nothing > raw_score(SERIES, [401]) > raw_score(SERIES, [450]) > raw_score(SERIES, [699])
    assert raw_score(SERIES, [990]) == pytest.approx(nothing - WEIGHT_FALSE)


def test_the_probationary_part_is_not_scored() -> None:
    assert raw_score(SERIES, range(150)) == raw_score(SERIES, [])


@pytest.mark.parametrize(
    ("position", "expected"), [(-1.0, 0.98661), (-0.5, 0.84828), (0.0, 0.0), (3.5, -1.0)]
)
def test_the_sigmoid_has_the_values_of_the_paper(position: float, expected: float) -> None:
    assert weight(position) == pytest.approx(expected, abs=1e-5)


def test_a_run_of_low_scores_is_one_opening_and_short_gaps_do_not_open_again() -> None:
    scores = np.array([0.0, -5, -5, 0, -5, 0, 0, 0, -5, -5])
    assert openings(scores, -1.0, gap=0) == [1, 4, 8]
    assert openings(scores, -1.0, gap=1) == [1, 8]
    assert openings(scores, -1.0, gap=3) == [1]
    assert openings(scores, -9.0, gap=0) == []
