"""How far the mean of a window may be from the reference's without any drift.

Owns the long-run variance of series and what follows from it. Neighbouring rows are alike, so
a window of 600 rows may be worth only 30 independent ones; tests that count rows raise false
alarms (AR(1) with phi 0.9: Kolmogorov-Smirnov in 73 of 100 windows without drift). Here:

- A series' variance and its correlation with itself one slot later give the variance of a mean
  of any number of slots (AR(1)). The correlation is corrected for its bias (Marriott and Pope,
  Biometrika 1954) and taken half a standard error higher: an error upwards in it costs less than
  one downwards, the more so near one.
- The means of contiguous blocks of the reference, of growing length, are held against that:
  where they vary more than the model says, beyond chance, it is widened to what they show. This
  finds slow parts, such as daily cycles, that the next slot does not tell of.
- A difference is judged by Student's t, with as many degrees of freedom as the variance rests on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

SCALES = (4, 16, 64, 256, 1024, 4096, 16384)
"""Lengths, in slots, of the blocks whose means are held against the model."""
FEWEST_BLOCKS = 16
BEYOND_CHANCE = 3.0
"""Standard errors by which blocks have to vary more than the model says."""
LARGEST_PHI = 0.9999
RAISED_ERRORS = 0.5
"""Standard errors by which phi is raised. Without any, AR(1) with phi 0.99 and 32 columns alarms in
2.2 of 100 windows of 600 rows without drift, with half of one in 1.0 (600 windows each)."""
SHORTEST_REFERENCE = 5.0
"""Windows that fit fewer times than that into the reference are not judged."""


@dataclass(frozen=True)
class LongRun:
    """What is known of N series of T slots.

    Attributes:
        slots: T.
        variance, phi: (N,) of a slot, and with the next slot, both corrected upwards.
        ratio: (N, S) by how much means of blocks of :data:`SCALES` vary more than the model says.
        freedom: (N, S + 1) degrees of freedom: of the variance, then of each ratio.
    """

    slots: int
    variance: Floats
    phi: Floats
    ratio: Floats
    freedom: Floats

    @classmethod
    def learn(cls, series: Floats) -> LongRun:
        """Learn from series (T, N) without gaps."""
        slots, count = series.shape
        variance, phi = np.empty(count), np.empty(count)
        blocks = np.full((count, len(SCALES)), np.nan)
        kernel_scales = np.array(SCALES, np.int64)
        _moments(np.ascontiguousarray(series.T), kernel_scales, variance, phi, blocks)
        phi = np.clip(phi, 0.0, 1.0)
        error = np.sqrt(np.maximum(1.0 - phi**2, 0.0) / slots)
        raised = phi + (1.0 + 3.0 * phi) / slots + RAISED_ERRORS * error
        phi = np.clip(raised, 0.0, LARGEST_PHI)
        # What the mean of the whole series takes away from its variance.
        variance = variance / np.maximum(1.0 - _spread(phi, slots), 0.1)
        ratio = np.ones((count, len(SCALES)))
        freedom = np.empty((count, len(SCALES) + 1))
        freedom[:, 0] = _freedom_of_mean(phi, slots)
        for s, scale in enumerate(SCALES):
            expected = variance * (_spread(phi, scale) - _spread(phi, slots))
            alike = phi**scale
            freedom[:, s + 1] = _freedom(alike, slots / scale)
            usable = (expected > 0.0) & ~np.isnan(blocks[:, s])
            found = blocks[usable, s] / expected[usable]
            limit = 1.0 + BEYOND_CHANCE * np.sqrt(2.0 / freedom[usable, s + 1])
            ratio[usable, s] = np.where(found > limit, found, 1.0)
        return cls(slots, variance, phi, ratio, freedom)

    def of_mean(self, slots: Floats) -> tuple[Floats, Floats]:
        """Variance (N,) of the mean of that many slots (N,), and its degrees of freedom."""
        variance = self.variance * _spread(self.phi, slots)
        widest, freedom = np.ones(len(variance)), self.freedom[:, 0].copy()
        for s, scale in enumerate(SCALES):
            wider = (scale <= 4.0 * slots) & (self.ratio[:, s] > widest)
            widest = np.where(wider, self.ratio[:, s], widest)
            freedom = np.where(wider, self.freedom[:, s + 1], freedom)
        return variance * widest, freedom

    def to_array(self) -> Floats:
        """All of it (N, 2 + 2 S + 1) as one array."""
        return np.concatenate(
            [self.variance[:, None], self.phi[:, None], self.ratio, self.freedom], axis=1
        )

    @classmethod
    def from_array(cls, slots: int, array: Floats) -> LongRun:
        """Inverse of :meth:`to_array`."""
        s = len(SCALES)
        return cls(slots, array[:, 0], array[:, 1], array[:, 2 : 2 + s], array[:, 2 + s :])


def _spread(phi: Floats, slots: Floats | float) -> Floats:
    """Variance of the mean of an AR(1) series over that of a slot."""
    n = np.maximum(slots, 1.0)
    apart = 1.0 - phi
    summed = (1.0 + phi) / apart - 2.0 * phi * (1.0 - phi**n) / (n * apart**2)
    spread: Floats = np.minimum(summed / n, 1.0)
    return spread


def _freedom(phi: Floats, slots: float) -> Floats:
    """Degrees of freedom of the variance of an AR(1) series (Bayley and Hammersley, 1946)."""
    return np.maximum(slots * (1.0 - phi**2) / (1.0 + phi**2) - 1.0, 1.0)


def _freedom_of_mean(phi: Floats, slots: float) -> Floats:
    """Degrees of freedom of a mean's variance, which also rests on an estimated phi.

    The logarithm of ``(1 + phi) / (1 - phi)`` has a variance of ``4 / (T (1 - phi^2))``.
    """
    of_both = 2.0 * (1.0 + phi**2) + 4.0
    return np.maximum(2.0 * slots * (1.0 - phi**2) / of_both - 1.0, 1.0)


def two_sided(t: Floats, freedom: Floats) -> Floats:
    """Chance (N,) of differences as large as t standard errors."""
    p: Floats = 2.0 * special.stdtr(freedom, -np.abs(t))
    return np.maximum(p, 1e-300)


def limit_of(chance: Floats | float, freedom: Floats) -> Floats:
    """Standard errors (N,) beyond which there is one with the given two-sided chance."""
    t: Floats = -special.stdtrit(freedom, np.maximum(chance, 1e-290) / 2.0)
    return t


def adjust(p_values: Floats, weights: Floats) -> Floats:
    """Adjusted p-values (N,): those up to q are a family whose false discovery rate is q.

    Benjamini and Hochberg (1995), weighted (Genovese, Roeder and Wasserman, Biometrika 2006).
    Without any drift, the chance of one below q is at most q, also for the positive dependence
    of features that move together (Benjamini and Yekutieli, 2001).

    Args:
        p_values: (N,) of the tests.
        weights: (N,) adding up to at most one; a test of weight 0 does not count.
    """
    adjusted = np.ones(len(p_values))
    counted = np.flatnonzero(weights > 0.0)
    weighed = p_values[counted] / (weights[counted] * len(counted))
    order = np.argsort(weighed, kind="stable")
    ranks = np.arange(1, len(counted) + 1)
    values = weighed[order] * len(counted) / ranks
    adjusted[counted[order]] = np.minimum(np.minimum.accumulate(values[::-1])[::-1], 1.0)
    return adjusted


@njit("void(f8[:, ::1], i8[::1], f8[::1], f8[::1], f8[:, ::1])", cache=True, nogil=True)
def _moments(series, scales, variance, phi, blocks):  # type: ignore[no-untyped-def]
    """Variance, correlation with the next slot, and variance of block means of series (N, T).

    Blocks overlap by half; where fewer than FEWEST_BLOCKS fit, ``blocks`` stays as it is.
    """
    slots = series.shape[1]
    for k in range(series.shape[0]):
        own = series[k]
        mean = 0.0
        for t in range(slots):
            mean += own[t]
        mean /= slots
        total, next_ = 0.0, 0.0
        previous = 0.0
        for t in range(slots):
            x = own[t] - mean
            total += x * x
            next_ += x * previous
            previous = x
        variance[k] = total / slots
        phi[k] = next_ / total if total > 1e-18 * slots else 0.0
        if total <= 1e-18 * slots:
            variance[k] = 0.0
        for s in range(scales.shape[0]):
            length = scales[s]
            if slots < FEWEST_BLOCKS * length:
                break
            half = length // 2
            squares, count = 0.0, 0
            first = 0.0
            for t in range(half):
                first += own[t] - mean
            at = half
            while at + half <= slots:
                second = 0.0
                for t in range(at, at + half):
                    second += own[t] - mean
                block = (first + second) / length
                squares += block * block
                count += 1
                first = second
                at += half
            blocks[k, s] = squares / count
