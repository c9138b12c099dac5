"""Series whose drift is known: AR(1), and what is done to a window of them.

Needs NumPy and SciPy alone, because the libraries that are compared run it in environments of
their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.signal import lfilter

SETTLING_ROWS = 2000
FIRST_SEED = 1_000_000
"""Weights, the reserve and what phi is raised by were chosen on series of seeds below 30,000;
what is printed is of others."""
APART_ROWS = 2000
"""Between the reference and the first window, and between windows."""
SHORT = (5_000, (60, 600))
LONG = (50_000, (6_000,))
"""Rows of a reference, and of the windows that are held against it."""
SHORT_WINDOWS = 3
"""Windows of each length that share one short reference; only the first is also changed."""
LONG_WINDOWS = 4
"""The same for a long reference."""
CHANGES = ("none", "shift", "variance", "shape", "correlation", "gradual", "missing", "category")
CATEGORIES = ("A", "B", "C")
USUAL = (0.5, 0.3, 0.2)
CHANGED = (0.3, 0.3, 0.4)


@dataclass(frozen=True)
class Plan:
    """One kind of series.

    Attributes:
        phi: correlation of a row with the next.
        reference_rows: of the reference.
        windows: rows of each kind of window.
        columns: how many series, independent of each other.
    """

    phi: float
    reference_rows: int
    windows: tuple[int, ...]
    columns: int

    @property
    def each(self) -> int:
        """Windows of each length that share one reference."""
        return LONG_WINDOWS if self.windows == LONG[1] else SHORT_WINDOWS

    def seeds(self, repetitions: int) -> range:
        """One for each reference, so that at least so many windows of a length are judged."""
        long = self.windows == LONG[1]
        references = -(-repetitions // LONG_WINDOWS) if long else repetitions
        return range(FIRST_SEED, FIRST_SEED + references)


def draw(plan: Plan, seed: int) -> tuple[Any, dict[int, list[Any]]]:
    """The reference (T, F) float32, and ``plan.each`` windows of every length."""
    rng = np.random.default_rng([seed, plan.reference_rows, plan.columns, round(plan.phi * 100)])
    lengths = [rows for rows in plan.windows for _ in range(plan.each)]
    total = plan.reference_rows + sum(lengths) + len(lengths) * APART_ROWS
    noise = rng.normal(size=(SETTLING_ROWS + total, plan.columns)) * np.sqrt(1.0 - plan.phi**2)
    rows = lfilter([1.0], [1.0, -plan.phi], noise, axis=0)[SETTLING_ROWS:].astype(np.float32)
    reference, at = rows[: plan.reference_rows], plan.reference_rows
    windows: dict[int, list[Any]] = {length: [] for length in plan.windows}
    for length in lengths:
        at += APART_ROWS
        windows[length].append(rows[at : at + length])
        at += length
    return reference, windows


def change(window: Any, what: str, seed: int) -> Any:
    """A copy (n, F) of a window with a change in its first column.

    shift: by one standard deviation; variance: half as much again in standard deviation; shape:
    lognormal with the same mean and variance; correlation: 0.8 with the second column, nothing
    else; gradual: from 0 to two standard deviations; missing: one in five.
    """
    changed = window.copy()
    first = changed[:, 0]
    if what == "shift":
        first += 1.0
    elif what == "variance":
        first *= 1.5
    elif what == "shape":
        # exp(x) of a standard normal x has mean exp(1/2) and variance (e - 1) e.
        first[:] = (np.exp(first) - np.exp(0.5)) / np.sqrt((np.e - 1.0) * np.e)
    elif what == "correlation":
        first[:] = 0.6 * first + 0.8 * changed[:, 1]
    elif what == "gradual":
        first += np.linspace(0.0, 2.0, len(first), dtype=np.float32)
    elif what == "missing":
        first[np.random.default_rng(seed).random(len(first)) < 0.2] = np.nan
    return changed


def categories(rows: int, shares: tuple[float, ...], seed: int) -> list[str]:
    """Independent categories, one a row."""
    found: list[str] = (
        np.random.default_rng([seed, rows]).choice(CATEGORIES, rows, p=shares).tolist()
    )
    return found
