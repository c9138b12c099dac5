"""Distances between two distributions, from histograms over the same cells.

Owns the formulas. Each takes counts of a window and of the reference, row by row of a table of
columns, and none looks at single rows. Chances follow from effective numbers of rows: how many
independent ones a window and the reference are worth.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

from worker.core.drift.cells import ABOVE, BELOW

Floats = NDArray[np.float64]

SMOOTHING = 0.5
"""Rows added to every cell, so that logarithms of empty ones exist (Jeffreys' prior)."""


def shares(counts: NDArray[np.int64] | Floats) -> Floats:
    """Shares (..., K) of counts (..., K); all 0 without any."""
    total = counts.sum(axis=-1, keepdims=True)
    found: Floats = counts / np.maximum(total, 1)
    return found


def kolmogorov_smirnov(p: Floats, q: Floats) -> Floats:
    """Largest distance (F,) of the distribution functions of shares (F, K) at the cells' ends.

    At most 1/62 below that of the rows themselves when cells are quantiles.
    """
    distance: Floats = np.abs(np.cumsum(p - q, axis=-1)).max(axis=-1)
    return distance


def kolmogorov_chance(distance: Floats, rows: Floats) -> Floats:
    """Chance (F,) of a distance as large with that many independent rows (Stephens, 1970)."""
    root = np.sqrt(rows)
    chance: Floats = special.kolmogorov((root + 0.12 + 0.11 / root) * distance)
    return chance


def population_stability(p: Floats, q: Floats) -> Floats:
    """PSI (F,): sum of ``(p - q) ln(p / q)``; shares must be positive."""
    index: Floats = ((p - q) * np.log(p / q)).sum(axis=-1)
    return index


def jensen_shannon(p: Floats, q: Floats) -> Floats:
    """Jensen-Shannon distance (F,), the root of the divergence to base 2; in [0, 1]."""
    middle = 0.5 * (p + q)
    divergence = 0.5 * (_entropy(p, middle) + _entropy(q, middle))
    distance: Floats = np.sqrt(np.maximum(divergence, 0.0))
    return distance


def _entropy(p: Floats, q: Floats) -> Floats:
    relative: Floats = special.rel_entr(p, q).sum(axis=-1) / np.log(2.0)
    return relative


def chi_squared(p: Floats, q: Floats, rows: Floats) -> tuple[Floats, Floats]:
    """Chi-squared (F,) of shares p against q with that many independent rows, and its chance.

    Cells that q does not have are not counted: how much is there is the range's test.
    """
    known = q > 0.0
    parts = np.where(known, (p - q) ** 2 / np.where(known, q, 1.0), 0.0)
    value = rows * parts.sum(axis=-1)
    chance: Floats = special.chdtrc(np.maximum(known.sum(axis=-1) - 1, 1), value)
    return value, chance


def pooled(counts: NDArray[np.int64], cells: int) -> Floats:
    """Counts (F, 64) in ``cells`` + 2 cells: neighbours together, both ends outside as they are.

    Distances that add up over cells need few of them, or chance adds up with it.
    """
    inside = counts[:, BELOW + 1 : ABOVE].astype(np.float64)
    edges = np.linspace(0, inside.shape[1], cells + 1).round().astype(np.int64)[:-1]
    return np.concatenate(
        [
            counts[:, :1].astype(np.float64),
            np.add.reduceat(inside, edges, axis=1),
            counts[:, ABOVE : ABOVE + 1].astype(np.float64),
        ],
        axis=1,
    )


def wasserstein(p: Floats, q: Floats, values: Floats) -> Floats:
    """Distance (F,) by which rows have to move: shares (F, K) at ascending values (F, K)."""
    steps = np.diff(values, axis=-1)
    distance: Floats = (np.abs(np.cumsum(p - q, axis=-1))[:, :-1] * steps).sum(axis=-1)
    return distance


def outside_chance(share: Floats, rows: Floats, reference_rows: Floats) -> Floats:
    """Chance (F,) of a share outside the reference's range, of that many independent rows.

    Each is expected there as often as one new row beyond the extremes of all that were seen:
    a beta-binomial chance with a uniform prior.
    """
    successes = np.floor(share * rows)
    # P(k or more of n new rows beyond either extreme of N): the order statistics' distribution.
    chance = np.ones(len(share))
    some = successes > 0
    n, big, k = rows[some], reference_rows[some], successes[some]
    chance[some] = np.minimum(2.0 * _beta_binomial(k, n, big), 1.0)
    return chance


def _beta_binomial(k: Floats, n: Floats, big: Floats) -> Floats:
    """P(at least k of n new rows are above the largest of ``big``): C(n, k) / C(n + big, k)."""
    log = special.gammaln(n + 1) - special.gammaln(n - k + 1)
    log -= special.gammaln(n + big + 1) - special.gammaln(n + big - k + 1)
    chance: Floats = np.exp(np.minimum(log, 0.0))
    return chance
