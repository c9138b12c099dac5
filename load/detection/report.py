"""Tables for people, and build/bench-detection.json for comparisons."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from load.detection.campaign import Result, as_row
from load.detection.metrics import gap

HEADLINES = {
    "ai4i-half": {"roc_auc": "roc_auc", "pr_auc": "pr_auc"},
    "ai4i-whole": {"roc_auc": "roc_auc", "pr_auc": "pr_auc"},
    "skab": {"f1": "f1", "far_pct": "far_pct", "mar_pct": "mar_pct"},
    "nab": {"nab_swept_score": "swept_score", "nab_score": "budget_score"},
    "fleet": {
        "false_of_budget_ratio": "false_of_budget_ratio",
        "recall": "caught_ratio",
    },
    "simulator": {
        "recall": "caught_ratio",
        "right_channel_1": "right_channel_first_ratio",
        "false_per_machine_day": "false_episodes_per_machine_day",
        "accuracy_pct": "accuracy_pct",
        "roc_auc": "roc_auc",
    },
}
"""Of each set, what its goals are about, and how the file calls it."""

WIDTH = 180
"""Columns of the widest table; where the terminal has fewer, lines wrap."""

_ROWS = {
    "roc_auc": ("ROC", ".3f"),
    "pr_auc": ("PR", ".3f"),
    "f1": ("F1", ".3f"),
    "far_pct": ("FAR %", ".1f"),
    "mar_pct": ("MAR %", ".1f"),
    "accuracy_pct": ("acc. %", ".2f"),
    "nab_swept_score": ("NAB swept", ".1f"),
    "nab_score": ("NAB budget", ".1f"),
}
_EVENTS = {
    "events": ("events", "d"),
    "caught": ("caught", "d"),
    "precision": ("precision", ".2f"),
    "delay_min": ("delay min", ".0f"),
    "episodes": ("episodes", "d"),
    "false_episodes": ("false", "d"),
    "false_per_machine_day": ("a machine-day", ".4f"),
    "false_of_budget_ratio": ("of budget", ".2f"),
    "right_channel_1": ("right 1st", ".2f"),
    "right_channel_3": ("in 3", ".2f"),
    "during_sensor_faults": ("by sensors", "d"),
    "sensor_faults_reported": ("sensors", "d"),
    "sensor_faults": ("of", "d"),
}


def show(results: Sequence[Result], product: str) -> None:
    """Print all tables; the halves of the research for the product only."""
    console = Console()
    console.width = max(console.width, WIDTH)
    shown = [r for r in results if r.role == "all" or r.detector == product]
    console.print(_table("single readings", _ROWS, shown))
    console.print(_table("events and episodes", _EVENTS, shown))
    own = [r for r in results if r.detector == product and r.role == "all"]
    for result in own:
        if result.slices:
            console.print(_slices(result))
        if len(result.kinds) > 1:
            console.print(_kinds(result))


def _table(title: str, columns: dict[str, tuple[str, str]], results: Sequence[Result]) -> Table:
    table = Table("set", "detector", "part", title=title)
    for heading, _ in columns.values():
        table.add_column(heading, justify="right")
    last = None
    for r in results:
        if last not in (None, r.group):
            table.add_section()
        last = r.group
        cells = [_cell(r.measures.get(key), form) for key, (_, form) in columns.items()]
        table.add_row(r.group, r.detector, r.role, *cells)
    return table


def _cell(value: float | None, form: str) -> str:
    if value is None:
        return ""
    return format(int(value) if form == "d" else value, form)


def _slices(result: Result) -> Table:
    table = Table("part", "readings", title=f"{result.group}: {result.detector} by part")
    shown = {key: _ROWS[key] for key in ("roc_auc", "pr_auc", "f1", "far_pct", "mar_pct")}
    for heading, _ in shown.values():
        table.add_column(heading, justify="right")
    for name, part in result.slices.items():
        cells = [_cell(part.get(key), form) for key, (_, form) in shown.items()]
        table.add_row(name, f"{part['rows']:,.0f}", *cells)
    gaps = [_cell(gap(result.slices, key), form) for key, (_, form) in shown.items()]
    table.add_section()
    table.add_row("gap", "", *gaps)
    return table


def _kinds(result: Result) -> Table:
    table = Table("kind", "caught", "of", title=f"{result.group}: {result.detector} by kind")
    for kind, (caught, total) in result.kinds.items():
        table.add_row(kind, str(caught), str(total))
    return table


def headlines(results: Sequence[Result], product: str) -> dict[str, float]:
    """The figures that the goals are about, by name with unit."""
    figures = {}
    for r in results:
        if r.detector != product or r.role != "all":
            continue
        wanted = HEADLINES[r.group if r.group in HEADLINES else r.group.split("-", 1)[0]]
        prefix = r.group.replace("-", "_").replace(".", "_")
        for key, name in wanted.items():
            if key in r.measures:
                figures[f"{prefix}_{name}"] = round(r.measures[key], 4)
    return figures


def write(results: Sequence[Result], product: str, path: Path) -> None:
    """Write the file: headlines of the product, and every result as a row."""
    document: dict[str, Any] = {
        **headlines(results, product),
        "rows": [as_row(result) for result in results],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
