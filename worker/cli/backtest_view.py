"""What a backtest prints: its summary as tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

NONE = "-"
JUDGED = {
    "recall": "recall",
    "precision": "precision",
    "false_alarms_per_machine_day": "false alarms",
}
"""Columns of a sweep where something is known."""


def tables(summary: dict[str, Any]) -> Iterator[Table]:
    """The tables of a summary, in the order in which they are printed."""
    yield _side(summary)
    if "truth" in summary:
        yield _truth(summary["truth"])
    if "against" in summary:
        yield _against(summary["model"], summary["against"])
    if "sweep" in summary:
        yield _sweep(summary["sweep"])
    if "gate" in summary:
        yield _gate(summary["gate"])


def _side(summary: dict[str, Any]) -> Table:
    table = Table(title=f"{summary['model']} on {summary['data']}", show_header=False)
    rate = summary["episodes_per_machine_day"]
    threshold = summary["threshold"]
    health = ", ".join(f"{count} {kind}" for kind, count in summary["health"].items())
    rows = {
        "readings": f"{summary['rows']:,}",
        "not scored": f"{summary['not_scored']:,}",
        "machines": f"{summary['machines']:,}",
        "machine-days": f"{summary['machine_days']:,.1f}",
        "anomalous readings": f"{summary['anomalies']:,} ({summary['anomaly_share']:.3%})",
        "episodes": f"{summary['episodes']:,}, {summary['episodes_open']:,} open at the end",
        "episodes per machine and day": "none" if rate is None else f"{rate:.4g}",
        "budget of false ones" if threshold is None else "pinned threshold": (
            f"{summary['budget']:g}" if threshold is None else f"{threshold:g}"
        ),
        "sensor health": health or "nothing",
        "readings per second": f"{summary['rows_per_second']:,}",
    }
    return _filled(table, rows)


def _truth(truth: dict[str, Any]) -> Table:
    table = Table(title=f"what is known: {truth['source']}", show_header=False)
    alarms = truth["true_alarms"] + truth["false_alarms"]
    rows = {
        "true episodes found": f"{truth['found']:,} of {truth['episodes']:,}",
        "recall": interval(truth["recall"]),
        "true alarms": f"{truth['true_alarms']:,} of {alarms:,}",
        "precision": interval(truth["precision"]),
        "false alarms per machine and day": interval(truth["false_alarms_per_machine_day"]),
        "delay, median": seconds(truth["delay_s"]["median"]),
        "delay of 90 %": seconds(truth["delay_s"]["p90"]),
    }
    for name, value in (truth["rows"] or {}).items():
        rows[f"by row: {name}"] = _value(value)
    return _filled(table, rows)


def _against(model: str, against: dict[str, Any]) -> Table:
    other = "other settings" if against["what"] == "settings" else against["model"]
    table = Table(title=f"{model} against {other}")
    for name in ("", "both", "only this", "only the other", "neither"):
        table.add_column(name, justify="left" if not name else "right")
    for name, key in (("episodes", "episodes"), ("true episodes", "true_episodes")):
        counts = against[key]
        if counts is not None:
            keys = ("both", "only_this", "only_other", "neither")
            table.add_row(name, *(f"{counts[k]:,}" if k in counts else NONE for k in keys))
    return table


def _sweep(sweep: dict[str, Any]) -> Table:
    table = Table(title=f"{sweep['key']}; alarms per machine and day")
    known = any(point["recall"] is not None for point in sweep["points"])
    names = JUDGED if known else {}
    for name in (sweep["key"], "episodes", "alarms", *names.values()):
        table.add_column(name, justify="right")
    for point in sweep["points"]:
        rate = point["episodes_per_machine_day"]
        table.add_row(
            f"{point['value']:g}",
            f"{point['episodes']:,}",
            _value(rate),
            *(_value(point[name]["value"]) for name in names),
        )
    return table


def _gate(gate: dict[str, Any]) -> Table:
    table = Table(title="passed" if gate["passed"] else "failed")
    for name in ("fails if", "it is", ""):
        table.add_column(name, justify="right" if name == "it is" else "left")
    for one in gate["conditions"]:
        verdict = "failed" if one["failed"] else "passed"
        table.add_row(one["text"], f"{one['value']:.4g}", verdict)
    return table


def _value(value: float | None) -> str:
    return NONE if value is None else f"{value:.3g}"


def interval(found: dict[str, float | None]) -> str:
    """Such as ``0.85 (0.72 to 0.93)``."""
    if found["value"] is None:
        return NONE
    return f"{found['value']:.3g} ({found['low']:.3g} to {found['high']:.3g})"


def seconds(duration_s: float | None) -> str:
    """Such as ``90 s`` or ``2.5 h``."""
    if duration_s is None:
        return NONE
    for unit, size_s in (("d", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if abs(duration_s) >= 2 * size_s:
            return f"{duration_s / size_s:.3g} {unit}"
    return f"{duration_s:.3g} s"


def _filled(table: Table, rows: dict[str, str]) -> Table:
    for name, value in rows.items():
        table.add_row(name, value)
    return table
