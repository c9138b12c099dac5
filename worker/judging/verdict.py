"""How alarms match what is known: the table of true episodes, and the figures of the summary.

Owns what counts as found, and which figures are given. An alarm is the opening of an episode; it is
true in a true episode of its machine, and that is found then. One that is open already tells nobody
anything: else a single alarm that never ends would find everything.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from worker.judging import intervals, matching
from worker.judging.truth import windows

US_PER_S = 1_000_000

TRUTH: dict[str, Any] = {
    "machine_id": pl.String,
    "begin": matching.MOMENT,
    "end": matching.MOMENT,
    "label": pl.String,
    "found": pl.Boolean,
    "delay_s": pl.Float64,
    "found_by_other": pl.Boolean,
    "delay_by_other_s": pl.Float64,
}


def truth_table(
    episodes: pl.DataFrame,
    alarms: pl.DataFrame,
    others: pl.DataFrame | None = None,
    tolerance_us: int = 0,
) -> pl.DataFrame:
    """A row for each true episode: whether and when it was found; see :data:`TRUTH`.

    The delay is from its begin to the first alarm in it; negative where that came before.

    Args:
        episodes: as ``truth.EPISODES``.
        alarms, others: of both sides, see ``matching.alarms``; the other's columns are null
            without.
        tolerance_us: how long before an episode, and before or after a point in time, an alarm
            counts.
    """
    found, delay_s = _found(episodes, alarms, tolerance_us)
    table = episodes.with_columns(found=found, delay_s=delay_s)
    if others is None:
        nothing = {
            name: pl.lit(None, TRUTH[name]) for name in ("found_by_other", "delay_by_other_s")
        }
        return table.with_columns(**nothing).select(list(TRUTH))
    found, delay_s = _found(episodes, others, tolerance_us)
    return table.with_columns(found_by_other=found, delay_by_other_s=delay_s).select(list(TRUTH))


def _found(
    episodes: pl.DataFrame, alarms: pl.DataFrame, tolerance_us: int
) -> tuple[pl.Series, pl.Series]:
    found = matching.matches(windows(episodes, tolerance_us), alarms)
    begins_us = episodes["begin"].dt.epoch("us").to_numpy()
    delay_s = np.where(found.met, (found.first_us - begins_us) / US_PER_S, np.nan)
    return pl.Series(found.met), pl.Series(delay_s).fill_nan(None)


def figures(
    table: pl.DataFrame, alarms: pl.DataFrame, machine_days: float, tolerance_us: int = 0
) -> dict[str, Any]:
    """Recall, precision, false alarms and delay, with their intervals.

    Args:
        table: from :func:`truth_table`, with the same alarms and tolerance.
        machine_days: for how long machines were watched.
    """
    right = int(matching.matches(alarms, windows(table, tolerance_us)).met.sum())
    found = int(table["found"].sum())
    false = len(alarms) - right
    delays_s = table["delay_s"].drop_nulls()
    return {
        "episodes": len(table),
        "found": found,
        "missed": len(table) - found,
        "recall": intervals.share(found, len(table)),
        "precision": intervals.share(right, len(alarms)),
        "true_alarms": right,
        "false_alarms": false,
        "false_alarms_per_machine_day": intervals.rate(false, machine_days),
        "delay_s": {
            "median": delays_s.median(),
            "p90": delays_s.quantile(0.9, "linear"),
        },
    }


def row_figures(scores: pl.DataFrame, labels: pl.Series) -> dict[str, float | None]:
    """Figures of single rows, of those that have a label.

    A row without a score is not abnormal; the areas under the curves are of rows with one. Null
    is what cannot be said, as of rows that are all alike.

    Args:
        scores: N rows with ``anomaly_score`` and ``is_anomaly``.
        labels: (N,) booleans or null.
    """
    from sklearn import metrics  # takes a second

    rows = scores.select("anomaly_score", "is_anomaly").with_columns(label=labels)
    rows = rows.filter(pl.col("label").is_not_null())
    scored = rows.drop_nulls("anomaly_score")
    abnormal, guess = scored["label"].to_numpy(), -scored["anomaly_score"].to_numpy()
    both = len(scored) > 0 and 0 < int(abnormal.sum()) < len(scored)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        rows["label"].to_numpy(),
        rows["is_anomaly"].to_numpy(),
        average="binary",
        zero_division=np.nan,
    )
    known = {
        "roc_auc": metrics.roc_auc_score(abnormal, guess) if both else np.nan,
        "pr_auc": metrics.average_precision_score(abnormal, guess) if both else np.nan,
        "precision": precision,
        "recall": recall,
        "f1": f1,
    }
    return {name: None if np.isnan(value) else float(value) for name, value in known.items()}


def compared(
    told: pl.DataFrame, other_told: pl.DataFrame, table: pl.DataFrame | None
) -> dict[str, Any]:
    """How many episodes both sides told of, and how many true ones each found.

    Args:
        told, other_told: from :func:`matching.told_spans`.
        table: from :func:`truth_table`; None: nothing is known.
    """
    shared = matching.shared_events(told, other_told)
    true_episodes = None
    if table is not None:
        this, other = table["found"], table["found_by_other"]
        true_episodes = {
            "both": int((this & other).sum()),
            "only_this": int((this & ~other).sum()),
            "only_other": int((~this & other).sum()),
            "neither": int((~this & ~other).sum()),
        }
    return {"episodes": shared._asdict(), "true_episodes": true_episodes}
