"""NAB's own rules of scoring, written from its paper.

Lavin and Ahmad, "Evaluating Real-time Anomaly Detection Algorithms - the Numenta Anomaly
Benchmark", ICMLA 2015. In each labelled window the earliest detection counts, the more the
earlier; each detection outside counts against, less so just after a window; a missed window counts
against. Detections in the probationary part are not scored. Sums are normalised so that no
detections at all give 0, and one at the first row of each window, and no other, gives 100.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from load.detection.public import NabTruth

WEIGHT_TRUE = 1.0
WEIGHT_FALSE = 0.11
WEIGHT_MISSED = 1.0
"""The standard profile."""
STEEPNESS = 5.0
FAR_POSITION = 3.0
"""This many widths behind a window a false detection counts in full."""


def weight(position: float) -> float:
    """The scaled sigmoid: 1 at far left, 0 at the window's right edge (0), then down to -1."""
    if position > FAR_POSITION:
        return -1.0
    return float(2.0 / (1.0 + np.exp(STEEPNESS * position)) - 1.0)


def raw_score(truth: NabTruth, detected: Iterable[int]) -> float:
    """The sum for one series.

    Args:
        detected: rows of the whole series at which something was detected.
    """
    rows = np.unique(np.array([row for row in detected if row >= truth.probation], np.int64))
    inside = np.zeros(len(rows), np.bool_)
    total = 0.0
    for first, last in truth.windows:
        width = last - first + 1
        hits = rows[(rows >= first) & (rows <= last)]
        inside |= (rows >= first) & (rows <= last)
        if last < truth.probation:
            continue
        if len(hits):
            total += WEIGHT_TRUE * weight(-(last - int(hits[0]) + 1) / width) / weight(-1.0)
        else:
            total -= WEIGHT_MISSED
    return total + WEIGHT_FALSE * sum(_false(truth, int(row)) for row in rows[~inside])


def _false(truth: NabTruth, row: int) -> float:
    """Weight of a detection outside of windows, by its distance to the one before."""
    before = [(first, last) for first, last in truth.windows if last < row]
    if not before:
        return -1.0
    first, last = before[-1]
    return weight((row - last) / max(last - first, 1))


def normalised_score(truths: Sequence[NabTruth], detected: Sequence[Iterable[int]]) -> float:
    """The score of many series together; 0 is the null detector's, 100 the perfect one's."""
    total = sum(map(raw_score, truths, detected))
    windows = sum(last >= truth.probation for truth in truths for _, last in truth.windows)
    null = -WEIGHT_MISSED * windows
    perfect = WEIGHT_TRUE * windows
    return 100.0 * (total - null) / (perfect - null)


def openings(scores: NDArray[np.float64], threshold: float, gap: int) -> list[int]:
    """Where runs of scores below a threshold begin; runs ``gap`` rows or less apart are one."""
    rows = np.flatnonzero(scores < threshold)
    first: list[int] = rows[np.diff(rows, prepend=-gap - 2) > gap + 1].tolist()
    return first
