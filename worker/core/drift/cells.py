"""Cells: where a value lies among the reference's quantiles, and sums that are exact.

Owns the arithmetic over single rows. A column's axis is cut at 63 edges into 64 cells: below
the reference's range, 62 inside it, above it; a 65th counts values that are missing. Sums are
of whole numbers (multiples of 1/1024 of the column's scale, at most 64 scales from its centre),
so that adding up in any order gives the same bits.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

EDGES = 63
CELLS = EDGES + 1
MISSING = CELLS
"""The cell of values that are missing."""
BELOW, ABOVE = 0, CELLS - 1
STEPS_A_SCALE = 1024.0
FARTHEST_STEPS = 64 * 1024
INSIDE, SQUARES, OUTSIDE = range(3)
"""Columns of sums, in steps: of values inside the reference's range, of their squares, and of
values outside, which a glitch cannot hide among the others."""

Counts = NDArray[np.int64]


@njit(
    "void(f4[:, ::1], f4[:, ::1], f8[::1], f8[::1], u1[:, ::1], i4[:, ::1])",
    cache=True,
    nogil=True,
)
def locate(rows, edges, center, scale, cells, steps):  # type: ignore[no-untyped-def]
    """Find the cell and the whole number of each value.

    Args:
        rows: (n, F), NaN where missing.
        edges: (F, 63) ascending; a value is in the cell of as many edges as are below it.
        center, scale: (F,), scale > 0.
        cells: (n, F) out.
        steps: (n, F) out: distance from the centre in 1/1024 of the scale; 0 where missing.
    """
    for f in range(rows.shape[1]):
        own = edges[f]
        per = STEPS_A_SCALE / scale[f]
        at = center[f]
        for i in range(rows.shape[0]):
            x = rows[i, f]
            if np.isnan(x):
                cells[i, f] = MISSING
                steps[i, f] = 0
                continue
            # A binary search without branches: 63 edges are six halvings.
            k = np.int64(x > own[31]) << 5
            k += np.int64(x > own[k + 15]) << 4
            k += np.int64(x > own[k + 7]) << 3
            k += np.int64(x > own[k + 3]) << 2
            k += np.int64(x > own[k + 1]) << 1
            k += np.int64(x > own[k])
            cells[i, f] = k
            far = min(max((x - at) * per, -FARTHEST_STEPS), FARTHEST_STEPS)
            steps[i, f] = np.int32(np.floor(far + 0.5))


@njit("void(u1[:, ::1], i4[:, ::1], i8[::1], i8[:, :, ::1], i8[:, :, ::1])", cache=True, nogil=True)
def accumulate(cells, steps, slots, counts, sums):  # type: ignore[no-untyped-def]
    """Add rows to the histograms and sums of their slots.

    Args:
        cells, steps: (n, F) as :func:`locate` found them.
        slots: (n,) slot of each row; negative: none.
        counts: (S, F, 65) in and out.
        sums: (S, F, 3) in and out, see ``INSIDE``.
    """
    for i in range(cells.shape[0]):
        s = slots[i]
        if s < 0:
            continue
        for f in range(cells.shape[1]):
            k = cells[i, f]
            q = np.int64(steps[i, f])
            counts[s, f, k] += 1
            if k in (BELOW, ABOVE):
                sums[s, f, OUTSIDE] += q
            else:
                sums[s, f, INSIDE] += q
                sums[s, f, SQUARES] += q * q


@njit("void(i4[:, ::1], i8[::1], i8[::1], i8[:, ::1])", cache=True, nogil=True)
def add_entries(steps, entries, rows, sums):  # type: ignore[no-untyped-def]
    """Add steps (n, F) and rows to entries (n,); negative: none; rows (E,), sums (E, F)."""
    for i in range(steps.shape[0]):
        e = entries[i]
        if e < 0:
            continue
        rows[e] += 1
        for f in range(steps.shape[1]):
            sums[e, f] += steps[i, f]


@njit("void(u8[::1], i8[::1], u8, u8[::1])", cache=True, nogil=True)
def draw(machines, times_us, seed, keys):  # type: ignore[no-untyped-def]
    """A number for each row that is as good as random, from its machine's hash and time.

    The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
    """
    for i in range(machines.shape[0]):
        z = machines[i] + np.uint64(times_us[i]) * np.uint64(0x9E3779B97F4A7C15) + seed
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        keys[i] = z ^ (z >> np.uint64(31))
