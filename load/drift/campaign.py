"""Repetitions of DriftDetector's verdicts, and their rates with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np

from load.drift.series import (
    CATEGORIES,
    CHANGED,
    CHANGES,
    LONG,
    LONG_WINDOWS,
    SHORT,
    USUAL,
    Plan,
    categories,
    change,
    draw,
)
from worker.core.drift import Collector, Reference, learn_reference
from worker.core.drift.judge import judge

ALPHA = 0.01
SECOND_US = 1_000_000
PHIS = (0.0, 0.5, 0.9, 0.99)
COLUMNS = (5, 32)
Z95 = 1.96


@dataclass(frozen=True)
class Rate:
    """How often drift was said of ``count`` windows, with Wilson's 95 % interval."""

    found: int
    count: int

    @property
    def share(self) -> float:
        """Found of all."""
        return self.found / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson, JASA 1927."""
        n, p, z = self.count, self.share, Z95
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return max(middle - half, 0.0), min(middle + half, 1.0)


def plans() -> list[Plan]:
    """All kinds of series."""
    return [
        Plan(phi, rows, windows, columns)
        for rows, windows in (SHORT, LONG)
        for columns in COLUMNS
        for phi in PHIS
    ]


def learn(reference: Any, seed: int) -> Reference:
    """The reference of one machine that sends a row each second."""
    rows, columns = reference.shape
    return learn_reference(
        [f"f{f}" for f in range(columns)],
        [""] * columns,
        reference,
        np.arange(rows) * SECOND_US,
        np.zeros(rows, np.int64),
        SECOND_US,
        categories={"kind": categories(rows, USUAL, seed)},
        values={"kind": CATEGORIES},
        grouped=(),
    )


def verdict(reference: Reference, window: Any, kinds: list[str]) -> str:
    """What is said of a window."""
    rows = len(window)
    collector = Collector(reference.layout, 0, rows * SECOND_US)
    times = np.arange(rows) * SECOND_US
    machine = np.zeros(rows, np.int64)
    collector.add(times, machine, [b"m"], window, np.zeros(rows, np.bool_), {"kind": kinds})
    fleet = next(p for p in collector.take(1) if p.group == "fleet")
    return judge(reference, reference.groups["fleet"], fleet, ALPHA, 30).report.verdict


def repeat(plan: Plan, seed: int) -> dict[str, list[str]]:
    """The verdicts of one repetition, by length of the window and change."""
    rows, windows = draw(plan, seed)
    reference = learn(rows, seed)
    found: dict[str, list[str]] = {}
    for length, drawn in windows.items():
        changes = CHANGES if length >= 600 else ("none", "shift")
        for k, window in enumerate(drawn):
            # More windows without a change than with one: false alarms are rare.
            for what in changes if k == 0 else ("none",):
                shares = CHANGED if what == "category" else USUAL
                kinds = categories(length, shares, seed * LONG_WINDOWS + k + 10**6)
                said = verdict(reference, change(window, what, seed), kinds)
                found.setdefault(f"{length} {what}", []).append(said)
    return found


def run(
    plan: Plan, repetitions: int, workers: int, on_progress: Callable[[], None]
) -> dict[str, dict[str, int]]:
    """Count the verdicts of all repetitions of a plan."""
    counts: dict[str, dict[str, int]] = {}
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for one in pool.map(partial(repeat, plan), plan.seeds(repetitions)):
            on_progress()
            for name, said in one.items():
                own = counts.setdefault(name, {})
                for verdict_ in said:
                    own[verdict_] = own.get(verdict_, 0) + 1
    return counts


def alarms(counts: dict[str, int]) -> Rate:
    """Windows that are said to have changed: drift, or that readings are missing."""
    found = counts.get("drift", 0) + counts.get("health", 0)
    return Rate(found, sum(counts.values()))
