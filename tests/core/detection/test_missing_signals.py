"""Signals that are missing, when others are predicted from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from worker.core.detection.baselines import PRECISION, SIGNAL_COLUMNS
from worker.core.detection.streams import MOST_MISSING, _fill_in


def fill_in(
    precision: NDArray[np.float64], values: NDArray[np.float64], room: int = MOST_MISSING
) -> NDArray[np.float64]:
    """Deviations (D,) by a precision matrix, with the missing ones (NaN) filled in."""
    count = len(values)
    root = np.sqrt(np.diag(precision))
    signals = np.zeros((SIGNAL_COLUMNS, count), np.float32)
    signals[PRECISION] = root
    others = [[s for s in range(count) if s != j] for j in range(count)]
    neighbours = np.array(others, np.int32).reshape(count, count - 1)
    rows = np.arange(count)[:, None]
    weights = (precision[rows, neighbours] / root[:, None]).astype(np.float32)
    filled = np.nan_to_num(values)
    missing, system = np.zeros(room, np.int64), np.zeros((room, room + 1))
    _fill_in(values, filled, signals, neighbours, weights, missing, system)
    return filled


def made_up(seed: int, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A precision matrix of strongly coupled signals, and values that they may have."""
    rng = np.random.default_rng(seed)
    loads = rng.normal(size=(count, 2))
    covariance = loads @ loads.T + 0.05 * np.eye(count)
    scale = np.sqrt(np.diag(covariance))
    covariance /= scale * scale[:, None]
    values = rng.multivariate_normal(np.zeros(count), covariance)
    return np.linalg.inv(covariance), values


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9), st.data())
def test_what_is_missing_is_what_the_others_make_of_it(
    seed: int, count: int, data: st.DataObject
) -> None:
    precision, values = made_up(seed, count)
    gone = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    values[gone] = np.nan
    filled = fill_in(precision, values)
    np.testing.assert_array_equal(filled[~gone], values[~gone])
    covariance = np.linalg.inv(precision)
    if gone.any() and not gone.all():
        there = covariance[np.ix_(~gone, ~gone)]
        expected = covariance[np.ix_(gone, ~gone)] @ np.linalg.solve(there, values[~gone])
        np.testing.assert_allclose(filled[gone], np.clip(expected, -8.0, 8.0), atol=2e-3)
    elif gone.all():
        assert not filled.any()


@pytest.mark.parametrize("missing", [3, 4])
def test_no_more_are_filled_in_than_there_is_room_for(missing: int) -> None:
    precision, values = made_up(5, 8)
    values[:missing] = np.nan
    filled = fill_in(precision, values, room=3)
    assert filled[:missing].any() == (missing <= 3)
