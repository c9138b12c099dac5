"""Tests of a column over the windows before: small changes that last, and gradual ones.

Owns the series that they run on, and what ADWIN, Page-Hinkley and KSWIN make of it. Each window
gives one number a column: how far its location is from usual, in its own standard errors. Numbers
that follow one another are made independent by the correlation that the reference implies, never by
one learned from what is watched, which drift has spoiled. All of it is computed anew from the kept
windows at each close, so nothing else has to survive a restart. The statistics are those of the
papers, for known variance, so that their chances are known:

- ADWIN (Bifet and Gavalda, SDM 2007): the largest difference between the means before and after
  any cut, in standard errors. Its chance is that of the maximum of a Gaussian process (James, James
  and Siegmund, Biometrika 1987) instead of the paper's bound, which is met far too rarely.
- Page-Hinkley (Page, Biometrika 1954; Hinkley, Biometrika 1971): the rise, or fall, of the summed
  distances from the running mean less :data:`DELTA`. Its chance was simulated.
- KSWIN (Raab, Heusinger and Schleif, Neurocomputing 2020): Kolmogorov-Smirnov's distance of the
  last windows from all before, not from a random sample of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from worker.core.drift import detectable
from worker.core.drift.calibration import LongRun
from worker.core.drift.comparison import Comparison

Floats = NDArray[np.float64]

NAMES = ("adwin", "page-hinkley", "kswin")
FEWEST = 12
"""Windows that there have to be."""
LAST = 3
"""Windows by which a change is seen to be over."""
SIDE = 4
"""Windows that there have to be on each side of a cut."""
DELTA = 0.25
"""Standard errors a window by which the sums of Page-Hinkley fall without drift."""
RECENT = 12
"""Windows that KSWIN holds against those before, at most a third of all."""
PAGE_HINKLEY_LENGTHS = (12, 16, 24, 32, 48, 64)
PAGE_HINKLEY_AT = (5.65, 6.44, 7.52, 8.19, 9.00, 9.44)
"""Its value at a chance of one in a hundred, by the number of windows (400,000 series each)."""
PAGE_HINKLEY_TENFOLD = (1.86, 2.26, 2.72, 3.24, 3.61, 4.12)
"""By how much it grows to a chance of one in a thousand; beyond, the tail falls faster."""
STEADIEST = 0.95
REACH = (4, 16)
"""Lengths, in windows, whose means must not stray more than the next window tells."""


@dataclass(frozen=True)
class Past:
    """The windows before the one that is judged.

    Attributes:
        series: (k, F) distance of each location from usual, in the window's own standard errors.
        follows: (k + 1,) whether each, and the one that is judged, follows directly on another.
    """

    series: Floats
    follows: NDArray[np.bool_]


@dataclass(frozen=True)
class Stream:
    """What a test says of F columns over the last windows.

    Attributes:
        value: (F,) the statistic.
        p_value: (F,) of it; 1 where the change is back towards what is usual.
        moved: (F,) by how much the mean of the last windows is above that before.
        windows: (F,) how many are after the change.
        least: (F,) smallest lasting change half way that is found nine times in ten. Both are in
            standard deviations of the numbers, and in the columns' units from :func:`of_past`.
    """

    value: Floats
    p_value: Floats
    moved: Floats
    windows: Floats
    least: Floats


def correlation(run: LongRun, slots: float, at: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Correlation (F,) of means of neighbouring windows, and how much longer means stray beyond it.

    The variance of a mean of two windows is ``(1 + rho) / 2`` of that of one. Where the reference
    has slow parts, such as daily cycles, longer means stray more than that tells: by the second.

    Args:
        slots: length of the windows.
        at: (F,) which contrasts.
    """

    def variance(windows: float) -> Floats:
        return run.of_mean(np.full(len(run.variance), windows * slots))[0][at]

    one = np.maximum(variance(1.0), 1e-300)
    rho = np.clip(2.0 * variance(2.0) / one - 1.0, 0.0, STEADIEST)
    beyond = np.ones(len(at))
    for windows in REACH:
        independent = one * (1.0 + rho) / (1.0 - rho) / windows
        beyond = np.maximum(beyond, variance(float(windows)) / independent)
    return rho, beyond


def whiten(series: Floats, follows: NDArray[np.bool_], rho: Floats, beyond: Floats) -> Floats:
    """Independent numbers (m, F) of variance one, from distances (m, F) in standard errors.

    Args:
        follows: (m,) whether a window follows directly on the one before in the series.
        rho, beyond: (F,) see :func:`correlation`.
    """
    white = series.copy()
    fresh = (series[1:] - rho * series[:-1]) / np.sqrt(1.0 - rho**2)
    white[1:] = np.where(follows[1:, None], fresh, series[1:])
    scaled: Floats = white / np.sqrt(beyond)
    return scaled


def of_past(held: Comparison, past: Past, levels: dict[str, float]) -> dict[str, Stream]:
    """All tests over the windows before and this one; none while there are too few.

    No more windows are taken than the reference is long, or it could not tell of slow parts.

    Args:
        levels: by a test's name, the chance at which it votes.
    """
    fits = int(held.group.slots / held.slots)
    series = np.concatenate([past.series, held.alone[None]])[-fits:]
    if len(series) < FEWEST:
        return {}
    at = held.locations
    rho, beyond = correlation(held.group.long_run, held.slots, at)
    white = whiten(series, past.follows[-len(series) :], rho, beyond)
    error = np.sqrt(np.maximum(held.departure.own[at], 0.0))
    # A lasting change of one of the window's standard errors moves the white numbers by less.
    unit = np.sqrt(beyond * (1.0 + rho) / (1.0 - rho)) * error * held.group.sd
    found = run_all(white, held.departure.freedom[at], levels)
    return {
        name: replace(
            one,
            p_value=np.where(held.moving, one.p_value, 1.0),
            moved=one.moved * unit,
            least=one.least * unit,
        )
        for name, one in found.items()
    }


def run_all(white: Floats, freedom: Floats, levels: dict[str, float]) -> dict[str, Stream]:
    """All tests of independent numbers (m, F), the newest last.

    Args:
        freedom: (F,) degrees of freedom of the variance that they were made with.
        levels: by a test's name, the chance at which it votes.
    """
    return {
        "adwin": _adwin(white, freedom, levels["adwin"]),
        "page-hinkley": _page_hinkley(white, freedom, levels["page-hinkley"]),
        "kswin": _kswin(white, levels["kswin"]),
    }


def _departing(white: Floats, first: NDArray[np.int64]) -> tuple[Floats, NDArray[np.bool_]]:
    """Difference (F,) of means from ``first`` (F,) on, and whether it leads away from usual.

    A change that is over is none: the last windows have to be at least a third of the way there.
    """
    m = len(white)
    after = np.arange(m)[:, None] >= first
    late = (white * after).sum(axis=0) / np.maximum(m - first, 1)
    early = (white * ~after).sum(axis=0) / np.maximum(first, 1)
    moved = late - early
    lasting = (white[-LAST:].mean(axis=0) - early) * np.sign(moved) > np.abs(moved) / 3.0
    return moved, (np.abs(late) > np.abs(early)) & lasting


def _lightened(z: Floats, freedom: Floats) -> Floats:
    """Normal scores (F,) with the chances of Student's t."""
    scores: Floats = -special.ndtri(np.maximum(special.stdtr(freedom, -np.abs(z)), 1e-300))
    return scores


def _adwin(white: Floats, freedom: Floats, level: float) -> Stream:
    m = len(white)
    cuts = np.arange(SIDE, m - SIDE + 1)
    sums = np.cumsum(white, axis=0)
    early = sums[cuts - 1] / cuts[:, None]
    late = (sums[-1] - sums[cuts - 1]) / (m - cuts)[:, None]
    z = np.abs(late - early) / np.sqrt(1.0 / cuts + 1.0 / (m - cuts))[:, None]
    best = z.argmax(axis=0)
    value, first = z.max(axis=0), cuts[best]
    moved, departs = _departing(white, first)
    p_value = adwin_chance(_lightened(value, freedom), m)
    # A change in the middle of what is kept; the limit by bisection of a chance that falls.
    grid = np.linspace(2.0, 12.0, 201)
    limit = float(np.interp(-math.log(level), -np.log(adwin_chance(grid, m)), grid))
    least = (limit + detectable.FOUND_NINE_IN_TEN) * 2.0 / math.sqrt(m)
    return Stream(
        value=value,
        p_value=np.where(departs, p_value, 1.0),
        moved=moved,
        windows=(m - first).astype(np.float64),
        least=np.full(len(value), least),
    )


def adwin_chance(value: Floats, windows: int) -> Floats:
    """Chance (F,) of the largest difference of m independent normal numbers around any cut.

    ``b phi(b)`` times the integral over t of ``nu(b / sqrt(m t (1 - t))) / (t (1 - t))``, where nu
    allows for cuts being whole numbers (Siegmund, "Sequential analysis", 1985).
    """
    t = np.arange(SIDE, windows - SIDE + 1) / windows
    b = np.maximum(value, 1.0)[:, None]
    steps = np.sqrt(1.0 / (windows * t * (1.0 - t)))
    jump = b * steps
    half = jump / 2.0
    density = np.exp(-0.5 * half**2) / math.sqrt(2.0 * math.pi)
    overshoot = (2.0 / jump) * (special.ndtr(half) - 0.5)
    overshoot /= half * special.ndtr(half) + density
    integral = (overshoot / (t * (1.0 - t))).sum(axis=1) / windows
    normal = np.exp(-0.5 * b[:, 0] ** 2) / math.sqrt(2.0 * math.pi)
    ends = 2.0 * special.ndtr(-b[:, 0])
    chance: Floats = np.minimum(b[:, 0] * normal * integral + ends, 1.0)
    return np.maximum(chance, 1e-300)


def page_hinkley(white: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """The larger of rise and fall (F,) of the sums, and where (F,) it began."""
    m = len(white)
    running = np.cumsum(white, axis=0) / np.arange(1, m + 1)[:, None]
    best, first = np.zeros(white.shape[1]), np.zeros(white.shape[1], np.int64)
    for sign in (1.0, -1.0):
        sums = np.cumsum(sign * (white - running) - DELTA, axis=0)
        lowest = np.minimum.accumulate(sums, axis=0)[-1]
        rise = sums[-1] - lowest
        began = np.minimum(sums.argmin(axis=0) + 1, m - 1)
        first = np.where(rise > best, began, first)
        best = np.maximum(best, rise)
    return best, first


def _page_hinkley(white: Floats, freedom: Floats, level: float) -> Stream:
    m = len(white)
    value, first = page_hinkley(white)
    moved, departs = _departing(white, first)
    p_value = page_hinkley_chance(value, m)
    lighter = np.maximum(2.0 * special.stdtr(freedom, special.ndtri(p_value / 2.0)), 1e-300)
    limit = _page_hinkley_limit(level, m)
    after = m / 2.0
    # After a change of d half way, d - DELTA a window, less what the running mean follows: half.
    rise = limit + detectable.FOUND_NINE_IN_TEN * math.sqrt(after)
    least = (rise / after + DELTA) / math.log(2.0)
    return Stream(
        value=value,
        p_value=np.where(departs, lighter, 1.0),
        moved=moved,
        windows=(m - first).astype(np.float64),
        least=np.full(len(value), least),
    )


def page_hinkley_chance(value: Floats, windows: int) -> Floats:
    """Chance (F,) of a rise or fall as large; a tail that falls exponentially, as simulated."""
    at = float(np.interp(windows, PAGE_HINKLEY_LENGTHS, PAGE_HINKLEY_AT))
    tenfold = float(np.interp(windows, PAGE_HINKLEY_LENGTHS, PAGE_HINKLEY_TENFOLD))
    chance: Floats = np.minimum(0.01 * 10.0 ** ((at - value) / tenfold), 1.0)
    return np.maximum(chance, 1e-300)


def _page_hinkley_limit(level: float, windows: int) -> float:
    at = float(np.interp(windows, PAGE_HINKLEY_LENGTHS, PAGE_HINKLEY_AT))
    tenfold = float(np.interp(windows, PAGE_HINKLEY_LENGTHS, PAGE_HINKLEY_TENFOLD))
    return at - tenfold * math.log10(level / 0.01)


def _kswin(white: Floats, level: float) -> Stream:
    m = len(white)
    recent = min(RECENT, m // 3)
    before, after = white[: m - recent], white[m - recent :]
    below = (after[:, None, :] <= white[None, :, :]).mean(axis=0)
    usual = (before[:, None, :] <= white[None, :, :]).mean(axis=0)
    value = np.abs(below - usual).max(axis=0)
    rows = recent * (m - recent) / m
    root = math.sqrt(rows)
    scale = root + 0.12 + 0.11 / root
    first = np.full(white.shape[1], m - recent)
    moved, departs = _departing(white, first)
    limit = float(detectable.of_ks(level, np.array([rows]))[0])
    # Of normal distributions a distance D is a shift of 2 Phi^-1((1 + D) / 2).
    least = 2.0 * float(special.ndtri((1.0 + min(limit, 0.999)) / 2.0))
    return Stream(
        value=value,
        p_value=np.where(departs, np.maximum(special.kolmogorov(scale * value), 1e-300), 1.0),
        moved=moved,
        windows=np.full(white.shape[1], float(recent)),
        least=np.full(white.shape[1], least),
    )
