"""What a backtest is worth: its answers against what is known and against another side's.

Owns which of the answers are judged by what; the judging itself is in ``worker/judging``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from worker.assets import asset_dir
from worker.core.channels import US_PER_S
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
        tolerance_us: how far from a point in time an alarm may be.
    """

    source: str
    known: truth.Known | None
    labels: pl.Series | None
    tolerance_us: int


@dataclass(frozen=True)
class Judgement:
    """What the facts say of a side.

    Attributes:
        table: a row for each true episode; see ``verdict.TRUTH``.
        figures: for ``summary.json``.
    """

    table: pl.DataFrame
    figures: dict[str, Any]
    notes: list[str] = field(default_factory=list)


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


def judge(facts: Facts, outcome: Outcome, other: Outcome | None = None) -> Judgement:
    """Hold a side's answers against the facts.

    Args:
        other: another side, whose finds are told beside.
    """
    scores = outcome.scores
    notes: list[str] = []
    by_row = None
    if facts.known is not None:
        machines = truth.machines_of(scores)
        known = truth.with_machine(facts.known, machines)
    if facts.known is None or facts.known.by_row:
        rows = scores.select("machine_id", "timestamp", "anomaly_score", "is_anomaly").collect()
        labels = truth.labels_of_rows(known, rows) if facts.labels is None else facts.labels
        episodes = truth.episodes_of_labels(rows, labels)
        by_row = verdict.row_figures(rows, labels)
        if unknown := labels.null_count():
            notes.append(f"rows without a label, not judged by row: {unknown:,}")
    else:
        episodes, notes = truth.placed(known, machines, facts.tolerance_us)
        if points := int((episodes["begin"] == episodes["end"]).sum()):
            hours = facts.tolerance_us / US_PER_S / 3600
            notes.append(f"points in time, found by an alarm within {hours:g} h: {points:,}")
    alarms = matching.alarms(outcome.episodes, scores)
    others = None if other is None else matching.alarms(other.episodes, other.scores)
    table = verdict.truth_table(episodes, alarms, others, facts.tolerance_us)
    figures = {
        "source": facts.source,
        **verdict.figures(table, alarms, outcome.summary["machine_days"], facts.tolerance_us),
        "rows": by_row,
    }
    return Judgement(table, figures, notes)


def compare(this: Outcome, other: Outcome, judgement: Judgement | None) -> dict[str, Any]:
    """What both sides told of, and what each found of what is known."""
    told = [matching.told_spans(outcome.episodes) for outcome in (this, other)]
    return verdict.compared(told[0], told[1], None if judgement is None else judgement.table)
