"""The window of a specification that has none: from how often machines report.

Owns the choice; what a window is for is :mod:`worker.core.windows`' business.
"""

from __future__ import annotations

import numpy as np

from worker.core.channels import US_PER_S, WindowSpec, format_duration
from worker.training.readings import MachineReadings

SAMPLES = 60
"""Readings that a window spans, unless that is more than a day."""
LEAST_SAMPLES = 12
PANES = 12
LONGEST_US = 24 * 3600 * US_PER_S
GRACE_US = 300 * US_PER_S


def interval_us(readings: MachineReadings) -> float | None:
    """Median over the machines of the median time between two of their readings.

    Readings of the same moment count as one. None where no machine has two moments.
    """
    medians = []
    for start, end in zip(readings.starts[:-1], readings.starts[1:], strict=True):
        gaps_us = np.diff(readings.times_us[start:end])
        if (gaps_us > 0).any():
            medians.append(np.median(gaps_us[gaps_us > 0]))
    return float(np.median(medians)) if medians else None


def window_for(readings: MachineReadings) -> WindowSpec:
    """A window of 60 readings, at most a day and at least 12 readings, in twelve panes.

    The grace is as long as a pane, or longer where panes are short: up to five minutes, but
    never longer than the window, so that a machine's state stays small.
    """
    sampled_us = interval_us(readings)
    if sampled_us is None:
        return WindowSpec()
    length_us = max(min(SAMPLES * sampled_us, LONGEST_US), LEAST_SAMPLES * sampled_us)
    pane_us = max(round(length_us / PANES / US_PER_S), 1) * US_PER_S
    grace_us = max(pane_us, min(GRACE_US, PANES * pane_us))
    return WindowSpec(
        length=format_duration(PANES * pane_us),
        pane=format_duration(pane_us),
        grace=format_duration(grace_us),
    )
