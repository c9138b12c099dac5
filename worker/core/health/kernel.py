"""Following readings: which sensor is faulty, event by event.

Each channel of a machine is in one condition at a time. A condition begins when its evidence
is complete, and ends after as much evidence of the contrary, so that conditions do not flutter.
Machines are independent of each other but for silence, which is judged by the
partition's clock (see :mod:`worker.core.windows`).
"""

from __future__ import annotations

import numpy as np
from numba import njit

NONE, MISSING, STUCK, OUT_OF_RANGE, GLITCH, SILENT, CLOCK_SKEW = range(7)
"""Conditions; the first five are those of a channel."""
NEVER_US = 2**62
UNHEARD = 0
"""When a machine without events was last heard."""
UNKNOWN = 0
"""Row of the profile of machines that training did not have."""

PERSISTS = 3
"""So many bad readings in a row are no glitch: impossible ones are a broken sensor, implausible
ones are real."""
SOUND_READINGS = 10
QUIET_READINGS = 60
"""So many good readings in a row end a condition that leaves out single readings only."""
RETURNED_EVENTS = 3
MARGIN = 0.25
"""Share of the usual range that ordinary readings may be outside of it."""
RATE_MEMORY = 32.0
PATIENCE_SHIFT = 10
"""What a long gap added to a machine's patience decays by 2^-10 an event."""
SKEW_BLOCK_US = 600_000_000
SKEW_EVENTS = 5
FULL = 65_535

LOW, HIGH, REACH = range(3)
"""Columns of ``ranges``."""
REPEATS, ABSENT = range(2)
"""Columns of ``limits`` and ``runs``."""
INTERVAL, SILENCE = range(2)
"""Columns of ``usual_us``."""
STATE, BAD, GOOD = range(3)
"""Columns of ``states``."""
HEARD, PATIENCE, NEWEST, SILENT_SINCE, SKEW_SINCE, SKEW_BLOCK = range(6)
"""Columns of ``moments``."""
PACE, PEAK, EARLIER_PEAK = range(3)
"""Columns of ``paces``."""
IS_SILENT, RETURNED, IS_SKEWED, SKEW_COUNT = range(4)
"""Columns of ``flags``."""
TRANSITION = 7
"""Columns of transitions: row, machine, channel or -1, condition, opened, closed or -1, length."""

_TOLD = "Tuple((i8[:, ::1], f8[::1], i8))"


@njit(f"{_TOLD}({_TOLD}, i8, i8, i8, i8, i8, i8, f8, i8)", cache=True, nogil=True)
def _tell(told, row, machine, channel, kind, opened_us, closed_us, figure, length):  # type: ignore[no-untyped-def]
    """Append a transition, making room where there is none."""
    events, figures, count = told
    if count == events.shape[0]:
        more_events = np.empty((2 * count, TRANSITION), np.int64)
        more_figures = np.empty(2 * count)
        more_events[:count] = events
        more_figures[:count] = figures
        events, figures = more_events, more_figures
    events[count] = row, machine, channel, kind, opened_us, closed_us, length
    figures[count] = figure
    return events, figures, count + 1


@njit("i8(i8[:, ::1], u1[:, ::1])", cache=True, nogil=True)
def _next_deadline(moments, flags):  # type: ignore[no-untyped-def]
    """When the next machine will have been silent for too long, if it is not heard."""
    deadline_us = NEVER_US
    for m in range(moments.shape[0]):
        if moments[m, HEARD] != UNHEARD and flags[m, IS_SILENT] == 0:
            deadline_us = min(deadline_us, moments[m, HEARD] + moments[m, PATIENCE])
    return deadline_us


@njit(f"{_TOLD}({_TOLD}, i8, i8, i8[:, ::1], f4[:, ::1], u1[:, ::1])", cache=True, nogil=True)
def _notice_silent(told, row, clock_us, moments, paces, flags):  # type: ignore[no-untyped-def]
    """Let silence begin for each machine that was not heard for longer than its patience."""
    for m in range(moments.shape[0]):
        deadline_us = moments[m, HEARD] + moments[m, PATIENCE]
        if moments[m, HEARD] == UNHEARD or deadline_us >= clock_us:
            continue
        if flags[m, IS_SILENT] == 0 and deadline_us > moments[m, SILENT_SINCE]:
            flags[m, IS_SILENT] = 1
            moments[m, SILENT_SINCE] = deadline_us
            patience_s = moments[m, PATIENCE] / 1e6
            pace_us = np.int64(np.float64(paces[m, PACE]) * 1e6)
            told = _tell(told, row, m, -1, SILENT, deadline_us, -1, patience_s, pace_us)
    return told


@njit(f"{_TOLD}({_TOLD}, i8, i8, i8, i8[:, ::1], u1[:, ::1])", cache=True, nogil=True)
def _notice_return(told, row, m, t, moments, flags):  # type: ignore[no-untyped-def]
    """Let silence end after a few events."""
    flags[m, RETURNED] += 1
    if flags[m, RETURNED] < RETURNED_EVENTS:
        return told
    flags[m, IS_SILENT] = flags[m, RETURNED] = 0
    since_us = moments[m, SILENT_SINCE]
    return _tell(told, row, m, -1, SILENT, since_us, max(t, since_us), 0.0, 0)


@njit("f8(i8, i8, i8, i8, i8, i8[:, ::1], f4[:, ::1])", cache=True, nogil=True)
def _keep_pace(t, clock_us, interval_us, base_us, m, moments, paces):  # type: ignore[no-untyped-def]
    """Follow how often a machine is heard.

    Patience goes by the partition's clock, and grows with the gaps that happen: so a gateway
    that sends its events in batches is called silent once or twice, not between all its
    batches. The rest goes by the machine's own times, and does not depend on others.

    Args:
        interval_us: the usual interval.
        base_us: the shortest patience.

    Returns:
        How many times as often as in training it sends, at least 1; 0 where the event
        before is too old for its readings to be compared with.
    """
    heard_us = moments[m, HEARD]
    patience_us = moments[m, PATIENCE]
    usual_s = interval_us / 1e6
    moments[m, HEARD] = clock_us
    moments[m, PATIENCE] = base_us
    if heard_us == UNHEARD:
        moments[m, NEWEST] = t
        paces[m, PACE] = usual_s
        return 0.0
    gap_us = clock_us - heard_us
    if base_us < NEVER_US:
        decayed_us = patience_us - ((patience_us - base_us) >> PATIENCE_SHIFT)
        moments[m, PATIENCE] = max(base_us, decayed_us, 3 * min(gap_us, patience_us) // 2)
    pace_s = np.float64(paces[m, PACE])
    apart_us = t - moments[m, NEWEST]
    if apart_us >= 0:
        pace_s += (min(apart_us / 1e6, 8.0 * pace_s) - pace_s) / RATE_MEMORY
        paces[m, PACE] = pace_s
        moments[m, NEWEST] = t
    if apart_us > base_us:
        return 0.0
    return usual_s / pace_s if 0.0 < pace_s < usual_s else 1.0


@njit("i8(i8, i8, f8, i8, i8[:, ::1], f4[:, ::1], u1[:, ::1])", cache=True, nogil=True)
def _compare_clocks(t, record_us, limit_s, m, moments, paces, flags):  # type: ignore[no-untyped-def]
    """Judge a gateway's clock by the freshest of its events in each block of record time.

    Delivery can only delay an event, so the freshest one shows the clock's error. An error that
    changes from block to block is no clock: old events are being caught up with.

    Returns:
        Whether the clock is wrong from now on: 1, right again: -1, or as before: 0.
    """
    fresh_s = np.float32((t - record_us) / 1e6)
    if flags[m, SKEW_COUNT] == 0 or record_us < moments[m, SKEW_BLOCK]:
        flags[m, SKEW_COUNT] = 0
        moments[m, SKEW_BLOCK] = record_us
        paces[m, PEAK] = fresh_s
    paces[m, PEAK] = max(paces[m, PEAK], fresh_s)
    flags[m, SKEW_COUNT] = min(flags[m, SKEW_COUNT] + 1, SKEW_EVENTS)
    if flags[m, SKEW_COUNT] < SKEW_EVENTS or record_us < moments[m, SKEW_BLOCK] + SKEW_BLOCK_US:
        return 0
    flags[m, SKEW_COUNT] = 0
    error_s = abs(np.float64(paces[m, PEAK]))
    is_steady = abs(np.float64(paces[m, PEAK]) - np.float64(paces[m, EARLIER_PEAK])) <= limit_s
    paces[m, EARLIER_PEAK] = paces[m, PEAK]
    if flags[m, IS_SKEWED] == 0:
        return 1 if error_s > limit_s and is_steady and t > moments[m, SKEW_SINCE] else 0
    return -1 if error_s <= 0.5 * limit_s or not is_steady else 0


@njit("b1(f8, f4[::1], f8[::1])", cache=True, nogil=True)
def _rests(x, usual, bounds):  # type: ignore[no-untyped-def]
    """Whether a machine may rest at a reading, so that a sound sensor repeats it.

    It may at a physical limit, at the ends of the usual range, at zero where that is no
    ordinary reading, and far outside of the usual range: at a standstill, at full load, at what the
    sensor can just show.
    """
    low, high = usual[LOW], usual[HIGH]
    short = np.float32(x)
    if x in (bounds[0], bounds[1]):
        return True
    if low < short < high:
        return False
    margin = MARGIN * (high - low)
    return x == 0.0 or short in (low, high) or x < low - margin or x > high + margin


@njit(
    "Tuple((i8, b1))(f8, b1, f4[::1], f8[:, ::1], i8, i8, b1, i8, i8, f8[:, ::1], f4[:, ::1],"
    "u2[:, :, ::1], u1[:, :, ::1])",
    cache=True,
    nogil=True,
)
def _judge(  # type: ignore[no-untyped-def]
    x, impossible, usual, bounds, most_repeats, most_absent, calm, m, c, last, pending, runs, states
):
    """What one reading is evidence of, and whether it is bad itself.

    What freezes where machines do not rest is stuck, and so is what froze after a jump that
    no machine can make.

    Args:
        usual: (3,) range and reach of the channel in the profile.
        bounds: (C, 2) physical ranges.
        most_repeats, most_absent: so many in a row are a fault; 0: any number is usual.
        calm: whether the event before was made shortly before.
        m, c: machine and channel.
        last, pending, runs, states: in and out, see :func:`check`.
    """
    if np.isnan(x) and not impossible:
        runs[m, c, ABSENT] = min(runs[m, c, ABSENT] + 1, FULL)
        return (MISSING if 0 < most_absent <= runs[m, c, ABSENT] else NONE), False
    runs[m, c, ABSENT] = 0
    if impossible:
        states[m, c, BAD] = min(states[m, c, BAD] + 1, PERSISTS)
        pending[m, c] = x
        return (OUT_OF_RANGE if states[m, c, BAD] == PERSISTS else NONE), True
    reach = usual[REACH]
    outside = x < usual[LOW] - reach or x > usual[HIGH] + reach
    if outside and calm and abs(x - last[m, c]) > reach:
        # It is not confirmed by its own repeats.
        if most_repeats > 0 and states[m, c, BAD] > 0 and np.float32(x) == pending[m, c]:
            runs[m, c, REPEATS] = min(runs[m, c, REPEATS] + 1, FULL)
            return (STUCK if runs[m, c, REPEATS] >= most_repeats else NONE), True
        agrees = abs(x - pending[m, c]) <= reach
        runs[m, c, REPEATS] = 0
        pending[m, c] = x
        if states[m, c, BAD] > 0 and not agrees:
            states[m, c, BAD] = 1
            return GLITCH, True
        states[m, c, BAD] += 1
        if states[m, c, BAD] < PERSISTS:
            return NONE, True
        states[m, c, BAD] = 0
        last[m, c] = x
        return NONE, False
    returned = states[m, c, BAD] > 0
    states[m, c, BAD] = 0
    runs[m, c, REPEATS] = min(runs[m, c, REPEATS] + 1, FULL) if x == last[m, c] else 0
    last[m, c] = x
    if 0 < most_repeats <= runs[m, c, REPEATS] and not _rests(x, usual, bounds[c]):
        return STUCK, False
    return (GLITCH if returned else NONE), False


@njit("i8(i8, i8)", cache=True, nogil=True)
def _recovery(state, most_repeats):  # type: ignore[no-untyped-def]
    """How many good readings end a condition.

    Where they are left out meanwhile no more than it takes; elsewhere it costs nothing to wait
    whether a sensor that comes and goes is sound.
    """
    if state == STUCK:
        return min(2 * most_repeats, QUIET_READINGS)
    if state == OUT_OF_RANGE:
        return SOUND_READINGS
    return QUIET_READINGS


@njit(
    f"{_TOLD}({_TOLD}, i8, i8, i8, i8, f8, i8, b1, i8, f4[:, ::1], u2[:, :, ::1],"
    "u1[:, :, ::1], i8[:, ::1])",
    cache=True,
    nogil=True,
)
def _change(  # type: ignore[no-untyped-def]
    told, row, m, c, t, x, condition, bad, recovery, pending, runs, states, opened
):
    """Let a channel's condition begin or end."""
    state = np.int64(states[m, c, STATE])
    worse = condition != NONE and condition != state and not (condition == GLITCH and state)
    ends = worse and state != NONE
    if condition != NONE or bad:
        states[m, c, GOOD] = 0
    elif state != NONE and runs[m, c, ABSENT] == 0:
        states[m, c, GOOD] += 1
        ends = states[m, c, GOOD] >= recovery
    if ends:
        since_us = opened[m, c]
        told = _tell(told, row, m, c, state, since_us, max(t, since_us), x, 0)
        states[m, c, STATE] = NONE
    if worse and t > opened[m, c]:
        states[m, c, STATE] = condition
        opened[m, c] = t
        length = runs[m, c, ABSENT] if condition == MISSING else runs[m, c, REPEATS] + 1
        figure = np.float64(pending[m, c]) if condition == GLITCH else x
        told = _tell(told, row, m, c, condition, t, -1, figure, length)
    return told


@njit(
    "Tuple((i8[:, ::1], f8[::1]))"
    "(i8[::1], i8[::1], i8[::1], i8[::1], f8[:, ::1], b1[:, ::1], f8[:, ::1], i8, f8,"
    "f4[:, :, ::1], u2[:, :, ::1], i8[:, ::1], u4[::1], f8[:, ::1], f4[:, ::1], u2[:, :, ::1],"
    "u1[:, :, ::1], i8[:, ::1], i8[:, ::1], f4[:, ::1], u1[:, ::1], f8[:, ::1])",
    cache=True,
    nogil=True,
)
def check(  # type: ignore[no-untyped-def]
    clocks_us,
    machines,
    times_us,
    record_times_us,
    values,
    impossible,
    bounds,
    grace_us,
    skew_limit_s,
    ranges,
    limits,
    usual_us,
    profiles,
    last,
    pending,
    runs,
    states,
    opened,
    moments,
    paces,
    flags,
    usable,
):
    """Follow events in arrival order; see :meth:`worker.core.health.follow.Health.check`.

    Args:
        clocks_us: (n,) the partition's clock at each event.
        machines, times_us, record_times_us: (n,).
        values, impossible: (n, C).
        bounds: (C, 2) physical range of each channel; infinite where there is none.
        skew_limit_s: how wrong a gateway's clock may be.
        ranges, limits, usual_us: the profile.
        profiles: (M,) row of the profile; all from here to ``flags`` in and out.
        last: (M, C) latest reading that was neither impossible nor implausible.
        pending: (M, C) latest that was.
        runs, states: (M, C, 2) and (M, C, 3).
        opened: (M, C) when the latest condition began.
        moments, paces, flags: (M, 6), (M, 3) and (M, 4).
        usable: (n, C) out: the readings that may be used, NaN elsewhere.

    Returns:
        Transitions (k, 7), and a figure (k,) for each.
    """
    told = (np.empty((16, TRANSITION), np.int64), np.empty(16), 0)
    deadline_us = _next_deadline(moments, flags)
    for i in range(machines.shape[0]):
        m = machines[i]
        t = times_us[i]
        p = profiles[m]
        clock_us = clocks_us[i]
        if clock_us > deadline_us:
            told = _notice_silent(told, i, clock_us, moments, paces, flags)
            deadline_us = _next_deadline(moments, flags)
        if flags[m, IS_SILENT] and moments[m, HEARD] + moments[m, PATIENCE] < clock_us:
            # It was silent again before it had returned. Found at its own event, since what
            # changes at another machine's has to be told, or it would not be saved.
            flags[m, RETURNED] = 0
        interval_us = usual_us[p, INTERVAL]
        base_us = max(usual_us[p, SILENCE], grace_us) if usual_us[p, SILENCE] else NEVER_US
        often = _keep_pace(t, clock_us, interval_us, base_us, m, moments, paces)
        deadline_us = min(deadline_us, clock_us + moments[m, PATIENCE])
        if flags[m, IS_SILENT]:
            told = _notice_return(told, i, m, t, moments, flags)

        limit_s = max(skew_limit_s, 2e-6 * interval_us)
        skew = _compare_clocks(t, record_times_us[i], limit_s, m, moments, paces, flags)
        if skew:
            flags[m, IS_SKEWED] = skew > 0
            closed_us = -1 if skew > 0 else max(t, moments[m, SKEW_SINCE])
            moments[m, SKEW_SINCE] = t if skew > 0 else moments[m, SKEW_SINCE]
            error_s = np.float64(paces[m, PEAK])
            told = _tell(told, i, m, -1, CLOCK_SKEW, moments[m, SKEW_SINCE], closed_us, error_s, 0)

        for c in range(values.shape[1]):
            x = values[i, c]
            usable[i, c] = x
            # The ordinary case first: a new reading of a sound channel, in its usual range.
            if (
                states[m, c, STATE] == NONE
                and states[m, c, BAD] == 0
                and x != last[m, c]
                and ranges[p, c, LOW] <= x <= ranges[p, c, HIGH]
                and not impossible[i, c]
            ):
                last[m, c] = x
                runs[m, c, REPEATS] = runs[m, c, ABSENT] = 0
                continue
            expected = p != UNKNOWN or not np.isnan(last[m, c])
            most_repeats = np.int64(limits[p, c, REPEATS] * max(often, 1.0))
            most_absent = np.int64(limits[p, c, ABSENT] * max(often, 1.0)) * expected
            condition, bad = _judge(
                x, impossible[i, c], ranges[p, c], bounds, most_repeats, most_absent, often > 0.0,
                m, c, last, pending, runs, states,
            )  # fmt: skip
            if condition != NONE or states[m, c, STATE] != NONE:
                recovery = _recovery(states[m, c, STATE], most_repeats)
                told = _change(
                    told, i, m, c, t, x, condition, bad, recovery, pending, runs, states, opened
                )
            if bad or states[m, c, STATE] == STUCK or states[m, c, STATE] == OUT_OF_RANGE:
                usable[i, c] = np.nan
    events, figures, count = told
    return events[:count], figures[:count]
