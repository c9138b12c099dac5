"""When windows close, while partitions are not side by side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.core.drift.series import SECOND_US, autoregressive, gathered, learned
from worker.core.drift.windows import SETTLE_US, Windows

MINUTE_US = 60 * SECOND_US
LENGTH_US = 5 * MINUTE_US
ROWS = autoregressive(np.random.default_rng(3), 1800, 2, 0.0)
REFERENCE = learned(ROWS)
PARTS = gathered(REFERENCE, ROWS, MINUTE_US)
OTHER = [replace(part, partition=1) for part in PARTS]


def closed(windows: Windows) -> list[tuple[int, int]]:
    """Beginnings and rows of the windows that are complete."""
    return [(one.start_us // LENGTH_US, one.rows) for one in windows.close()]


def test_partitions_however_far_apart_are_in_the_same_windows() -> None:
    windows = Windows((LENGTH_US,), 0, MINUTE_US, partitions=2)
    for part in PARTS:
        windows.add(part, heard_us=1)
    assert closed(windows) == []
    for part in OTHER:
        windows.add(part, heard_us=2)
    assert closed(windows) == [(k, 600) for k in range(6)]


def test_a_partition_that_fell_silent_is_not_waited_for() -> None:
    windows = Windows((LENGTH_US,), 0, 2 * MINUTE_US, partitions=2)
    windows.add(OTHER[0], heard_us=0)
    for minute, part in enumerate(PARTS[:7]):
        windows.add(part, heard_us=min(minute, 2) * MINUTE_US)
    assert closed(windows) == []
    windows.add(PARTS[7], heard_us=2 * MINUTE_US + 1)
    assert closed(windows) == [(0, 360)]


def test_a_partition_that_never_sent_anything_is_soon_not_waited_for() -> None:
    windows = Windows((LENGTH_US,), 0, 60 * MINUTE_US, partitions=2)
    windows.add(PARTS[0], heard_us=50)
    windows.add(PARTS[5], heard_us=50 + SETTLE_US - 1)
    assert closed(windows) == []
    windows.add(PARTS[6], heard_us=50 + SETTLE_US)
    assert closed(windows) == [(0, 60)]


def test_it_waits_no_differently_after_a_restart() -> None:
    before = Windows((LENGTH_US,), 0, MINUTE_US, partitions=2)
    for part in PARTS:
        before.add(part, heard_us=1)
    after = Windows((LENGTH_US,), 0, MINUTE_US, partitions=2)
    after.restore(before.progress, before.open)
    for part in OTHER:
        after.add(part, heard_us=2)
    assert closed(after) == [(k, 600) for k in range(6)]
