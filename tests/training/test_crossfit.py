from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import lfilter

from worker.core.detection.baselines import NORMALISED, SEASON_BINS
from worker.training.crossfit import (
    FOLDS,
    Series,
    find_seasons,
    folds_of,
    learn,
    locate,
    memory_of,
    neighbours_of,
    regress,
    season_of,
    usual_at,
)

MINUTE_US = 60_000_000
DAY_US = 86_400_000_000

Floats = NDArray[np.float64]


def autoregression(rng: np.random.Generator, rows: int, phi: float) -> Floats:
    noise = rng.normal(size=rows) * np.sqrt(1.0 - phi**2)
    return np.asarray(lfilter([1.0], [1.0, -phi], noise))


def series_of(values: Floats, step_us: int = MINUTE_US) -> Series:
    return Series(np.arange(len(values), dtype=np.int64) * step_us, values)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9, 0.97])
def test_the_memory_of_an_autoregression_is_that_of_its_theory(phi: float) -> None:
    rng = np.random.default_rng(1)
    x = np.stack([autoregression(rng, 60_000, phi) for _ in range(5)], axis=1)
    expected = (1.0 + phi) / (1.0 - phi)
    # Means over blocks are no autoregression of order 1, so it errs towards more.
    assert 0.9 * expected <= np.median(memory_of(x, 60.0)) <= 1.0 + 1.6 * expected


def test_slow_wander_behind_fast_noise_is_remembered() -> None:
    rng = np.random.default_rng(2)
    wander = autoregression(rng, 40_000, 0.995)
    x = (0.5 * wander + rng.normal(size=40_000))[:, None]
    assert memory_of(x, 1.0)[0] < 20.0
    assert memory_of(x, 60.0)[0] > 60.0


def test_a_place_is_hardly_moved_by_one_reading_in_thirty() -> None:
    rng = np.random.default_rng(3)
    values = 10.0 + 2.0 * rng.normal(size=(3000, 1))
    clean = locate(values, 60.0)
    values[::30] += 500.0
    place = locate(values, 60.0)
    assert clean.location[0] == pytest.approx(10.0, abs=0.15)
    assert place.location[0] == pytest.approx(clean.location[0], abs=0.15)


def test_folds_cover_every_row_once_and_in_order() -> None:
    for n in (1, 5, 41, 1000):
        rows = np.concatenate([np.arange(n)[fold] for fold in folds_of(n)])
        assert rows.tolist() == list(range(n))
        assert len(folds_of(n)) == FOLDS


def test_weights_are_those_of_the_conditional_expectation() -> None:
    rng = np.random.default_rng(4)
    load = rng.normal(size=50_000)
    y = np.stack([load + 0.5 * rng.normal(size=50_000), load, rng.normal(size=50_000)], axis=1)
    moving = np.ones(3, np.bool_)
    s = np.cov(y, rowvar=False)
    neighbours = neighbours_of(np.corrcoef(y, rowvar=False), moving)
    precision, weights = regress(s, neighbours, moving)
    residual = precision[0] * y[:, 0] + (weights[0] * y[:, neighbours[0]]).sum(axis=1)
    assert residual.std() == pytest.approx(1.0, abs=0.02)
    assert residual == pytest.approx((y[:, 0] - load) / 0.5, abs=0.1)


def test_what_a_machine_does_in_one_quarter_only_shows_out_of_fold() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(size=(4000, 1))
    values[:1000] += 3.0
    series = series_of(values)
    learned = learn(series, locate(values, series.window), np.full((1, 0), -1, np.int32))
    first = np.abs(learned.streams[:1000, NORMALISED, 0]).mean()
    rest = np.abs(learned.streams[1000:, NORMALISED, 0]).mean()
    assert first > 2.0 * rest


def test_a_habit_of_the_day_is_found_and_noise_is_none() -> None:
    rng = np.random.default_rng(6)
    step_us = 10 * MINUTE_US
    times_us = np.arange(6 * 144, dtype=np.int64) * step_us
    wave = 3.0 * np.sin(2.0 * np.pi * times_us / DAY_US)
    values = np.stack([wave + 0.5 * rng.normal(size=864), rng.normal(size=864)], axis=1)
    series = Series(times_us, values)
    place = locate(values, series.window)
    assert find_seasons(series, [place] * FOLDS).tolist() == [True, False]
    season = season_of(values, times_us)
    assert season.shape == (2, SEASON_BINS)
    assert usual_at(season, times_us)[:, 0] == pytest.approx(wave, abs=0.8)
