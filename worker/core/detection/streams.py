"""First kernel of detection: from signals to streams, event by event.

A *stream* follows one aspect of a signal, in standard deviations of what that aspect did
in training: the normalised value z = (x - location) / scale, less what is usual at this time
of day; the *residual*, what remains of z when it is predicted from the other signals (ridge
regression, as rows of the precision matrix), less its level, which is followed so slowly that
it only absorbs what goes on for as long as the training was; exponential means of the residual
over w/4 rows and over w to 4 w, the slower one only as far as the other agrees; and the
exponential mean of z over w/4 rows.

A machine that training did not know learns its location and scale from its first events
(Welford's mean and variance of values clipped at 4 standard deviations), shrunk towards
the fleet's: the more, the less machines differ, and the longer a signal remembers itself, for
then many rows say little. Everything walks events in arrival order and touches only the
machine's own row.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from worker.core.detection.baselines import (
    MEAN,
    MEMORY,
    NORMALISED,
    PRECISION,
    PRIOR_ROWS,
    RESIDUAL,
    ROWS,
    SCALE_ROWS,
    SD,
    SEASON_BINS,
    SLOW,
    SLOW_NORMALISED,
    SLOW_SHORT,
    STREAMS,
    UNWATCHED,
    WINDOW,
)
from worker.core.table import Field, Fields

KNOWN_PLACE = -1
"""In place of the count of learned rows: location and scale are those of training."""
FIELDS: Fields = {
    "learned": Field("<i4", ("signal",)),
    "place": Field("<f8", (2, "signal")),
    "streams": Field("<f4", (STREAMS, "signal")),
}
"""Rows from which the location was learned; their mean and variance; the residual's level,
then the slow means, as in the streams (the first is not used)."""

FARTHEST = 30.0
"""Normalised values are clipped here."""
FARTHEST_EXPECTATION = 8.0
"""Normalised values are clipped here before others are predicted from them."""
MOST_MISSING = 32
"""With more signals missing they are not filled in; it takes the cube of their number."""
SINGULAR = 1e-6
"""Missing signals that leave each other so open are not filled in."""
MOVED = 10.0
"""Normalised value of a signal that never moved in training and now did."""
LONG_SHARE = 8.0
LONG_WINDOWS = 4.0
"""The slowest mean is over an eighth of the rows of training, at least w and at most 4 w."""
STEP = 3.0
"""Levels follow deviations up to this many standard deviations, and less those beyond: a fault
that moved them would leave its trace in all that comes after."""
FARTHEST_MEAN = 8.0
"""The slowest mean is bounded by this many standard deviations, for the same reason."""
AGREEING_SHARE = 0.5
"""A recent mean that is a smaller share of a slow one disagrees with it."""
UNCLIPPED_ROWS = 8
CLIP = 4.0
LEVEL_WINDOWS = 16
"""Windows over which levels are followed where training was shorter."""
LEARNING_WINDOWS = 16
WARM_UP_WINDOWS = 4
"""Windows (or spans that a signal remembers, where these are longer) until a machine that was
never seen stops learning, and windows until it counts as known."""
DAY_US = 86_400_000_000


@njit("f8(f8, f8)", cache=True, nogil=True, inline="always")
def _clip(x, limit):  # type: ignore[no-untyped-def]
    return min(max(x, -limit), limit)


@njit("f8(f8)", cache=True, nogil=True, inline="always")
def _lesson(x):  # type: ignore[no-untyped-def]
    """What a deviation teaches a level: the more the farther, but beyond ``STEP`` ever less."""
    return x if abs(x) <= STEP else STEP * STEP * STEP / (x * abs(x))


@njit("f8(f8, f8)", cache=True, nogil=True, inline="always")
def _agreed(slow, recent):  # type: ignore[no-untyped-def]
    """The nearer to 0 of two means, 0 where they disagree: what is over is no evidence."""
    if slow * recent <= 0.0 or abs(recent) < AGREEING_SHARE * abs(slow):
        return 0.0
    return slow if abs(slow) < abs(recent) else recent


@njit("f8(f8, f8, f8)", cache=True, nogil=True)
def _normalise(x, location, scale):  # type: ignore[no-untyped-def]
    distance = x - location
    if scale > 0.0:
        return _clip(distance / scale, FARTHEST)
    if abs(distance) <= 1e-9 * abs(location):
        return 0.0
    return math.copysign(MOVED, distance)


@njit("void(f8, f8, f8, i4[::1], f8[:, ::1], i8)", cache=True, nogil=True)
def _learn_place(x, scale, last_row, learned, place, j):  # type: ignore[no-untyped-def]
    """Add a reading to the mean and variance of signal ``j``; see the module."""
    n = learned[j]
    if n >= last_row:
        return
    delta = x - place[0, j]
    if n >= UNCLIPPED_ROWS:
        delta = _clip(delta, CLIP * scale)
    place[0, j] += delta / (n + 1)
    place[1, j] += (delta * delta * n / (n + 1) - place[1, j]) / (n + 1)
    learned[j] = n + 1


@njit(
    "f8(f8[::1], b1, f8[::1], f8[::1], f4[:, ::1], f8[::1], i4[::1], f8[:, ::1], f8[:, ::1],"
    "f8[::1])",
    cache=True,
    nogil=True,
)
def _place_event(  # type: ignore[no-untyped-def]
    values, frozen, location, scale, signals, settings, learned, place, used, z
):
    """Normalise one event by where its machine is, and learn from it unless it is frozen.

    Returns:
        The share of the warm-up that is done.
    """
    window = settings[WINDOW]
    warm = 0.0
    for j in range(values.shape[0]):
        x = np.nan if scale[j] == UNWATCHED else values[j]
        used[0, j], used[1, j] = location[j], scale[j]
        n = learned[j]
        if n == KNOWN_PLACE:
            warm += 1.0
        else:
            prior = np.float64(signals[PRIOR_ROWS, j])
            kept = np.float64(signals[SCALE_ROWS, j])
            if n > 0:
                used[0, j] = (prior * location[j] + n * place[0, j]) / (prior + n)
                variance = (kept * scale[j] * scale[j] + n * place[1, j]) / (kept + n)
                used[1, j] = np.sqrt(variance)
            elif prior < 1.0 and not np.isnan(x):
                used[0, j] = x
            warm += min(1.0, n / (WARM_UP_WINDOWS * window))
            if not frozen and not np.isnan(x):
                last_row = LEARNING_WINDOWS * max(window, np.float64(signals[MEMORY, j]))
                _learn_place(x, used[1, j], last_row, learned, place, j)
        z[j] = np.nan if np.isnan(x) else _normalise(x, used[0, j], used[1, j])
    return warm / values.shape[0]


@njit("void(i8, f4[:, ::1], f8[::1])", cache=True, nogil=True)
def _expect_season(time_us, season, usual):  # type: ignore[no-untyped-def]
    """Write the normalised values (D,) that are usual at this time of day."""
    bins = (time_us % DAY_US) / DAY_US * SEASON_BINS - 0.5
    before = int(np.floor(bins))
    share = bins - before
    first, second = before % SEASON_BINS, (before + 1) % SEASON_BINS
    for j in range(season.shape[0]):
        usual[j] = (1.0 - share) * season[j, first] + share * season[j, second]


@njit(
    "void(f8[::1], f8[::1], f4[:, ::1], i4[:, ::1], f4[:, ::1], i8[::1], f8[:, ::1])",
    cache=True,
    nogil=True,
)
def _fill_in(z, y, signals, neighbours, weights, missing, system):  # type: ignore[no-untyped-def]
    """Let missing signals be what the others make of them, so that they explain nothing away.

    Each missing signal is where its own residual is zero; together they are the solution of
    as many equations (Gaussian elimination; the precision matrix needs no pivots), which is
    their conditional mean. With more of them than ``system`` has room for they stay at
    the mean of training.

    Args:
        z, y: (D,) normalised values, NaN where missing; deviations to predict others from,
            0 where missing, in and out.
        missing: room for positions.
        system: (S, S + 1) room for the equations.
    """
    count = 0
    for j in range(z.shape[0]):
        if np.isnan(z[j]):
            if count == system.shape[0]:
                return
            missing[count] = j
            count += 1
    for a in range(count):
        j = missing[a]
        system[a, :count] = 0.0
        system[a, a] = signals[PRECISION, j]
        system[a, count] = 0.0
        for s in range(neighbours.shape[1]):
            other = neighbours[j, s]
            if other < 0:
                continue
            weight = np.float64(weights[j, s])
            system[a, count] -= weight * y[other]
            for b in range(count):
                if missing[b] == other:
                    system[a, b] = weight
    for a in range(count):
        if system[a, a] < SINGULAR:
            return
        for b in range(a + 1, count):
            factor = system[b, a] / system[a, a]
            for c in range(a, count + 1):
                system[b, c] -= factor * system[a, c]
    for a in range(count - 1, -1, -1):
        rest = system[a, count]
        for b in range(a + 1, count):
            rest -= system[a, b] * y[missing[b]]
        y[missing[a]] = _clip(rest / system[a, a], FARTHEST_EXPECTATION)


@njit("void(f8, f8, f8, f8, f4[:, ::1], i8, f4[:, ::1], f4[:, ::1])", cache=True, nogil=True)
def _stream_signal(  # type: ignore[no-untyped-def]
    residual, level_step, short_step, slow_step, signals, j, state, streams
):
    """Follow one signal, whose normalised value is in ``streams`` already."""
    value = np.float64(streams[NORMALISED, j])
    residual -= state[RESIDUAL, j]
    state[RESIDUAL, j] += level_step * _lesson(residual)
    state[SLOW_SHORT, j] += short_step * (residual - state[SLOW_SHORT, j])
    slow = state[SLOW, j] + slow_step * (residual - state[SLOW, j])
    state[SLOW, j] = _clip(slow, FARTHEST_MEAN * np.float64(signals[SD + SLOW, j]))
    value -= signals[MEAN, j]
    state[SLOW_NORMALISED, j] += short_step * (value - state[SLOW_NORMALISED, j])
    streams[RESIDUAL, j] = residual
    for s in range(SLOW_SHORT, STREAMS):
        streams[s, j] = state[s, j]
    streams[SLOW, j] = _agreed(np.float64(state[SLOW, j]), np.float64(state[SLOW_SHORT, j]))
    for s in range(STREAMS):
        streams[s, j] /= signals[SD + s, j]


_FOLLOW = (
    "void(i8[::1], i8[::1], f8[:, ::1], b1[::1], b1[::1],"
    "f8[:, ::1], f8[:, ::1], f4[:, :, ::1], i4[:, ::1], f4[:, :, ::1], f4[:, :, ::1], f8[:, ::1],"
    "i4[::1], i4[:, ::1], f8[:, :, ::1], f4[:, :, ::1],"
    "f4[:, :, ::1], f8[:, ::1], f4[:, ::1], f4[::1])"
)


@njit(_FOLLOW, cache=True, nogil=True)
def follow(  # type: ignore[no-untyped-def]
    machines,
    times_us,
    values,
    maintained,
    relearn,
    location,
    scale,
    signals,
    neighbours,
    weights,
    season,
    settings,
    baseline,
    learned,
    place,
    state,
    streams,
    expected,
    deviation,
    experience,
):
    """Follow events in arrival order; see the module for what the streams are.

    Args:
        machines: (n,) table row of each event.
        times_us: (n,) event time.
        values: (n, D) signals, NaN where missing.
        maintained: (n,) nothing is learned from the event.
        relearn: (n,) from this event on the location is learned anew.
        location, scale, signals, neighbours, weights, season, settings: see
            ``Baselines``; the last is its ``machines``.
        baseline: (M,) row of the baselines of each row of the table.
        learned, place, state: see ``FIELDS``; in and out.
        streams: (n, STREAMS, D) in standard deviations, 0 where missing; out.
        expected, deviation: (n, D) what the signal should be, in its unit, by its own level or by
            the other signals, whichever it is farther from; and how far it is from that in
            standard deviations, 0 where missing; out.
        experience: (n,) share of the warm-up that is done; out.
    """
    count = values.shape[1]
    z, usual, y = np.zeros(count), np.zeros(count), np.zeros(count)
    used = np.zeros((2, count))
    missing = np.zeros(MOST_MISSING, np.int64)
    system = np.zeros((MOST_MISSING, MOST_MISSING + 1))
    for i in range(machines.shape[0]):
        m = machines[i]
        k = baseline[m]
        own, known, moving, found = signals[k], settings[k], state[m], streams[i]
        learns = 0.0 if maintained[i] else 1.0
        level_step = learns / max(known[ROWS], LEVEL_WINDOWS * known[WINDOW])
        short_step = learns * 2.0 / (known[WINDOW] / 4.0 + 1.0)
        windows = min(max(known[ROWS] / (LONG_SHARE * known[WINDOW]), 1.0), LONG_WINDOWS)
        slow_step = learns * 2.0 / (windows * known[WINDOW] + 1.0)
        if relearn[i]:
            learned[m] = 0
            place[m] = 0.0
            state[m] = 0.0
        experience[i] = _place_event(
            values[i],
            maintained[i],
            location[k],
            scale[k],
            own,
            known,
            learned[m],
            place[m],
            used,
            z,
        )
        _expect_season(times_us[i], season[k], usual)
        is_whole = True
        for j in range(count):
            z[j] -= usual[j]
            y[j] = _clip(z[j], FARTHEST_EXPECTATION) - own[MEAN, j]
            if np.isnan(z[j]):
                y[j] = 0.0
                is_whole = False
        if not is_whole:
            _fill_in(z, y, own, neighbours, weights[k], missing, system)
        for j in range(count):
            from_others = 0.0
            for s in range(neighbours.shape[1]):
                other = neighbours[j, s]
                if other >= 0:
                    from_others += np.float64(weights[k, j, s]) * y[other]
            precision = np.float64(own[PRECISION, j])
            mean, level = np.float64(own[MEAN, j]), np.float64(moving[RESIDUAL, j])
            wanted = mean + (level - from_others) / precision
            distance = (z[j] - wanted) * precision / own[SD + RESIDUAL, j]
            from_own = (z[j] - mean) / own[SD + NORMALISED, j]
            if abs(from_own) > abs(distance):
                wanted, distance = mean, from_own
            expected[i, j] = used[0, j] + used[1, j] * (usual[j] + wanted)
            deviation[i, j] = 0.0 if np.isnan(distance) else distance
            if np.isnan(z[j]):
                found[:, j] = 0.0
                continue
            found[NORMALISED, j] = z[j]
            residual = precision * y[j] + from_others
            _stream_signal(residual, level_step, short_step, slow_step, own, j, moving, found)
