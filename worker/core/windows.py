"""Rolling aggregates: a ring of panes per machine, on event time.

Owns the arithmetic of windows and nothing else: arrays in, arrays out. A *pane*
is a fixed slice of event time (``time_us // pane_us``); a machine keeps its
latest panes in a ring of ``slots``; the window of an event is the ``panes`` panes
that end with the event's own. Which machine has which arrays is
:mod:`worker.core.state`'s business.

An event's aggregates depend only on the panes' contents, never on how they came
about: panes before the event's own are merged afresh, oldest first, whenever
the window moves (``closed``, a cache). State restored from panes therefore continues
bit for bit. Mean and variance use Welford's update and Chan's merge, so that a
small spread survives a large mean (T. F. Chan, G. H. Golub, R. J. LeVeque,
"Updating formulae and a pairwise algorithm for computing sample variances", 1979).

The *clock* of a partition is the newest event time that it has accepted. A machine
from which nothing was accepted while the clock moved on by the retention is
forgotten, at the very event that moves the clock there: like everything else here,
that depends on the order of records only, not on how they were cut into calls.
"""

from __future__ import annotations

import numpy as np
from numba import njit

COUNT, MEAN, M2, MIN, MAX = range(5)
"""Columns of aggregates; ``M2`` is the sum of squared deviations from the mean."""
STATS = 5
STD = M2
"""In aggregates the third column holds the standard deviation instead of ``M2``."""
EMPTY = -1
"""Newest time of a machine without events; no watermark was missed."""
NO_PANE = 0
"""What an unused slot holds; a used one its pane's number plus one."""
REFUSED = -2
"""In place of the watermark: a new machine for which there is no room."""
CLOCK, OLDEST, MACHINES = range(3)
"""Totals of a partition: its clock, a time before which no machine was last heard
(``NEVER`` without machines), and how many machines it has."""
NEVER = 2**62


@njit("void(f8[:, ::1])", cache=True, nogil=True)
def _clear(stats):  # type: ignore[no-untyped-def]
    for c in range(stats.shape[0]):
        stats[c, COUNT] = 0.0
        stats[c, MEAN] = 0.0
        stats[c, M2] = 0.0
        stats[c, MIN] = np.inf
        stats[c, MAX] = -np.inf


@njit("void(u4[::1], f8[:, ::1], f4[:, ::1], f8[::1])", cache=True, nogil=True)
def _add(counts, moments, extremes, values):  # type: ignore[no-untyped-def]
    for c in range(counts.shape[0]):
        x = values[c]
        if np.isnan(x):
            continue
        counts[c] += 1
        delta = x - moments[c, 0]
        moments[c, 0] += delta / counts[c]
        moments[c, 1] += delta * (x - moments[c, 0])
        extremes[c, 0] = min(extremes[c, 0], np.float32(x))
        extremes[c, 1] = max(extremes[c, 1], np.float32(x))


@njit("void(u4[::1], f8[:, ::1], f4[:, ::1])", cache=True, nogil=True)
def _clear_pane(counts, moments, extremes):  # type: ignore[no-untyped-def]
    counts[:] = 0
    moments[:] = 0.0
    extremes[:, 0] = np.inf
    extremes[:, 1] = -np.inf


@njit("void(f8[:, ::1], u4[::1], f8[:, ::1], f4[:, ::1])", cache=True, nogil=True)
def _merge(into, counts, moments, extremes):  # type: ignore[no-untyped-def]
    for c in range(into.shape[0]):
        n_pane = np.float64(counts[c])
        if n_pane == 0.0:
            continue
        n_into = into[c, COUNT]
        n = n_into + n_pane
        delta = moments[c, 0] - into[c, MEAN]
        into[c, MEAN] += delta * (n_pane / n)
        into[c, M2] += moments[c, 1] + delta * delta * (n_into * n_pane / n)
        into[c, COUNT] = n
        into[c, MIN] = min(into[c, MIN], np.float64(extremes[c, 0]))
        into[c, MAX] = max(into[c, MAX], np.float64(extremes[c, 1]))


@njit(
    "void(i8, i8[::1], i8[::1], i8[::1], u4[:, ::1], i8[::1], b1[:, ::1])", cache=True, nogil=True
)
def _forget_before(  # type: ignore[no-untyped-def]
    horizon_us, totals, newest_us, heard_us, pane_numbers, closed_before, dirty
):
    """Forget the machines last heard before ``horizon_us``; their panes become dirty."""
    oldest_us = NEVER
    for m in range(newest_us.shape[0]):
        if newest_us[m] == EMPTY:
            continue
        if heard_us[m] >= horizon_us:
            oldest_us = min(oldest_us, heard_us[m])
            continue
        for slot in range(pane_numbers.shape[1]):
            if pane_numbers[m, slot] != NO_PANE:
                pane_numbers[m, slot] = NO_PANE
                dirty[m, slot] = True
        newest_us[m] = EMPTY
        closed_before[m] = EMPTY
        totals[MACHINES] -= 1
    totals[OLDEST] = oldest_us


_AGGREGATE_SIGNATURE = (
    "void(i8[::1], i8[::1], f8[:, ::1], i8, i8, i8, i8, i8,"
    "i8[::1], i8[::1], i8[::1], u4[:, ::1], u4[:, :, ::1], f8[:, :, :, ::1], f4[:, :, :, ::1],"
    "i8[::1], f8[:, :, ::1], b1[:, ::1], f8[:, :, ::1], i8[::1])"
)


@njit(_AGGREGATE_SIGNATURE, cache=True, nogil=True)
def aggregate(  # type: ignore[no-untyped-def]
    machines,
    times_us,
    values,
    pane_us,
    panes,
    grace_us,
    retention_us,
    max_machines,
    totals,
    newest_us,
    heard_us,
    pane_numbers,
    pane_counts,
    pane_moments,
    pane_extremes,
    closed_before,
    closed_stats,
    dirty,
    aggregates,
    watermarks_us,
):
    """Add events to their machines' panes and give each event its window aggregates.

    Events must be in arrival order; but for being forgotten or refused, machines are
    independent of each other.

    Args:
        machines: (n,) machine index of each event.
        times_us: (n,) event time, >= 0.
        values: (n, C) readings, NaN where missing.
        pane_us, panes, grace_us: the window; see ``ChannelSpec``.
        retention_us, max_machines: see ``worker.core.state.StateLimits``.
        totals: (3,) see ``CLOCK``, in and out.
        newest_us: (M,) newest event time of each machine, EMPTY without, in and out.
        heard_us: (M,) the clock when each machine's last event was accepted, in and out.
        pane_numbers: (M, S) pane held by each slot, plus one; NO_PANE without; in and out.
        pane_counts: (M, S, C) readings in each pane, in and out.
        pane_moments: (M, S, C, 2) their mean and ``M2``, in and out.
        pane_extremes: (M, S, C, 2) their min and max in single precision, which is
            what models take, in and out.
        closed_before: (M,) pane before which ``closed_stats`` holds; a cache.
        closed_stats: (M, C, 5) the window's panes before that pane, merged; a cache.
        dirty: (M, S) set where a pane changed, or was given up.
        aggregates: (n, C, 5) count, mean, standard deviation (population), min and
            max of each event's window including itself; out; not set for events that
            were late or refused.
        watermarks_us: (n,) out: EMPTY, or for a late event the watermark that it missed,
            or REFUSED.
    """
    slots = pane_numbers.shape[1]
    channels = values.shape[1]
    for i in range(machines.shape[0]):
        m = machines[i]
        t = times_us[i]
        if newest_us[m] != EMPTY and t < newest_us[m] - grace_us:
            watermarks_us[i] = newest_us[m] - grace_us
            continue
        clock_us = max(totals[CLOCK], t)
        horizon_us = clock_us // pane_us * pane_us - retention_us
        if horizon_us > totals[OLDEST]:
            _forget_before(
                horizon_us, totals, newest_us, heard_us, pane_numbers, closed_before, dirty
            )
        if newest_us[m] == EMPTY:
            if totals[MACHINES] >= max_machines:
                watermarks_us[i] = REFUSED
                continue
            totals[MACHINES] += 1
            totals[OLDEST] = min(totals[OLDEST], clock_us)
        watermarks_us[i] = EMPTY
        totals[CLOCK] = clock_us
        heard_us[m] = clock_us
        newest_us[m] = max(newest_us[m], t)

        pane = t // pane_us
        slot = pane % slots
        if pane_numbers[m, slot] != pane + 1:
            pane_numbers[m, slot] = pane + 1
            _clear_pane(pane_counts[m, slot], pane_moments[m, slot], pane_extremes[m, slot])
        _add(pane_counts[m, slot], pane_moments[m, slot], pane_extremes[m, slot], values[i])
        dirty[m, slot] = True

        # An out-of-order event moves the cache back to its own pane; the next event in
        # order then rebuilds it and so sees the pane that has just changed.
        if closed_before[m] != pane:
            _clear(closed_stats[m])
            for earlier in range(max(pane - panes + 1, 0), pane):
                s = earlier % slots
                if pane_numbers[m, s] == earlier + 1:
                    _merge(
                        closed_stats[m], pane_counts[m, s], pane_moments[m, s], pane_extremes[m, s]
                    )
            closed_before[m] = pane

        aggregates[i] = closed_stats[m]
        _merge(aggregates[i], pane_counts[m, slot], pane_moments[m, slot], pane_extremes[m, slot])
        for c in range(channels):
            n = aggregates[i, c, COUNT]
            aggregates[i, c, STD] = np.sqrt(aggregates[i, c, M2] / n) if n > 0.0 else 0.0
