"""Shares and rates with their 95 % intervals.

Owns which interval is given: Wilson's for a share (Wilson 1927, J. Am. Stat. Assoc. 22, 209), the
exact one of the Poisson distribution for a rate (Garwood 1936, Biometrika 28, 437).
"""

from __future__ import annotations

from typing import TypedDict

from scipy import special

CONFIDENCE = 0.95


class Interval(TypedDict):
    """An estimate and between what the true value lies; all null where nothing was seen."""

    value: float | None
    low: float | None
    high: float | None


def share(count: int, total: int) -> Interval:
    """``count`` of ``total``; null of none."""
    if not total:
        return Interval(value=None, low=None, high=None)
    from scipy import stats  # takes as long to import as a small backtest

    found = stats.binomtest(count, total).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(value=count / total, low=float(found.low), high=float(found.high))


def rate(count: int, exposure: float) -> Interval:
    """``count`` events in so much time or so many machine-days; null without any."""
    if not exposure > 0.0:
        return Interval(value=None, low=None, high=None)
    tail = (1.0 - CONFIDENCE) / 2.0
    low = special.chdtri(2 * count, 1.0 - tail) / 2.0 if count else 0.0
    high = special.chdtri(2 * (count + 1), tail) / 2.0
    return Interval(value=count / exposure, low=float(low / exposure), high=float(high / exposure))
