"""Series with known drift, and what the monitor makes of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from worker.core.drift import Collector, Partial, Reference, WindowReport, learn_reference
from worker.core.drift.judge import judge

SECOND_US = 1_000_000


def autoregressive(
    rng: np.random.Generator, rows: int, columns: int, phi: float
) -> NDArray[np.float32]:
    """AR(1) series (rows, columns) of variance one."""
    noise = rng.normal(size=(rows + 1000, columns)) * np.sqrt(1.0 - phi**2)
    series: NDArray[np.float32] = lfilter([1.0], [1.0, -phi], noise, axis=0)[1000:].astype("f4")
    return series


def names(columns: int) -> list[str]:
    return [f"f{i}" for i in range(columns)]


def learned(rows: NDArray[np.float32], interval_us: int = SECOND_US) -> Reference:
    """The reference of one machine, a row each second."""
    n, columns = rows.shape
    times = np.arange(n) * interval_us
    return learn_reference(
        names(columns), ["mm"] * columns, rows, times, np.zeros(n, np.int64), interval_us
    )


def gathered(
    reference: Reference, rows: NDArray[np.float32], pane_us: int, start_us: int = 0
) -> list[Partial]:
    """Partials of one machine's rows, a row each second."""
    collector = Collector(reference.layout, 0, pane_us)
    n = len(rows)
    times = start_us + np.arange(n) * SECOND_US
    collector.add(times, np.zeros(n, np.int64), [b"press-1"], rows, np.zeros(n, np.bool_), {})
    return collector.take(n)


def judged(reference: Reference, window: NDArray[np.float32]) -> WindowReport:
    """What is said of a window of one machine, at a level of 1 %."""
    (partial,) = gathered(reference, window, len(window) * SECOND_US)
    return judge(reference, reference.groups["fleet"], partial, 0.01, 30).report
