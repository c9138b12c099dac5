"""Distances that people know, told of each column beside the tests that vote.

Owns Kolmogorov-Smirnov, PSI, Jensen-Shannon, Wasserstein and the drift score of a window, with the
chance that follows from the effective number of rows.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import special

from worker.core.drift import detectable, statistics
from worker.core.drift.cells import ABOVE, BELOW, CELLS, INSIDE, OUTSIDE, STEPS_A_SCALE
from worker.core.drift.outputs import Direction, Test
from worker.core.drift.partial import Partial
from worker.core.drift.reference import GroupReference, Reference

Floats = NDArray[np.float64]

GLITCHES = 0.05
"""Values outside the range count towards distances when they are more than that share."""
POOLED_CELLS = 10
TOLD_ALPHA = 0.01
"""Level at which a distance by itself would be said to differ."""
OF_WASSERSTEIN = 1.27, 0.44
"""Mean and standard deviation of ``sqrt(n) W``, see :func:`wasserstein_chance`."""


class Distances:
    """Distances of all columns of a window."""

    def __init__(self, reference: Reference, group: GroupReference, window: Partial) -> None:
        self._reference, self._group, self._window = reference, group, window
        self._now = window.counts[:, :CELLS]
        self._usual = group.counts[:, :CELLS]
        shares = statistics.shares(self._now)
        self.outside = shares[:, BELOW] + shares[:, ABOVE]
        step = reference.scale / STEPS_A_SCALE
        out = self._now[:, BELOW] + self._now[:, ABOVE]
        sums = window.sums
        self._beyond = reference.center + step * sums[:, OUTSIDE] / np.maximum(out, 1)
        inside = np.maximum(self._now.sum(axis=1) - out, 1)
        # A few values outside count as the range's ends.
        edges = reference.edges.astype(np.float64)
        ends = self._now[:, BELOW] * edges[:, 0] + self._now[:, ABOVE] * edges[:, -1]
        own = (reference.center * inside + step * sums[:, INSIDE] + ends) / (inside + out)
        everything = reference.center + step * (sums[:, INSIDE] + sums[:, OUTSIDE]) / (inside + out)
        self._counts_outside = self.outside > GLITCHES
        self._mean = np.where(self._counts_outside, everything, own)

    def shift(self) -> Floats:
        """By how much (F,) the mean moved, in the columns' units."""
        known = self._now.sum(axis=1) > 0
        return np.where(known, self._mean - self._group.mean, 0.0)

    def side(self, f: int) -> Direction:
        """Where values outside the range are."""
        return "up" if self._now[f, ABOVE] >= self._now[f, BELOW] else "down"

    def _values(self) -> Floats:
        """Ascending values (F, 64) of the cells: beyond the range only where more than glitches."""
        edges = self._reference.edges.astype(np.float64)
        values = self._group.values.copy()
        # A cell that the group's reference does not have is between its edges.
        inner = np.clip(values[:, 1:-1], edges[:, :-1], edges[:, 1:])
        low, high = edges[:, 0], edges[:, -1]
        below = np.where(self._counts_outside & (self._beyond < low), self._beyond, low)
        above = np.where(self._counts_outside & (self._beyond > high), self._beyond, high)
        return np.maximum.accumulate(
            np.concatenate([below[:, None], inner, above[:, None]], axis=1), axis=1
        )

    def _wasserstein(self) -> Floats:
        p, q = statistics.shares(self._now), statistics.shares(self._usual)
        known = self._now.sum(axis=1) > 0
        return np.where(known, statistics.wasserstein(p, q, self._values()), 0.0)

    def score(self) -> Floats:
        """Wasserstein distance (F,) in standard deviations of the reference."""
        distance = self._wasserstein()
        sd = self._group.sd
        return np.where(sd > 0.0, distance / np.where(sd > 0.0, sd, 1.0), 0.0)

    def tests(self, rows: Floats) -> list[list[Test]]:
        """The distances of each column, with their chances by effective rows (F,).

        What can be seen is at :data:`TOLD_ALPHA`, for they do not vote.
        """
        p, q = statistics.shares(self._now), statistics.shares(self._usual)
        few, few_usual = (
            statistics.shares(statistics.pooled(counts, POOLED_CELLS) + statistics.SMOOTHING)
            for counts in (self._now, self._usual)
        )
        ks = statistics.kolmogorov_smirnov(p, q)
        psi = statistics.population_stability(few, few_usual)
        js = statistics.jensen_shannon(few, few_usual)
        score = self.score()
        pooled = POOLED_CELLS - 1
        sd, squares = self._group.sd, 8.0 * math.log(2.0)
        of_cells = detectable.of_chi_squared(TOLD_ALPHA, pooled) / rows
        table = (
            # name, value, chance, effect, smallest that is found, whether in the column's unit
            (
                "ks",
                ks,
                statistics.kolmogorov_chance(ks, rows),
                ks,
                detectable.of_ks(TOLD_ALPHA, rows),
                False,
            ),
            (
                *("wasserstein", score, wasserstein_chance(score, rows)),
                *(self._wasserstein(), sd * wasserstein_detectable(TOLD_ALPHA, rows), True),
            ),
            ("psi", psi, special.chdtrc(pooled, rows * psi), psi, of_cells, False),
            (
                *("jensen-shannon", js),
                *(special.chdtrc(pooled, rows * js**2 * squares), js),
                *(np.sqrt(of_cells / squares), False),
            ),
        )
        return [
            [
                Test(
                    name=name,
                    value=float(value[f]),
                    p_value=float(chance[f]),
                    effect=float(effect[f]),
                    unit=unit if in_unit else "",
                    effective_rows=float(rows[f]),
                    smallest_detectable=float(least[f]),
                    voted=False,
                )
                for name, value, chance, effect, least, in_unit in table
            ]
            for f, unit in enumerate(self._reference.units)
        ]


def wasserstein_chance(score: Floats, rows: Floats) -> Floats:
    """Chance of a normalised distance, as a gamma distribution.

    Of n normal rows against a known normal distribution, ``sqrt(n) W`` has mean 1.27 and
    standard deviation 0.44 (4,000 simulated samples of 500 and of 2,000 rows). The gamma
    distribution of these moments has its 99 % quantile at 2.5, the samples had it at 2.6.
    """
    mean, sd = OF_WASSERSTEIN
    shape = (mean / sd) ** 2
    chance: Floats = special.gammaincc(shape, score * np.sqrt(rows) * shape / mean)
    return chance


def wasserstein_detectable(alpha: float, rows: Floats) -> Floats:
    """Normalised shift (F,) whose distance has that chance or less nine times in ten.

    The distance is at least the difference of the means, which strays by a standard error.
    """
    mean, sd = OF_WASSERSTEIN
    shape = (mean / sd) ** 2
    limit = special.gammainccinv(shape, alpha) * mean / shape
    least: Floats = (limit + detectable.FOUND_NINE_IN_TEN) / np.sqrt(rows)
    return least
