from __future__ import annotations

import numpy as np

from worker.training.crossfit import Series, locate
from worker.training.suspects import suspect_rows, without_suspects

ROWS = 3000
MINUTE_US = 60_000_000
NEIGHBOURS = np.array([[1], [0]], np.int32)


def series_of(values: np.ndarray) -> Series:
    return Series(np.arange(len(values), dtype=np.int64) * MINUTE_US, values)


def ordinary() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(ROWS, 2))


def test_ordinary_work_is_kept_whole() -> None:
    series = series_of(ordinary())
    assert without_suspects(series, locate(series.values, series.window), NEIGHBOURS) is series


def test_a_fault_is_left_out_with_its_margin() -> None:
    values = ordinary()
    values[1000:1080, 0] += 15.0
    series = series_of(values)
    kept = without_suspects(series, locate(values, series_of(values).window), NEIGHBOURS)
    left_out = np.setdiff1d(series.times_us, kept.times_us) // MINUTE_US
    assert set(range(1000, 1080)) <= set(left_out.tolist())
    assert len(left_out) < 400


def test_what_happens_again_and_again_is_how_the_machine_works() -> None:
    values = ordinary()
    values[::150, 1] += 30.0
    series = series_of(values)
    assert not suspect_rows(series, locate(values, series_of(values).window), NEIGHBOURS).any()


def test_long_changes_are_not_taken_for_faults() -> None:
    values = ordinary()
    values[:400, 0] += 20.0
    assert not suspect_rows(
        series_of(values), locate(values, series_of(values).window), NEIGHBOURS
    ).any()


def test_few_rows_are_kept_as_they_are() -> None:
    series = series_of(ordinary()[:20])
    assert without_suspects(series, locate(series.values, series.window), NEIGHBOURS) is series
