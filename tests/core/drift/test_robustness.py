"""Verdicts do not depend on units, constant columns, glitches, or how the rows came."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.core.drift.series import autoregressive, gathered, learned
from worker.core.drift import Reference, WindowReport
from worker.core.drift.judge import judge

WINDOW_US = 300_000_000
SERIES = autoregressive(np.random.default_rng(31), 6_000, 4, 0.5)
USUAL, WINDOW = SERIES[:5_000], SERIES[5_700:]
Rows = NDArray[np.float32]


def said(reference: Reference, window: Rows) -> WindowReport:
    (partial,) = gathered(reference, window, WINDOW_US)
    return judge(reference, reference.groups["fleet"], partial, 0.01, 30).report


def changed() -> Rows:
    window = WINDOW.copy()
    window[:, 1] += 0.8
    return window


@pytest.mark.parametrize(("scale", "offset"), [(1e-4, 0.0), (1000.0, 0.0), (-2.0, 64.0)])
def test_the_unit_of_a_column_does_not_matter(scale: float, offset: float) -> None:
    def other(rows: Rows) -> Rows:
        return (rows.astype(np.float64) * scale + offset).astype(np.float32)

    for window in (WINDOW, changed()):
        plain, scaled = said(learned(USUAL), window), said(learned(other(USUAL)), other(window))
        assert scaled.verdict == plain.verdict
        assert [one.feature for one in scaled.features if one.drifted] == [
            one.feature for one in plain.features if one.drifted
        ]
        first, second = plain.features[0], scaled.features[0]
        assert second.score == pytest.approx(first.score, abs=0.02)
        assert second.effect == pytest.approx(first.effect * scale, rel=0.05, abs=0.02 * abs(scale))
        assert second.smallest_detectable == pytest.approx(
            first.smallest_detectable * abs(scale), rel=0.1
        )


def test_a_constant_column_says_nothing_until_it_moves() -> None:
    usual, window = USUAL.copy(), WINDOW.copy()
    usual[:, 3] = window[:, 3] = 7.5
    reference = learned(usual)
    assert said(reference, window).verdict == "ordinary"
    window[:, 3] = 7.75
    report = said(reference, window)
    assert report.verdict == "drift"
    assert report.features[0].feature == "f3"
    assert {test.name for test in report.features[0].tests if test.voted} == {"range"}


def test_glitches_of_any_size_are_no_drift() -> None:
    for glitch in (50.0, -1e30, np.inf):
        window = WINDOW.copy()
        window[100, 2] = glitch
        report = said(learned(USUAL), window)
        assert report.verdict == "ordinary"
        assert all(np.isfinite(one.score) and one.score < 0.3 for one in report.features)


def test_a_column_that_is_almost_all_missing_is_a_matter_of_health() -> None:
    window = WINDOW.copy()
    window[np.random.default_rng(1).random(len(window)) < 0.95, 0] = np.nan
    report = said(learned(USUAL), window)
    assert report.verdict == "health"
    assert "f0" in report.sentence


def test_columns_that_have_nothing_to_do_with_it_hide_no_change() -> None:
    more = autoregressive(np.random.default_rng(32), 6_000, 24, 0.5)
    usual, window = np.hstack([USUAL, more[:5_000]]), np.hstack([changed(), more[5_700:]])
    report = said(learned(usual), window)
    assert [one.feature for one in report.features if one.drifted] == ["f1"]
    few, many = said(learned(USUAL), WINDOW), said(learned(usual), window)
    least = {one.feature: one.smallest_detectable for one in few.features}["f1"]
    # Seven times as many columns ask for little more.
    assert {o.feature: o.smallest_detectable for o in many.features}["f1"] < 1.25 * least
