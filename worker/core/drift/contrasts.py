"""Contrasts: what a distribution's change looks like in numbers whose means can be judged.

Owns turning cells into scores. Each cell of a column gets four scores, polynomials that are
uncorrelated over the reference: their means over a window are zero without drift, and tell of
location, spread, skew and tails (Neyman, "Smooth test for goodness of fit", 1937). They start
from normal scores of the reference's ranks, so neither a column's unit nor one wild value matters.
A fifth is whether the value is missing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

from worker.core.drift.cells import CELLS, MISSING

Floats = NDArray[np.float64]

KINDS = ("location", "spread", "skew", "tails", "missing")
LOCATION, SPREAD, SKEW, TAILS, MISSINGNESS = range(len(KINDS))


def score_cells(counts: NDArray[np.int64]) -> Floats:
    """Scores (F, 65, 5) of the cells, by the reference's counts (F, 65)."""
    inside = counts[:, :CELLS].astype(np.float64)
    total = np.maximum(inside.sum(axis=1, keepdims=True), 1.0)
    share = inside / total
    middle = np.cumsum(share, axis=1) - share / 2.0
    edge = 0.25 / total
    normal = special.ndtri(np.clip(middle, edge, 1.0 - edge))
    scores = np.zeros((len(counts), CELLS + 1, len(KINDS)))
    for f in range(len(counts)):
        present = np.flatnonzero(inside[f])
        if len(present):
            # A value outside the range counts as its end: how many are there is a test of its own.
            u = np.clip(normal[f], normal[f, present[0]], normal[f, present[-1]])
            scores[f, :CELLS, :MISSINGNESS] = _orthogonal(u, share[f])
    scores[:, MISSING, MISSINGNESS] = 1.0
    return scores


def _orthogonal(u: Floats, share: Floats) -> Floats:
    """Polynomials (64, 4) of the scores u (64,), of variance one and uncorrelated."""
    basis = np.ones((len(u), 1))
    for power in range(1, MISSINGNESS + 1):
        column = u**power
        # Twice, for what rounding leaves of the first time.
        for _ in range(2):
            column = column - basis @ (basis.T @ (share * column))
        length = np.sqrt(share @ column**2)
        flat = length < 1e-6
        basis = np.column_stack([basis, np.zeros(len(u)) if flat else column / length])
    return basis[:, 1:]


def means(counts: NDArray[np.int64], scores: Floats) -> tuple[Floats, Floats]:
    """Mean (F, 5) of each contrast over a histogram (F, 65), and the rows (F, 5) it is over."""
    known = counts[:, :CELLS].sum(axis=1).astype(np.float64)
    rows = np.repeat(known[:, None], len(KINDS), axis=1)
    rows[:, MISSINGNESS] = counts.sum(axis=1)
    sums = np.einsum("fk,fkc->fc", counts.astype(np.float64), scores)
    found: Floats = sums / np.maximum(rows, 1.0)
    return found, rows


def kurtosis(counts: NDArray[np.int64], scores: Floats) -> Floats:
    """Excess kurtosis (F, 5) of each contrast over the reference's own histogram (F, 65)."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    present = share.copy()
    present[:, MISSING] = 0.0
    present /= np.maximum(present.sum(axis=1, keepdims=True), 1e-300)
    fourth: Floats = np.einsum("fk,fkc->fc", present, scores**4) - 3.0
    fourth[:, MISSINGNESS] = of_indicator(share[:, MISSING])
    return fourth


def of_indicator(share: Floats) -> Floats:
    """Excess kurtosis of something that is there or not; that never varies: as if rare."""
    varies = np.maximum(share * (1.0 - share), 1e-6)
    heavy: Floats = 1.0 / varies - 6.0
    return heavy
