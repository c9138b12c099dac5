"""What stands in the report as text and tables; the template only lays it out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from worker.report.drifted import LISTED, drift_events, drift_sentence
from worker.report.results import Results
from worker.report.verdict import (
    Interval,
    alarm_rate,
    count,
    duration,
    names_of,
    rate,
    share,
    verdict,
)

LISTED_EPISODES = 15
LISTED_TRUTH = 15
LISTED_CHANNELS = 12
BY_ROW = {
    "roc_auc": "ROC AUC",
    "pr_auc": "PR AUC",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
}
Row = dict[str, Any]


def content(results: Results, made: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The template's variables, but for the data of the charts."""
    summary = results.this.summary
    other = None if results.other is None else results.other.summary
    return {
        "model": summary["model"],
        "data": summary["data"],
        "start": _minute(summary["start"]),
        "end": _minute(summary["end"]),
        "same_model": other is not None and other["model"] == summary["model"],
        "names": None if other is None else names_of(summary, other),
        "verdict": verdict(summary, other),
        "gate": summary.get("gate"),
        "figures": figures(summary, other),
        "agreement": _agreement(summary) if other is not None else None,
        "sweep": _sweep(summary.get("sweep")),
        "causes": _causes(results),
        "episodes": _episodes(_gravest(results.this.episodes)),
        "alone": None if results.other is None else _alone(results),
        "episodes_left": max(len(results.this.episodes) - LISTED_EPISODES, 0),
        "truth": None if results.truth is None else _truth(results.truth),
        "truth_left": 0 if results.truth is None else max(len(results.truth) - LISTED_TRUTH, 0),
        "drift": None if results.drift is None else drift_sentence(summary["drift"]),
        "drift_events": [] if results.drift is None else drift_events(results.drift),
        "drift_events_left": max(summary["drift"]["events"] - LISTED, 0) if results.drift else 0,
        "quality": _quality(summary),
        "letters": summary.get("dead_letters") or {},
        "notes": summary["notes"],
        "made": made,
    }


def figures(summary: Mapping[str, Any], other: Mapping[str, Any] | None) -> list[Row]:
    """One row for each figure, with a value for each candidate."""
    sides = [summary] if other is None else [summary, other]
    truths = [side.get("truth") for side in sides]
    rows: list[tuple[str, list[str]]] = [
        ("episodes told", [f"{side['episodes']:,}" for side in sides]),
        ("alarms a machine and day", [rate(alarm_rate(side)) for side in sides]),
        (
            "abnormal readings",
            [f"{side['anomalies']:,} ({side['anomaly_share']:.3%})" for side in sides],
        ),
        ("budget or threshold", [_aim(side) for side in sides]),
    ]
    if all(truth is not None for truth in truths):
        known = [truth for truth in truths if truth is not None]
        rows += [
            ("true episodes found", [f"{one['found']:,} of {one['episodes']:,}" for one in known]),
            ("recall", [share(Interval.of(one["recall"])) for one in known]),
            ("precision", [share(Interval.of(one["precision"])) for one in known]),
            (
                "false alarms a machine and day",
                [rate(Interval.of(one["false_alarms_per_machine_day"])) for one in known],
            ),
            ("median delay", [duration(one["delay_s"]["median"]) for one in known]),
            ("delay of nine in ten, at most", [duration(one["delay_s"]["p90"]) for one in known]),
        ]
        if all(one["rows"] for one in known):
            rows += [
                (f"{name}, row by row", [_plain(one["rows"][key]) for one in known])
                for key, name in BY_ROW.items()
            ]
    return [{"name": name, "values": values} for name, values in rows]


def _aim(summary: Mapping[str, Any]) -> str:
    if summary["threshold"] is not None:
        return f"threshold {summary['threshold']:g}"
    return f"{summary['budget']:g} false ones a machine and day"


def _agreement(summary: Mapping[str, Any]) -> list[Row]:
    """Bars of what both found, one of them or none: of episodes, and of true ones."""
    against = summary["against"]
    kinds = [("Episodes told", against["episodes"])]
    if against.get("true_episodes"):
        kinds.append(("True episodes", against["true_episodes"]))
    found = []
    for name, counts in kinds:
        total = max(sum(counts.values()), 1)
        parts, at = [], 0.0
        for key in ("both", "only_this", "only_other", "neither"):
            if key in counts:
                width = 100.0 * counts[key] / total
                parts.append({"key": key, "n": counts[key], "x": at, "width": width})
                at += width
        found.append({"name": name, "parts": parts, "total": sum(counts.values())})
    return found


def _sweep(sweep: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not sweep:
        return None
    rows = [
        {
            "value": f"{point['value']:g}",
            "episodes": f"{point['episodes']:,}",
            "rate": _plain(point["episodes_per_machine_day"]),
            "recall": share(Interval.of(point.get("recall"))),
            "precision": share(Interval.of(point.get("precision"))),
            "false": rate(Interval.of(point.get("false_alarms_per_machine_day"))),
        }
        for point in sweep["points"]
    ]
    judged = any(point.get("recall") for point in sweep["points"])
    return {"key": sweep["key"], "rows": rows, "judged": judged}


def _causes(results: Results) -> list[Row]:
    """How often each channel contributed most to an episode, and how often at all."""
    lists = results.this.episodes["top_channels"].to_list()
    first = Counter(names[0] for names in lists if names)
    any_place = Counter(name for names in lists for name in set(names))
    ranked = sorted(any_place, key=lambda name: (-first[name], -any_place[name], name))
    total = max(len(lists), 1)
    return [
        {
            "name": name,
            "first": first[name],
            "all": any_place[name],
            "first_width": 100.0 * first[name] / total,
            "all_width": 100.0 * any_place[name] / total,
        }
        for name in ranked[:LISTED_CHANNELS]
    ]


def _gravest(episodes: pl.DataFrame) -> pl.DataFrame:
    """The gravest episodes, of these the longest first."""
    grave = pl.col("severity").replace_strict({"high": 0, "medium": 1}, default=2)
    open_last = pl.col("lasted").fill_null(2**62)
    return (
        episodes.with_columns(
            lasted=(pl.col("closed_at") - pl.col("opened_at")).dt.total_seconds(), grave=grave
        )
        .sort("grave", open_last, "opened_at", descending=[False, True, False])
        .head(LISTED_EPISODES)
    )


def _alone(results: Results) -> Row:
    """What only one of the candidates told of."""
    assert results.other is not None
    names = names_of(results.this.summary, results.other.summary)
    sides = zip(names, (results.this, results.other), strict=True)
    tables = [
        side.episodes.filter(~pl.col("both")).with_columns(by=pl.lit(name)) for name, side in sides
    ]
    table = pl.concat(tables)
    left = max(len(table) - LISTED_EPISODES, 0)
    return {"episodes": _episodes(_gravest(table)), "left": left}


def _episodes(table: pl.DataFrame) -> list[Row]:
    """Rows of episodes; ``by`` says who told, if the table does."""
    return [
        {
            "machine": row["machine_id"],
            "opened": _moment(row["opened_at"]),
            "opened_us": _us(row["opened_at"]),
            "closed_us": None if row["closed_at"] is None else _us(row["closed_at"]),
            "lasted": "still open" if row["lasted"] is None else duration(row["lasted"]),
            "severity": row["severity"],
            "channels": row["top_channels"],
            "right": row["right"],
            "both": row["both"],
            "by": row.get("by"),
        }
        for row in table.iter_rows(named=True)
    ]


def _truth(truth: pl.DataFrame) -> list[Row]:
    """The true episodes, the missed ones first."""
    table = truth.sort("found", "begin", maintain_order=True).head(LISTED_TRUTH)
    both = "found_by_other" in table.columns and table["found_by_other"].null_count() < len(table)
    return [
        {
            "machine": row["machine_id"] or "",
            "begin": _moment(row["begin"]),
            "begin_us": _us(row["begin"]),
            "end_us": _us(row["end"]),
            "lasted": duration((row["end"] - row["begin"]).total_seconds()),
            "label": row["label"] or "",
            "found": _found(row["found"], row["delay_s"]),
            "other": _found(row["found_by_other"], row["delay_by_other_s"]) if both else None,
            "missed": not row["found"],
        }
        for row in table.iter_rows(named=True)
    ]


def _found(found: bool, delay_s: float | None) -> str:
    if not found:
        return "missed"
    return "found" if delay_s is None else f"found after {duration(delay_s)}"


def _quality(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("readings", f"{summary['rows']:,} of {count(summary['machines'], 'machine')}"),
        ("scored", f"{summary['scored']:,} ({summary['scored'] / max(summary['rows'], 1):.2%})"),
        ("not scored", f"{summary['not_scored']:,}"),
    ]
    if "late" in summary:
        rows.append(("late", f"{summary['late']:,}"))
        rows.append(("dead letters", f"{sum(summary['dead_letters'].values()):,}"))
    faults = ", ".join(f"{n:,} {kind}" for kind, n in summary["health"].items())
    rows.append(("faults of sensors", faults or "none"))
    if summary["warm_up"]:
        rows.append(("warm-up", summary["warm_up"]))
    return rows


def _plain(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _minute(text: str | None) -> str:
    """RFC 3339, to the minute."""
    return "nowhen" if text is None else f"{text[:10]} {text[11:16]} UTC"


def _moment(moment: Any) -> str:
    text: str = moment.strftime("%Y-%m-%d %H:%M")
    return text


def _us(moment: Any) -> int:
    return int(pl.Series([moment], dtype=pl.Datetime("us", "UTC")).dt.epoch("us").item())
