"""The part of a report on drift: events as a table, windows of the fleet as charts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from worker.core.channels import US_PER_S, format_duration
from worker.core.drift import FLEET
from worker.replay.drift_page import ADVICE
from worker.report.results import Drift
from worker.report.verdict import count

UNSEEN = ("blind", "sparse")
"""Verdicts of windows that could not be judged."""
LISTED = 12
NAMED = 5
BARS = 600
"""Windows of one length in a chart; of more, neighbours are shown as one that drifted most."""


def drift_sentence(counts: Mapping[str, int]) -> str:
    """What was found, from the summary's counts."""
    requests = counts["retraining_requests"]
    asked = f"asked for {count(requests, 'time')}" if requests else "not asked for"
    return (
        f"{counts['windows_with_drift']:,} of {count(counts['windows'], 'window')} differ from the "
        f"training; {count(counts['events'], 'drift event')}, {counts['events_open']:,} still open "
        f"at the end; retraining was {asked}."
    )


def drift_events(drift: Drift) -> list[dict[str, Any]]:
    """The first drift events, for the template."""
    return [
        {
            "group": row["group"],
            "kind": row["kind"],
            "began": _minute(row["began_at"]),
            "told": _minute(row["opened_at"]),
            "closed": "still open" if row["closed_at"] is None else _minute(row["closed_at"]),
            "score": f"{row['score']:.2f}",
            "features": row["features"][:NAMED],
            "machines": row["machines"][:NAMED],
            "advice": ADVICE.get(row["advice"], ""),
        }
        for row in drift.events.sort("opened_at").head(LISTED).iter_rows(named=True)
    ]


def drift_charts(drift: Drift) -> list[dict[str, Any]]:
    """The fleet's windows that were judged, of each length, for the page's script.

    Times are in seconds of the epoch.
    """
    judged = ~pl.col("verdict").is_in(UNSEEN)
    fleet = drift.windows.filter(pl.col("group") == FLEET, judged).sort("window_s", "start")
    charts = []
    for (window_s,), own in fleet.group_by("window_s", maintain_order=True):
        together = pl.int_range(pl.len()) // max(1, -(-len(own) // BARS))
        bars = (
            own.group_by(together.alias("bar"), maintain_order=True)
            .agg(
                pl.col("start").min().dt.epoch("us") / US_PER_S,
                pl.col("end").max().dt.epoch("us") / US_PER_S,
                pl.col("score").fill_nan(None).max(),
                drift=(pl.col("verdict") == "drift").any(),
            )
            .drop("bar")
        )
        name = format_duration(round(float(str(window_s)) * US_PER_S))
        charts.append({"window": name, **bars.to_dict(as_series=False)})
    return charts


def _minute(moment: Any) -> str:
    text: str = moment.strftime("%Y-%m-%d %H:%M")
    return text
