"""Second kernel of detection: from streams to a decision, event by event.

*Families* are statistics over all signals. Each has a calibration, which turns it into
L = -log10 p, where p is how often it was at least as large out of fold in training:
linear between quantiles, exponential above. Two scores come of them. A, *state*: how far
is the machine from its baseline; the calibrated combination (sum of L^1.5)^(2/3). B,
*surprise*: has the machine been like this before; the largest -log10 p over families by
histograms that start from training and go on learning. An anomaly opens where both are
high, and lasts as long as A is.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from worker.core.detection.baselines import (
    BINS,
    CALIBRATION_COLUMNS,
    FAMILIES,
    FOREST,
    KNOWN,
    LONG,
    MARGINAL,
    NORMALISED,
    PEAK,
    PRECISION,
    RESIDUAL,
    ROWS,
    SD,
    SHAPE,
    SHAPE_WEIGHT,
    SHORT,
    SLOW,
    SLOW_NORMALISED,
    SLOW_SHORT,
    STATE,
    WINDOW,
)
from worker.core.table import Field, Fields

FIELDS: Fields = {
    "known": Field("<f4", (len(KNOWN), BINS)),
    "calm": Field("<i4"),
}
"""How often each family was how extreme; 0 where no anomaly is open, else one plus the
rows since A was last above the level that keeps it open."""

BINS_PER_DOUBLING = 4
WEIGHT_ROWS = 8
"""The surprise score forgets beyond this many times the rows of training."""
KEEPS = 0.75
"""An anomaly stays open while A is above this share of what opens one."""
BYPASS = 3.0
"""At this multiple A opens an anomaly whatever the surprise."""
SURPRISE = 3.0
RESOLUTION = 0.4
"""An anomaly opens where at most one in 10^3 of the readings that are remembered was as extreme;
of fewer, one of the most extreme by this margin."""
CALM_SHARE = 1.0 / 12.0
"""Share of the window for which A must be low before the anomaly closes."""
ORDINARY = 1.0
"""Evidence of slow means and of the forest below this L, which one reading in ten has, says
nothing: it lasts or saturates, and would blur the order of readings that deviate for a moment."""
COLD_FACTOR = 2.0
"""By how much more A must exceed its threshold at the beginning of the warm-up, beyond once."""
_L_KNOTS = np.array([0.30103, 0.69897, 1.0, 1.30103, 1.69897])
_LN10 = 2.302585092994046
_KNOWN = np.array(KNOWN)


@njit("f8(f8, f4[:, ::1], i8)", cache=True, nogil=True)
def tail(x, calibrations, row):  # type: ignore[no-untyped-def]
    """-log10 of the probability of at least ``x`` by a row of calibrations.

    Args:
        calibrations: (..., CALIBRATION_COLUMNS).
    """
    last = CALIBRATION_COLUMNS - 2
    if x <= 0.0:
        return 0.0
    if x > calibrations[row, last]:
        return _L_KNOTS[last] + (x - calibrations[row, last]) / (
            calibrations[row, last + 1] * _LN10
        )
    low_x, low = np.float64(0.0), np.float64(0.0)
    for q in range(last + 1):
        high_x = np.float64(calibrations[row, q])
        if x <= high_x:
            if high_x == np.inf:
                return 0.0
            return low + (_L_KNOTS[q] - low) * (x - low_x) / (high_x - low_x)
        low_x, low = high_x, np.float64(_L_KNOTS[q])
    return low


@njit(
    "void(f4[:, ::1], f8, f4[:, ::1], f4[:, ::1], f8, f8[::1], f8[:, ::1])", cache=True, nogil=True
)
def summarise(  # type: ignore[no-untyped-def]
    streams, forest, signals, tails, moving, families, shares
):
    """Write the families (FAMILIES,) of one event's streams (STREAMS, D).

    Args:
        forest: the model's score, -1 abnormal to 0.
        signals, tails: (SIGNAL_COLUMNS, D), (D, CALIBRATION_COLUMNS) the machine's baseline.
        moving: number of signals that moved in training.
        shares: (2, D) what each signal adds to the first two families; out.
    """
    families[:] = 0.0
    for j in range(streams.shape[1]):
        value = np.float64(streams[NORMALISED, j])
        own = tail(abs(value), tails, j)
        shares[PEAK, j] = own
        families[PEAK] += own * own * own
        residual = np.float64(streams[RESIDUAL, j])
        shares[SHAPE, j] = signals[SHAPE_WEIGHT, j] * value * residual
        families[SHAPE] += shares[SHAPE, j]
        families[SHORT] = max(families[SHORT], abs(np.float64(streams[SLOW_SHORT, j])))
        families[LONG] = max(families[LONG], abs(np.float64(streams[SLOW, j])))
        families[MARGINAL] = max(families[MARGINAL], abs(np.float64(streams[SLOW_NORMALISED, j])))
    families[PEAK] = np.cbrt(families[PEAK])
    families[SHAPE] = max(families[SHAPE] / moving, 0.0)
    families[FOREST] = -forest


@njit("f8(f8[::1], f4[:, ::1], f8[::1])", cache=True, nogil=True)
def combine(families, calibration, tails):  # type: ignore[no-untyped-def]
    """Write L of each family, and return their combination, not calibrated yet."""
    total = 0.0
    for f in range(FAMILIES):
        tails[f] = tail(families[f], calibration, f)
        counted = tails[f]
        if f >= SHORT:
            counted = np.maximum(counted - ORDINARY, 0.0)
        total += counted * np.sqrt(counted)
    return np.cbrt(total) ** 2


# Loops for training. They are compiled here, because a compiled function is not compiled anew
# when one that it calls, in another file, has changed.


@njit("f8[:, ::1](f4[:, :, ::1], f4[::1], f4[:, ::1], f4[:, ::1], f8)", cache=True, nogil=True)
def summarise_all(streams, forest, signals, tails, moving):  # type: ignore[no-untyped-def]
    """Families (n, FAMILIES) of the events of one machine; see :func:`summarise`."""
    families = np.zeros((streams.shape[0], FAMILIES))
    shares = np.zeros((2, streams.shape[2]))
    for i in range(streams.shape[0]):
        summarise(streams[i], forest[i], signals, tails, moving, families[i], shares)
    return families


@njit("f8[::1](f8[:, ::1], f4[:, ::1], f8[:, ::1])", cache=True, nogil=True)
def combine_all(families, calibration, tails):  # type: ignore[no-untyped-def]
    """Combinations (n,) of the families of n events; see :func:`combine`."""
    combined = np.zeros(families.shape[0])
    for i in range(families.shape[0]):
        combined[i] = combine(families[i], calibration, tails[i])
    return combined


@njit(
    "void(f4[:, ::1], f4[:, ::1], f4[:, ::1], f8[::1], f8[:, ::1], f4[::1])",
    cache=True,
    nogil=True,
)
def _contribute(  # type: ignore[no-untyped-def]
    streams, signals, calibration, tails, shares, contributions
):
    """Write what each signal adds to the evidence: the root of the sum of squared L.

    The evidence of residuals is divided like the square of Mahalanobis' distance, which is the
    sum over signals of the value times the residual: a signal that is where it always is,
    and only seems wrong because another one moved, adds nothing.
    """
    count = streams.shape[1]
    fast = 0.0
    slow = 0.0
    for j in range(count):
        fast += max(shares[SHAPE, j], 0.0)
        contributions[j] = max(
            np.float64(streams[SLOW_NORMALISED, j])
            * np.float64(signals[SD + SLOW_NORMALISED, j])
            * np.float64(streams[SLOW_SHORT, j])
            * np.float64(signals[SD + SLOW_SHORT, j])
            * np.float64(signals[PRECISION, j]),
            0.0,
        )
        slow += contributions[j]
    for j in range(count):
        total = shares[PEAK, j] ** 2
        total += tail(abs(np.float64(streams[SLOW_NORMALISED, j])), calibration, MARGINAL) ** 2
        if fast > 0.0:
            total += max(shares[SHAPE, j], 0.0) / fast * tails[SHAPE] ** 2
        if slow > 0.0:
            total += contributions[j] / slow * (tails[SHORT] ** 2 + tails[LONG] ** 2)
        contributions[j] = np.sqrt(total)


@njit("i8(f8)", cache=True, nogil=True)
def bin_of(length):  # type: ignore[no-untyped-def]
    """The bin of the surprise score that holds L = ``length``."""
    return min(int(BINS_PER_DOUBLING * np.log2(1.0 + length)), BINS - 1)


@njit("f8(f8[::1], f4[:, ::1])", cache=True, nogil=True)
def _surprise(tails, known):  # type: ignore[no-untyped-def]
    largest = 0.0
    for f in range(known.shape[0]):
        own = bin_of(tails[_KNOWN[f]])
        above = 0.0
        total = 0.0
        for b in range(BINS):
            total += known[f, b]
            if b > own:
                above += known[f, b]
        p = (above + 0.5 * known[f, own] + 0.5) / (total + 1.0)
        largest = max(largest, -np.log10(p))
    return largest


@njit("void(f8[::1], f4[:, ::1], f8)", cache=True, nogil=True)
def _remember(tails, known, limit):  # type: ignore[no-untyped-def]
    """Count one event more; beyond ``limit`` all that was counted weighs less."""
    total = 0.0
    for b in range(BINS):
        total += known[0, b]
    if total >= limit:
        known *= (limit - 1.0) / total
    for f in range(known.shape[0]):
        known[f, bin_of(tails[_KNOWN[f]])] += 1.0


@njit("f8(f8)", cache=True, nogil=True)
def score_of(state):  # type: ignore[no-untyped-def]
    """From A >= 0 to a score in [-1, 1], lower is worse; strictly monotone."""
    return (4.0 - state) / (4.0 + state)


_DECIDE = (
    "void(i8[::1], f4[:, :, ::1], f4[::1], b1[::1], f4[::1],"
    "f4[:, :, ::1], f4[:, :, ::1], f8[::1], f8[:, ::1], f4[:, :, ::1], f8[::1],"
    "i4[::1], f4[:, :, ::1], i4[::1],"
    "f8[::1], f8[::1], f8[::1], f4[:, ::1])"
)


@njit(_DECIDE, cache=True, nogil=True)
def decide(  # type: ignore[no-untyped-def]
    machines,
    streams,
    forest,
    maintained,
    experience,
    signals,
    tails,
    moving,
    settings,
    calibration,
    opens_at,
    baseline,
    known,
    calm,
    scores,
    thresholds,
    confidence,
    contributions,
):
    """Decide about events in arrival order.

    Args:
        machines: (n,) table row of each event.
        streams: (n, STREAMS, D) see ``streams.follow``.
        forest: (n,) the model's score, NaN without one.
        maintained: (n,) no anomaly, and nothing is learned.
        experience: (n,) share of the warm-up that is done.
        signals, tails, settings, calibration: see ``Baselines``; settings is its ``machines``.
        moving: (K+1,) number of signals that moved in training, at least 1.
        opens_at: (K+1,) the A at which an anomaly opens.
        baseline: (M,) row of the baselines of each row of the table.
        known, calm: see ``FIELDS``; in and out.
        scores, thresholds: (n,) an anomaly where the score is below; out. Of a reading that would
            be none even as a surprise, the threshold is a surprise's.
        confidence: (n,) out.
        contributions: (n, D) all 0 where the state is ordinary; out.
    """
    found = np.zeros(FAMILIES)
    evidence = np.zeros(FAMILIES)
    shares = np.zeros((2, streams.shape[2]))
    for i in range(machines.shape[0]):
        m = machines[i]
        k = baseline[m]
        summarise(streams[i], forest[i], signals[k], tails[k], moving[k], found, shares)
        state = tail(combine(found, calibration[k], evidence), calibration[k], STATE)
        trust = np.float64(experience[i])
        scores[i] = score_of(state)
        confidence[i] = (1.0 - np.exp(-_LN10 * state)) * trust
        if state > ORDINARY:
            _contribute(streams[i], signals[k], calibration[k], evidence, shares, contributions[i])
        else:
            contributions[i] = 0.0
        if maintained[i]:
            thresholds[i] = -1.0
            calm[m] = 0
            continue
        needed = opens_at[k] * (1.0 + COLD_FACTOR * (1.0 - trust))
        if calm[m] > 0:
            thresholds[i] = score_of(KEEPS * needed)
        else:
            # Whether it surprises matters only for what would be an anomaly then.
            surprised = True
            if state > needed:
                gate = min(SURPRISE, np.log10(known[m, 0].sum()) - RESOLUTION)
                surprised = _surprise(evidence, known[m]) >= gate
            thresholds[i] = score_of(needed if surprised else BYPASS * needed)
        if scores[i] < thresholds[i]:
            calm[m] = 1
        elif calm[m] > 0:
            calm[m] += 1
            if calm[m] > 1.0 + CALM_SHARE * settings[k, WINDOW]:
                calm[m] = 0
        _remember(evidence, known[m], WEIGHT_ROWS * settings[k, ROWS])
