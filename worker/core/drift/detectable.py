"""The smallest change that a test finds nine times in ten.

Owns the inverse of each test: from the level at which it votes, and what chance adds, to the size
of a change. What a test says of its power follows from the same numbers as its verdict.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

FOUND = 0.9
FOUND_NINE_IN_TEN = 1.2816
"""Standard deviations above the limit at which nine in ten are found."""


def of_ks(alpha: float, rows: Floats) -> Floats:
    """Distance (F,) of the distribution functions that is found.

    Where they are farthest apart, the share of n rows strays by at most half of ``1 / sqrt(n)``.
    """
    root = np.sqrt(rows)
    limit = special.kolmogi(alpha) / (root + 0.12 + 0.11 / root)
    least: Floats = np.minimum(limit + 0.5 * FOUND_NINE_IN_TEN / root, 1.0)
    return least


def of_chi_squared(alpha: float, freedom: float) -> float:
    """Non-centrality of chi-squared that is found."""
    limit = special.chdtri(freedom, alpha)
    return float(special.chndtrinc(limit, freedom, 1.0 - FOUND))


def of_quadratic(limit: float, weights: Floats) -> float:
    """Squared change that takes a weighted sum of squares above its limit.

    ``|d + e|^2``, where e has independent parts of these variances, has mean ``|d|^2 + sum w``
    and a variance of at most ``2 sum w^2 + 4 max w |d|^2``; this solves for ``|d|^2``.

    Args:
        limit: of the sum.
        weights: (k,) its variances.
    """
    z2 = FOUND_NINE_IN_TEN**2
    above = limit - float(weights.sum())
    fixed, slope = 2.0 * float((weights**2).sum()), 4.0 * float(weights.max(initial=0.0))
    middle = above + 0.5 * z2 * slope
    return middle + math.sqrt(max(middle**2 - above**2 + z2 * fixed, 0.0))


def of_range(alpha: Floats, rows: Floats, reference_rows: Floats) -> Floats:
    """Share (F,) outside the reference's range that is found.

    See :func:`worker.core.drift.statistics.outside_chance`: k of n new rows outside have a chance
    of at most ``2 (n / (n + N))^k``, and a share p puts at least k there nine times in ten where
    the beta distribution says so.
    """
    rows = np.maximum(np.floor(rows), 1.0)
    needed = np.ceil(np.log(alpha / 2.0) / np.log(rows / (rows + reference_rows)))
    possible = needed <= rows
    needed = np.clip(needed, 1.0, rows)
    share = special.betaincinv(needed, rows - needed + 1.0, FOUND)
    return np.where(possible, share, 1.0)


def of_shift(target: Floats, scores: Floats, values: Floats, share: Floats, sd: Floats) -> Floats:
    """Shift (F,) in the columns' units that moves the mean normal score by ``target`` (F,).

    Near the ends of the reference's range scores no longer grow, so a shift of one standard
    deviation moves them by a little less than one.

    Args:
        scores, values, share: (F, 64) normal score, value and share of the reference in each cell.
        sd: (F,) first guess of what moves the mean score by one.
    """
    shift = target * sd
    for f in np.flatnonzero((sd > 0.0) & np.isfinite(target)):
        present = share[f] > 0.0
        x, y, p = values[f, present], scores[f, present], share[f, present]
        for _ in range(3):
            up = p @ np.interp(x + shift[f], x, y) - p @ y
            down = p @ y - p @ np.interp(x - shift[f], x, y)
            moved = min(up, down)
            if moved <= 0.1 * target[f]:
                break
            shift[f] *= target[f] / moved
    return shift
