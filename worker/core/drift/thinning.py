"""Thinning: which rows of a machine are worth counting.

Owns the choice. Rows that follow one another closely are alike: counting all of them costs time
and tells next to nothing more. So a machine's row counts when it is the machine's first in a slot
of the reference's stride. That depends on the machine's own times only, so it is the same however
the stream is cut, and the reference is learned from rows that were thinned the same way.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST_KEPT = 0.9
"""Share of the effective rows that thinning leaves of a column."""
COLUMNS_KEPT = 0.9
"""Share of the columns that this holds for."""
LONGEST_US = 60_000_000
"""Each machine is heard once a pane at least."""


def counts(
    times_us: NDArray[np.int64], previous_us: NDArray[np.int64], stride_us: int
) -> NDArray[np.bool_]:
    """Whether each of n rows is the first of its machine in a slot.

    Args:
        previous_us: (n,) the machine's newest time before each row; negative: none.
    """
    first: NDArray[np.bool_] = times_us // stride_us > previous_us // stride_us
    return first


def previous_times(times_us: NDArray[np.int64], machines: NDArray[np.int64]) -> NDArray[np.int64]:
    """The newest time (n,) of each row's machine before it, -1 without.

    Args:
        times_us, machines: (n,) each machine's rows behind one another, in order of time.
    """
    previous = np.empty_like(times_us)
    previous[:1] = -1
    previous[1:] = np.where(machines[1:] == machines[:-1], times_us[:-1], -1)
    return previous


def choose_stride_us(
    rows: NDArray[np.float32], times_us: NDArray[np.int64], interval_us: int
) -> int:
    """The longest stride that leaves nine columns in ten nine tenths of their effective rows.

    With correlation ``phi`` from slot to slot, the mean of n slots of an AR(1) series has the
    variance of ``n (1 - phi) / (1 + phi)`` independent ones; of every k-th slot, ``phi^k``.

    Args:
        rows: (n, F) of all machines, NaN where missing.
        interval_us: usual time between two rows of a machine.

    Returns:
        A multiple of the interval, at most a minute; half the interval where every row counts,
        so that rows which come a little early do too.
    """
    slots, slot = np.unique(times_us // interval_us, return_inverse=True)
    phi = _correlations(rows, slot, len(slots))
    chosen_us = max(interval_us // 2, 1)
    for k in range(2, LONGEST_US // interval_us + 1):
        kept = (1.0 + phi) / (1.0 - phi) * (1.0 - phi**k) / (1.0 + phi**k) / k
        if len(phi) and (kept >= LEAST_KEPT).mean() >= COLUMNS_KEPT:
            # A stride that divides the minute counts as often in each pane.
            if LONGEST_US % (k * interval_us) == 0:
                chosen_us = k * interval_us
        else:
            break
    return chosen_us


def _correlations(
    rows: NDArray[np.float32], slot: NDArray[np.int64], slots: int
) -> NDArray[np.float64]:
    """Correlation of the means of neighbouring slots, of each column that moves."""
    found = []
    for column in rows.T:
        known = np.isfinite(column)
        if not known.any():
            continue
        low, high = np.quantile(column[known], [0.01, 0.99])
        x = np.clip(column[known].astype(np.float64), low, high)
        x -= x.mean()
        sizes = np.bincount(slot[known], minlength=slots)
        means = np.bincount(slot[known], x, minlength=slots) / np.maximum(sizes, 1)
        total = float(means @ means)
        if total > 1e-18 * slots:
            found.append(float(means[1:] @ means[:-1]) / total)
    phi: NDArray[np.float64] = np.clip(np.array(found), 0.0, 0.9999)
    return phi
