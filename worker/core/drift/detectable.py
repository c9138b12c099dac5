"""The smallest change that a test finds nine times in ten.

Owns the inverse of each test: from the level at which it votes, and what chance adds, to the size
of a change. What a test says of its power follows from the same numbers as its verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

FOUND = 0.9
FOUND_NINE_IN_TEN = 1.2816
"""Standard deviations above the limit at which nine in ten are found."""
STEPS = 2
"""Towards a change of a given effect: effects are nearly straight lines."""


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


def of_share(limit: Floats, rows: Floats) -> Floats:
    """Share (N,) of which a window of so many independent rows shows more than ``limit`` (N,).

    A share strays by itself more than the usual one that it was held against: the upper end of
    Wilson's interval (JASA, 1927) of the limit.
    """
    z2 = FOUND_NINE_IN_TEN**2
    limit = np.clip(np.ceil(limit * rows) / rows, 0.0, 1.0)
    half = FOUND_NINE_IN_TEN * np.sqrt(limit * (1.0 - limit) / rows + z2 / (4.0 * rows**2))
    share: Floats = np.minimum((limit + z2 / (2.0 * rows) + half) / (1.0 + z2 / rows), 1.0)
    return share


def of_spread(limit: Floats, error: Floats) -> Floats:
    """Change (F,) of the spread's contrast that is found, above limits (F,) in standard errors.

    What is wider also strays more: k times the deviation gives a contrast ``(k^2 - 1) / sqrt(2)``
    that itself strays ``k^2`` times as much.
    """
    growth = math.sqrt(2.0) * FOUND_NINE_IN_TEN * error
    change: Floats = (limit + FOUND_NINE_IN_TEN) * error / np.maximum(1.0 - growth, 0.1)
    return change


@dataclass(frozen=True)
class Usual:
    """A column of the reference: value and share (k,) of each cell that it has."""

    values: Floats
    share: Floats

    def shift(self, scores: Floats, target: float, guess: float) -> float:
        """The shift that moves the mean of scores (k,) by ``target``.

        Near the ends of the reference's range scores no longer grow, so a shift of one standard
        deviation moves them by a little less than one.
        """

        def moved(by: float) -> float:
            up, down = (self._mean(scores, self.values + sign * by) for sign in (1.0, -1.0))
            middle = float(self.share @ scores)
            return min(up - middle, middle - down)

        return _inverse(moved, target, guess)

    def widening(self, scores: Floats, target: float, guess: float) -> float:
        """The share by which the deviation has to grow to move the mean of scores by that."""
        center = float(self.share @ self.values)

        def moved(by: float) -> float:
            wider = center + (self.values - center) * (1.0 + by)
            return self._mean(scores, wider) - float(self.share @ scores)

        return _inverse(moved, target, guess)

    def _mean(self, scores: Floats, values: Floats) -> float:
        return float(self.share @ np.interp(values, self.values, scores))


def _inverse(moved: Callable[[float], float], target: float, guess: float) -> float:
    """Where a function that grows, ever more slowly, is the target; the guess if it never is."""
    by = guess
    for _ in range(STEPS):
        now = moved(by)
        if now <= 0.1 * target:
            return guess
        by *= target / now
    return by
