"""Tables for people, and build/bench-drift.json for comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from load.drift.campaign import Rate, alarms
from load.drift.others import NAMES
from load.drift.series import CHANGES, Plan

WIDTH = 170
Counts = dict[str, dict[str, int]]


def _text(rate: Rate) -> str:
    low, high = rate.interval
    return f"{100 * rate.share:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def show(
    console: Console,
    results: list[tuple[Plan, Counts]],
    others: list[tuple[Plan, Counts]],
) -> None:
    """Print rates in percent, with 95 % intervals."""
    table = Table(title="DriftDetector: windows that raise an alarm, %, nominal 1 without change")
    for name in ("columns", "reference", "window", "phi", *CHANGES):
        table.add_column(name, justify="right")
    for plan, counts in results:
        for window in plan.windows:
            cells = []
            for what in CHANGES:
                own = counts.get(f"{window} {what}")
                cells.append("" if own is None else _text(alarms(own)) + _unseen(own))
            head = (f"{plan.columns}", f"{plan.reference_rows:,}", f"{window:,}", f"{plan.phi}")
            table.add_row(*head, *cells)
    console.print(table)
    if not others:
        return
    table = Table(title="The same windows by others, %: without change, then a shift of one sd")
    for name in ("columns", "reference", "window", "phi", "DriftDetector", *NAMES):
        table.add_column(name, justify="right")
    own_of = dict(results)
    for plan, found in others:
        for window in plan.windows:
            sides = [alarms(own_of[plan][f"{window} {what}"]) for what in ("none", "shift")]
            cells = [" / ".join(map(_text, sides))]
            for name in NAMES:
                both = (found[f"{window} {what}"] for what in ("none", "shift"))
                cells.append(" / ".join(_text(Rate(one[name], one["windows"])) for one in both))
            head = (f"{plan.columns}", f"{plan.reference_rows:,}", f"{window:,}", f"{plan.phi}")
            table.add_row(*head, *cells)
    console.print(table)


def show_cost(console: Console, cost: dict[str, float]) -> None:
    """Print what it costs."""
    table = Table(title="Cost, 32 columns")
    table.add_column("what")
    table.add_column("measured", justify="right")
    for name, value in cost.items():
        table.add_row(name, f"{value:,.2f}" if value < 1000 else f"{value:,.0f}")
    console.print(table)


def _unseen(counts: dict[str, int]) -> str:
    blind = counts.get("blind", 0)
    return f" ({blind} blind)" if blind else ""


def write(
    path: Path,
    results: list[tuple[Plan, Counts]],
    others: list[tuple[Plan, Counts]],
    cost: dict[str, float],
) -> None:
    """Write all counts."""
    content: dict[str, Any] = {
        "driftdetector": [
            {"plan": vars(plan) | {"windows": list(plan.windows)}, "verdicts": counts}
            for plan, counts in results
        ],
        "others": [
            {"plan": vars(plan) | {"windows": list(plan.windows)}, "alarms": found}
            for plan, found in others
        ],
        "names": list(NAMES),
        "cost": cost,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
