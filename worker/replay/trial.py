"""A whole backtest: one side over the data, judged by what is known, beside another side.

Owns the order of things, and which files the results folder has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.replay import judged
from worker.replay.sides import (
    SUMMARY,
    Data,
    Report,
    Side,
    make_folder,
    run_side,
    write_summary,
    writing,
)

AGAINST, TRUTH = "against", "truth.parquet"


@dataclass(frozen=True)
class Trial:
    """What is to be done.

    Attributes:
        out: the results folder.
        messages: of a recording: also keep what a worker would have published.
        against: another side.
        truth: file of what is known.
        truth_column: column of the data that says it instead.
    """

    data: Data
    side: Side
    out: Path
    messages: bool = False
    against: Side | None = None
    truth: Path | None = None
    truth_column: str | None = None


def run_trial(trial: Trial, progress: Callable[[str], Report]) -> dict[str, Any]:
    """Do it, and return what ``summary.json`` says.

    Args:
        progress: gives what is told how far a step is, by the step's name.

    Raises:
        DriftDetectorError: something that was given cannot be used.
    """
    out = trial.out
    make_folder(out)
    facts = judged.facts_of(trial.truth, trial.truth_column, trial.data, trial.side)
    kept = out / "messages" if trial.messages else None
    this = run_side(trial.data, trial.side, out, progress(f"scoring with {trial.side}"), kept)
    other = None
    if trial.against is not None:
        report = progress(f"scoring with {trial.against}")
        other = run_side(trial.data, trial.against, out / AGAINST, report)
    summary = this.summary
    judgement = None if facts is None else judged.judge(facts, this, other)
    if judgement is not None:
        summary["notes"] = [*summary["notes"], *judgement.notes]
        summary["truth"] = judgement.figures
        with writing(out):
            judgement.table.write_parquet(out / TRUTH)
    if facts is not None and other is not None:
        other.summary["truth"] = judged.judge(facts, other).figures
        with writing(out):
            write_summary(other.summary, out / AGAINST)
    if other is not None and trial.against is not None:
        summary["against"] = {
            "model": other.summary["model"],
            "what": trial.against.what(trial.side),
            **judged.compare(this, other, judgement),
            "summary": f"{AGAINST}/{SUMMARY}",
        }
    with writing(out):
        write_summary(summary, out)
    return summary
