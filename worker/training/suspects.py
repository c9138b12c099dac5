"""Faults inside the training period: found without labels, and left out of what is learned.

A few stretches in which a machine is far from all that it otherwise does are taken for
faults; what happens again and again is taken for its nature, however extreme it is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worker.core.detection.baselines import STREAMS
from worker.training.crossfit import (
    FEWEST_ROWS,
    FOLDS,
    Place,
    Series,
    baseline_of,
    find_seasons,
    out_of_fold,
)

FAR = 8.0
"""A stream this many of its robust standard deviations from its median is suspect."""
WINDOWS_A_STRETCH = 20.0
"""One suspect stretch in so many windows is a fault; more are how the machine works. So nothing
is left out of a training period that is shorter than that."""
LARGEST_SHARE = 0.1
"""Faults take at most this share of the training period."""
MARGIN = 0.25
"""What is left out around suspect readings, in windows."""
ROUNDS = 2
"""Faults hide each other: what remains is looked at once more."""


def without_suspects(series: Series, place: Place, neighbours: NDArray[np.int32]) -> Series:
    """The series without the readings of suspect stretches."""
    for _ in range(ROUNDS):
        if len(series.times_us) < FEWEST_ROWS:
            break
        rows = suspect_rows(series, place, neighbours)
        if not rows.any():
            break
        series = Series(series.times_us[~rows], series.values[~rows])
    return series


def suspect_rows(series: Series, place: Place, neighbours: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which rows (n,) belong to suspect stretches; none where these are too many."""
    n = len(series.times_us)
    every = np.ones(n, np.bool_)
    seasonal = find_seasons(series, [place] * FOLDS)
    baseline = baseline_of(series, every, place, neighbours, seasonal)
    found = out_of_fold(series, [baseline] * FOLDS, neighbours).astype(np.float64)
    far = np.zeros(n, np.bool_)
    for j in np.flatnonzero(place.scale > 0.0):
        for stream in range(STREAMS):
            distance = found[:, stream, j] - np.median(found[:, stream, j])
            far |= np.abs(distance) > FAR * max(_spread(distance), 1e-9)
    rows = np.flatnonzero(far)
    stretches = int((np.diff(rows, prepend=-n) > series.window).sum())
    reach = int(MARGIN * series.window)
    padded = np.convolve(far, np.ones(2 * reach + 1))[reach : reach + n] > 0.0
    allowed = n / (WINDOWS_A_STRETCH * series.window)
    if stretches > allowed or padded.mean() > LARGEST_SHARE:
        return np.zeros(n, np.bool_)
    return padded


def _spread(distance: NDArray[np.float64]) -> float:
    """Standard deviation by the middle 90 %, which a few faults do not reach."""
    low, high = np.quantile(distance, [0.05, 0.95])
    return max(1.4826 * float(np.median(np.abs(distance))), float(high - low) / 3.29)
