"""Cycles: known where they are real, taken off, and nothing where they are chance."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.core.drift.series import autoregressive, learned
from worker.core.drift import Collector, Reference
from worker.core.drift.cycles import DAY_HOURS, HOUR_US, WEEK_HOURS, Profile, learn_profiles
from worker.core.drift.judge import judge

MINUTE_US = 60_000_000
DAY = 1440
START_US = 20_000 * DAY * MINUTE_US
"""A midnight in UTC."""
HOUR = 60


def daily(rng: np.random.Generator, days: int, first: int, swing: float) -> NDArray[np.float32]:
    """Rows each minute of three columns that are alike for minutes, with a daily sine."""
    rows = days * DAY
    sine = swing * np.sin(2.0 * np.pi * (first * DAY + np.arange(rows)) / DAY)
    values: NDArray[np.float32] = (autoregressive(rng, rows, 3, 0.9) + sine[:, None]).astype("f4")
    return values


def verdicts(reference: Reference, rows: NDArray[np.float32], first: int) -> list[str]:
    """Of windows of an hour."""
    collector = Collector(reference.layout, 0, HOUR_US)
    n = len(rows)
    times = (first * DAY + np.arange(n)) * MINUTE_US
    collector.add(times, np.zeros(n, np.int64), [b"m"], rows, np.zeros(n, np.bool_), {})
    group = reference.groups["fleet"]
    return [judge(reference, group, part, 0.01, 30).report.verdict for part in collector.take(1)]


def test_a_daily_cycle_neither_alarms_nor_hides_a_shift() -> None:
    rng = np.random.default_rng(12)
    ordinary, shifted, hidden, widened = [], [], [], []
    for _ in range(2):
        # Three days are too few for a profile: the cycle widens the variance instead.
        rows = daily(rng, 12, 0, 1.5)
        knows, knows_not = learned(rows, MINUTE_US), learned(rows[: 3 * DAY], MINUTE_US)
        assert knows.groups["fleet"].daily.cycles >= 11
        assert knows_not.groups["fleet"].daily.cycles == 0
        later = daily(rng, 5, 12, 1.5)
        moved = later + np.array([1.5, 0.0, 0.0], np.float32)
        ordinary += verdicts(knows, later, 12)
        shifted += verdicts(knows, moved, 12)
        widened += verdicts(knows_not, later, 12)
        hidden += verdicts(knows_not, moved, 12)
    assert ordinary.count("drift") <= 0.03 * len(ordinary)
    power, without = (v.count("drift") / len(v) for v in (shifted, hidden))
    assert power > without + 0.2


def test_what_does_not_come_back_each_day_makes_no_profile() -> None:
    rng = np.random.default_rng(5)
    times = START_US + np.arange(7 * DAY) * MINUTE_US
    found = 0
    for phi in (0.0, 0.9, 0.999):
        profile = Profile.learn(autoregressive(rng, 7 * DAY, 60, phi).astype("f8"), times, 24)
        found += int(profile.level.any(axis=1).sum())
    assert found <= 3


def test_a_profile_is_by_hours_of_utc_whenever_the_reference_begins() -> None:
    rng = np.random.default_rng(6)
    for offset in (0, 7 * HOUR):
        minutes = offset + np.arange(6 * DAY)
        series = (minutes % DAY // HOUR == 13)[:, None] * 5.0 + rng.normal(size=(6 * DAY, 2))
        profile = Profile.learn(series, START_US + minutes * MINUTE_US, DAY_HOURS)
        assert profile.level.argmax(axis=1).tolist() == [13, 13]
        peak = profile.over(START_US + 13 * HOUR_US, START_US + 14 * HOUR_US)
        assert (peak > profile.over(START_US, START_US + HOUR_US) + 3.0).all()


def test_columns_that_remember_have_no_profile() -> None:
    rng = np.random.default_rng(9)
    minutes = np.arange(6 * DAY)
    series = (minutes % DAY // HOUR == 13)[:, None] * 5.0 + rng.normal(size=(6 * DAY, 2))
    times = START_US + minutes * MINUTE_US
    daily, _, rest = learn_profiles(series, times, np.array([False, True]))
    assert daily.level.any(axis=1).tolist() == [True, False]
    assert np.array_equal(rest[:, 1], series[:, 1])
    assert rest[:, 0].std() < 0.9 * series[:, 0].std()


def test_a_weekly_cycle_needs_four_weeks() -> None:
    rng = np.random.default_rng(7)
    hours = np.arange(5 * WEEK_HOURS)
    weekend = ((hours // 24) % 7 >= 5)[:, None] * 2.0
    series = weekend + 0.3 * rng.normal(size=(len(hours), 1))
    times = START_US + hours * HOUR_US
    assert Profile.learn(series, times, WEEK_HOURS).cycles >= 4
    few = slice(0, 4 * WEEK_HOURS - 1)
    assert Profile.learn(series[few], times[few], WEEK_HOURS).level.size == 0


@pytest.mark.parametrize("hours", [DAY_HOURS, WEEK_HOURS])
def test_an_array_gives_the_same_profile(hours: int) -> None:
    rng = np.random.default_rng(8)
    profile = Profile(rng.normal(size=(4, hours)), rng.random(4), 5)
    again = Profile.from_array(profile.to_array())
    assert np.array_equal(again.level, profile.level)
    assert np.array_equal(again.variance, profile.variance)
    assert again.cycles == 5
