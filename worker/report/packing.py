"""Timelines as text that a browser unpacks: quantised, differenced, deflated, in base64.

Owns the format, which ``timeline.js`` reads: 16-bit numbers in R rows of n, all low bytes before
all high ones. The first two rows are the high and low halves of the times' 32-bit differences
in units of ``unit_us``; then come for each series its lows and the distance to its highs, each
as differences along the row, modulo 65536.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np

from worker.report.timelines import Timeline

LEVELS = 1023
"""Usual steps between the smallest and the largest value; a chart is 120 pixels high."""
GAP, MISSING = 65_535, 65_534


def packed(timeline: Timeline, levels: int) -> dict[str, Any]:
    """A timeline as an object for JSON.

    Args:
        levels: steps between the smallest and the largest value of a series.

    Returns:
        ``start_us``, ``unit_us``, ``n``, ``levels``, ``ranges`` (S pairs of numbers) and ``data``.
    """
    times_us = timeline.times_us
    start_us = int(times_us[0])
    unit_us = max(1, -(-int(times_us[-1] - start_us) // (2**32 - 1)))
    times = (times_us - start_us) // unit_us
    steps = np.diff(times, prepend=0)
    known = ~np.isnan(timeline.lows)
    smallest = np.where(known, timeline.lows, np.inf).min(axis=0)
    largest = np.where(known, timeline.highs, -np.inf).max(axis=0)
    seen = known.any(axis=0)
    smallest, largest = np.where(seen, smallest, 0.0), np.where(seen, largest, 0.0)
    scale = np.where(largest > smallest, largest - smallest, 1.0)
    low = np.rint((np.where(known, timeline.lows, smallest) - smallest) / scale * levels)
    high = np.rint((np.where(known, timeline.highs, smallest) - smallest) / scale * levels)
    lows = np.where(known, low, np.where(timeline.gaps, GAP, MISSING))
    rows = np.empty((2 + 2 * lows.shape[1], len(times)), np.int64)
    rows[0], rows[1] = steps >> 16, steps & 0xFFFF
    rows[2::2] = np.diff(lows, prepend=0.0, axis=0).T
    rows[3::2] = np.diff(high - low, prepend=0.0, axis=0).T
    words = (rows % 65_536).astype("<u2")
    planes = np.concatenate([(words & 0xFF).ravel(), (words >> 8).ravel()]).astype(np.uint8)
    return {
        "start_us": start_us,
        "unit_us": unit_us,
        "n": len(times),
        "levels": levels,
        "ranges": [[float(a), float(b)] for a, b in zip(smallest, smallest + scale, strict=True)],
        "data": base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode(),
    }
