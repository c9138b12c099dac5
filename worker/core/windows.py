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
"""

from __future__ import annotations

import numpy as np
from numba import njit

COUNT, MEAN, M2, MIN, MAX = range(5)
"""Columns of pane statistics; ``M2`` is the sum of squared deviations from the mean."""
STATS = 5
STD = M2
"""In aggregates the third column holds the standard deviation instead of ``M2``."""
EMPTY = -1
"""Pane number of an unused slot, newest time of a machine without events."""


@njit("void(f8[:, ::1])", cache=True, nogil=True)
def _clear(stats):  # type: ignore[no-untyped-def]
    for c in range(stats.shape[0]):
        stats[c, COUNT] = 0.0
        stats[c, MEAN] = 0.0
        stats[c, M2] = 0.0
        stats[c, MIN] = np.inf
        stats[c, MAX] = -np.inf


@njit("void(f8[:, ::1], f8[::1])", cache=True, nogil=True)
def _add(stats, values):  # type: ignore[no-untyped-def]
    for c in range(stats.shape[0]):
        x = values[c]
        if np.isnan(x):
            continue
        stats[c, COUNT] += 1.0
        delta = x - stats[c, MEAN]
        stats[c, MEAN] += delta / stats[c, COUNT]
        stats[c, M2] += delta * (x - stats[c, MEAN])
        stats[c, MIN] = min(stats[c, MIN], x)
        stats[c, MAX] = max(stats[c, MAX], x)


@njit("void(f8[:, ::1], f8[:, ::1])", cache=True, nogil=True)
def _merge(into, other):  # type: ignore[no-untyped-def]
    for c in range(into.shape[0]):
        n_other = other[c, COUNT]
        if n_other == 0.0:
            continue
        n_into = into[c, COUNT]
        n = n_into + n_other
        delta = other[c, MEAN] - into[c, MEAN]
        into[c, MEAN] += delta * (n_other / n)
        into[c, M2] += other[c, M2] + delta * delta * (n_into * n_other / n)
        into[c, COUNT] = n
        into[c, MIN] = min(into[c, MIN], other[c, MIN])
        into[c, MAX] = max(into[c, MAX], other[c, MAX])


_AGGREGATE_SIGNATURE = (
    "void(i8[::1], i8[::1], f8[:, ::1], i8, i8, i8,"
    "i8[::1], i8[:, ::1], f8[:, :, :, ::1], i8[::1], f8[:, :, ::1], b1[:, ::1],"
    "f8[:, :, ::1], i8[::1])"
)


@njit(_AGGREGATE_SIGNATURE, cache=True, nogil=True)
def aggregate(  # type: ignore[no-untyped-def]
    machines,
    times_us,
    values,
    pane_us,
    panes,
    grace_us,
    newest_us,
    pane_numbers,
    pane_stats,
    closed_before,
    closed_stats,
    dirty,
    aggregates,
    watermarks_us,
):
    """Add events to their machines' panes and give each event its window aggregates.

    Events of one machine must be in arrival order; machines are independent.

    Args:
        machines: (n,) machine index of each event.
        times_us: (n,) event time, >= 0.
        values: (n, C) readings, NaN where missing.
        pane_us, panes, grace_us: the window; see ``ChannelSpec``.
        newest_us: (M,) newest event time of each machine, in and out.
        pane_numbers: (M, S) pane held by each slot, in and out.
        pane_stats: (M, S, C, 5) statistics of each pane, in and out.
        closed_before: (M,) pane before which ``closed_stats`` holds; a cache.
        closed_stats: (M, C, 5) the window's panes before that pane, merged; a cache.
        dirty: (M, S) set where a pane changed.
        aggregates: (n, C, 5) count, mean, standard deviation (population), min and
            max of each event's window including itself; out; not set for late events.
        watermarks_us: (n,) out: -1, or for a late event the watermark that it missed.
    """
    slots = pane_numbers.shape[1]
    channels = values.shape[1]
    for i in range(machines.shape[0]):
        m = machines[i]
        t = times_us[i]
        if newest_us[m] != EMPTY and t < newest_us[m] - grace_us:
            watermarks_us[i] = newest_us[m] - grace_us
            continue
        watermarks_us[i] = -1
        newest_us[m] = max(newest_us[m], t)

        pane = t // pane_us
        slot = pane % slots
        if pane_numbers[m, slot] != pane:
            pane_numbers[m, slot] = pane
            _clear(pane_stats[m, slot])
        _add(pane_stats[m, slot], values[i])
        dirty[m, slot] = True

        # An out-of-order event moves the cache back to its own pane; the next event in
        # order then rebuilds it and so sees the pane that has just changed.
        if closed_before[m] != pane:
            _clear(closed_stats[m])
            for earlier in range(max(pane - panes + 1, 0), pane):
                s = earlier % slots
                if pane_numbers[m, s] == earlier:
                    _merge(closed_stats[m], pane_stats[m, s])
            closed_before[m] = pane

        aggregates[i] = closed_stats[m]
        _merge(aggregates[i], pane_stats[m, slot])
        for c in range(channels):
            n = aggregates[i, c, COUNT]
            aggregates[i, c, STD] = np.sqrt(aggregates[i, c, M2] / n) if n > 0.0 else 0.0
