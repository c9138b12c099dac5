"""What a backtest is worth: its answers against what is known and against another side's.

Owns which of the answers are judged by what; the judging itself is in ``worker/judging``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from worker.assets import asset_dir
from worker.core.channels import format_duration
from worker.judging import matching, truth, verdict
from worker.models.bundle import find_bundle
from worker.models.manifest import read_manifest
from worker.replay.sides import Data, Outcome, Side, column_of


@dataclass(frozen=True)
class Facts:
    """What is known of some data, before they are judged.

    Attributes:
        source: where it is from, for people.
        known: of a file; None: the data have labels themselves.
        labels: (N,) of the data's rows; None: of a file.
        tolerance_us: how long before an episode, and before or after a point in time, an alarm
            counts.
    """

    source: str
    known: truth.Known | None
    labels: pl.Series | None
    tolerance_us: int


@dataclass(frozen=True)
class Truth:
    """What is known of what was judged; it is the same for every side.

    Attributes:
        episodes: see ``truth.EPISODES``.
        labels: (N,) of the rows; null: episodes are all that is known.
        notes: what a person should know about them, a sentence each.
    """

    source: str
    episodes: pl.DataFrame
    labels: pl.Series | None
    tolerance_us: int
    notes: tuple[str, ...]


def facts_of(path: Path | None, column: str | None, data: Data, side: Side) -> Facts | None:
    """Read what is known, from a file or from a column of the data; None: nothing was named.

    Raises:
        ConfigError: it cannot be read.
    """
    if column is not None:
        labels = truth.require_labels(column_of(data, column), "--truth-column")
        return Facts(f"column {column}", None, labels, 0)
    if path is None:
        return None
    known = truth.read_truth(path)
    spec = read_manifest(find_bundle(side.model, asset_dir("models")))[1]
    return Facts(known.source, known, None, 0 if known.by_row else spec.length_us)


def truth_of(facts: Facts, outcome: Outcome) -> Truth:
    """Hold what is known against the rows that a side judged.

    Raises:
        ConfigError: a file names no machine, and there are several.
    """
    labels, known = facts.labels, None
    if facts.known is not None:
        machines = truth.machines_of(outcome.scores)
        known = truth.with_machine(facts.known, machines)
        if not facts.known.by_row:
            episodes, notes = truth.placed(known, machines, facts.tolerance_us)
            before = format_duration(facts.tolerance_us)
            notes.append(f"alarms count from {before} before a true episode on")
            if points := int((episodes["begin"] == episodes["end"]).sum()):
                notes.append(
                    f"true episodes that are points in time, and until {before} after: {points:,}"
                )
            return Truth(facts.source, episodes, None, facts.tolerance_us, tuple(notes))
    rows = outcome.scores.select("machine_id", "timestamp").collect()
    if known is not None:
        labels = truth.labels_of_rows(known, rows)
    assert labels is not None
    unknown = labels.null_count()
    notes = [f"rows without a label, not judged: {unknown:,}"] if unknown else []
    episodes = truth.episodes_of_labels(rows, labels)
    return Truth(facts.source, episodes, labels, facts.tolerance_us, tuple(notes))


def judge(
    known: Truth, outcome: Outcome, other: Outcome | None = None
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Hold a side's episodes against the true ones.

    Args:
        other: another side, whose finds are told beside.

    Returns:
        A row for each true episode, see ``verdict.TRUTH``, and the figures.
    """
    alarms = matching.alarms(outcome.episodes)
    others = None if other is None else matching.alarms(other.episodes)
    table = verdict.truth_table(known.episodes, alarms, others, known.tolerance_us)
    days = outcome.summary["machine_days"]
    return table, verdict.figures(table, alarms, days, known.tolerance_us)


def row_figures(known: Truth, outcome: Outcome) -> dict[str, float | None] | None:
    """Figures of single rows; None: they have no labels."""
    if known.labels is None:
        return None
    rows = outcome.scores.select("anomaly_score", "is_anomaly").collect()
    return verdict.row_figures(rows, known.labels)


def compare(this: Outcome, other: Outcome, table: pl.DataFrame | None) -> dict[str, Any]:
    """What both sides told of, and what each found of the true episodes of a table."""
    told = [matching.told_spans(outcome.episodes) for outcome in (this, other)]
    return verdict.compared(told[0], told[1], table)
