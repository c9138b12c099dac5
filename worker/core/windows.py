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

The *clock* of a partition is the newest event time that it has accepted. What happens
to machines that say nothing while it moves on (they are found silent, later forgotten)
happens at the very event that moves the clock there: like everything else here, that
depends on the order of records only, not on how they were cut into calls.
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
CLOCK, DUE, MACHINES = range(3)
"""Totals of a partition: its clock, a time of the clock before which nothing is due
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
    "i8(i8[::1], i8[::1], i8, i8, i8, i8, i8[::1], i8[::1], i8[::1], i8[::1], i8[::1])",
    cache=True,
    nogil=True,
)
def accept(  # type: ignore[no-untyped-def]
    machines,
    times_us,
    start,
    grace_us,
    patience_us,
    max_machines,
    totals,
    newest_us,
    heard_us,
    watermarks_us,
    previous_us,
):
    """Judge events from ``start`` on, in arrival order, until something is due.

    What is due (machines to be forgotten, or found silent) has to happen before the event
    that moves the clock there and after all events before it; so judging stops at that event.

    Args:
        machines: (n,) machine index of each event.
        times_us: (n,) event time, >= 0.
        start: first event to judge.
        grace_us: see ``ChannelSpec``.
        patience_us: nothing is due for a machine earlier than this after it was heard.
        max_machines: see ``worker.core.state.StateLimits``.
        totals: (3,) see ``CLOCK``, in and out.
        newest_us: (M,) newest event time of each machine, EMPTY without, in and out.
        heard_us: (M,) the clock when each machine's last event was accepted, in and out.
        watermarks_us: (n,) out, for the events judged: EMPTY, or for a late event the
            watermark that it missed, or REFUSED.
        previous_us: (n,) out, for the events judged: the machine's newest event time before.

    Returns:
        The first event that was not judged; n at the end.
    """
    for i in range(start, machines.shape[0]):
        m = machines[i]
        t = times_us[i]
        previous_us[i] = newest_us[m]
        if newest_us[m] != EMPTY and t < newest_us[m] - grace_us:
            watermarks_us[i] = newest_us[m] - grace_us
            continue
        clock_us = max(totals[CLOCK], t)
        if clock_us >= totals[DUE]:
            return i
        if newest_us[m] == EMPTY:
            if totals[MACHINES] >= max_machines:
                watermarks_us[i] = REFUSED
                continue
            totals[MACHINES] += 1
            totals[DUE] = min(totals[DUE], clock_us + patience_us)
        watermarks_us[i] = EMPTY
        totals[CLOCK] = clock_us
        heard_us[m] = clock_us
        newest_us[m] = max(newest_us[m], t)
    return machines.shape[0]


_AGGREGATE_SIGNATURE = (
    "void(i8[::1], i8[::1], f8[:, ::1], i8, i8, u4[:, ::1], u4[:, :, ::1], f8[:, :, :, ::1],"
    "f4[:, :, :, ::1], i8[::1], f8[:, :, ::1], b1[:, ::1], f8[:, :, ::1])"
)


@njit(_AGGREGATE_SIGNATURE, cache=True, nogil=True)
def aggregate(  # type: ignore[no-untyped-def]
    machines,
    times_us,
    values,
    pane_us,
    panes,
    pane_numbers,
    pane_counts,
    pane_moments,
    pane_extremes,
    closed_before,
    closed_stats,
    dirty,
    aggregates,
):
    """Add accepted events to their machines' panes and give each its window aggregates.

    Events must be in arrival order; machines are independent of each other.

    Args:
        machines: (n,) machine index of each event.
        times_us: (n,) event time, >= 0.
        values: (n, C) readings, NaN where missing.
        pane_us, panes: the window; see ``ChannelSpec``.
        pane_numbers: (M, S) pane held by each slot, plus one; NO_PANE without; in and out.
        pane_counts: (M, S, C) readings in each pane, in and out.
        pane_moments: (M, S, C, 2) their mean and ``M2``, in and out.
        pane_extremes: (M, S, C, 2) their min and max in single precision, which is
            what models take, in and out.
        closed_before: (M,) pane before which ``closed_stats`` holds; a cache.
        closed_stats: (M, C, 5) the window's panes before that pane, merged; a cache.
        dirty: (M, S) set where a pane changed.
        aggregates: (n, C, 5) out: count, mean, standard deviation (population), min and
            max of each event's window including itself.
    """
    slots = pane_numbers.shape[1]
    channels = values.shape[1]
    for i in range(machines.shape[0]):
        m = machines[i]
        pane = times_us[i] // pane_us
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
