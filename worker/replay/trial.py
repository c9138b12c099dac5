"""A whole backtest: one side over the data, judged by what is known, beside another side.

Owns the order of things, and which files the results folder has.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from worker.judging import gate
from worker.judging.gate import Condition
from worker.judging.sweep import Sweep, point
from worker.replay import judged
from worker.replay.judged import Truth
from worker.replay.sides import (
    DRIFT,
    FILES,
    SUMMARY,
    WINDOWS,
    Data,
    Outcome,
    Report,
    Side,
    Sides,
    make_folder,
    write_summary,
    writing,
)
from worker.settings import Settings

AGAINST, TRUTH, JUNIT = "against", "truth.parquet", "junit.xml"


@dataclass(frozen=True)
class Trial:
    """What is to be done.

    Attributes:
        out: the results folder.
        messages: of a recording: also keep what a worker would have published.
        against: another side.
        truth: file of what is known.
        truth_column: column of the data that says it instead.
        sweep: a setting to be tried with several values.
        swept: the settings with each of them.
        conditions: of which none may be met.
    """

    data: Data
    side: Side
    out: Path
    messages: bool = False
    against: Side | None = None
    truth: Path | None = None
    truth_column: str | None = None
    sweep: Sweep | None = None
    swept: Sequence[Settings] = ()
    conditions: Sequence[Condition] = ()


def run_trial(trial: Trial, progress: Callable[[str], Report]) -> dict[str, Any]:
    """Do it, and return what ``summary.json`` says.

    Args:
        progress: gives what is told how far a step is, by the step's name.

    Raises:
        DriftDetectorError: something that was given cannot be used.
    """
    several = trial.against is not None or trial.sweep is not None
    out, sides = trial.out, Sides(trial.data, several=several)
    given = {"truth": trial.truth or trial.truth_column, "against": trial.against}
    gate.require_options(trial.conditions, [name for name, what in given.items() if what])
    facts = judged.facts_of(trial.truth, trial.truth_column, trial.data, trial.side)
    make_folder(out)
    _clear(out)
    kept = out / "messages" if trial.messages else None
    this = sides.run(trial.side, out, progress(f"scoring with {trial.side.model}"), messages=kept)
    other = None
    if trial.against is not None:
        report = progress(f"scoring with {trial.against.model}")
        other = sides.run(trial.against, out / AGAINST, report)
    known = None if facts is None else judged.truth_of(facts, this)
    summary = this.summary
    with writing(out):
        summary |= _judged(trial, this, other, known)
        if trial.sweep is not None:
            summary["sweep"] = _swept(trial, trial.sweep, sides, known, progress)
        write_summary(summary, out)
        if trial.conditions:
            summary["gate"] = gate.judge(trial.conditions, summary)
            (out / JUNIT).write_bytes(gate.junit(summary["gate"]))
            write_summary(summary, out)
    return summary


def _clear(out: Path) -> None:
    """Take away what an earlier backtest left that this one may not write."""
    with writing(out):
        for name in (TRUTH, JUNIT, DRIFT, WINDOWS):
            (out / name).unlink(missing_ok=True)
        for name in (*FILES, SUMMARY):
            (out / AGAINST / name).unlink(missing_ok=True)
        if (out / AGAINST).is_dir() and not any((out / AGAINST).iterdir()):
            (out / AGAINST).rmdir()


def _judged(
    trial: Trial, this: Outcome, other: Outcome | None, known: Truth | None
) -> dict[str, Any]:
    """What the summary says of the truth and of the other side; writes the true episodes."""
    found: dict[str, Any] = {}
    table = None
    if known is not None:
        table, figures = judged.judge(known, this, other)
        table.write_parquet(trial.out / TRUTH)
        found["notes"] = [*this.summary["notes"], *known.notes]
        found["truth"] = _figures(known, this, figures)
    if known is not None and other is not None:
        other.summary["truth"] = _figures(known, other, judged.judge(known, other)[1])
        write_summary(other.summary, other.folder)
    if trial.against is not None and other is not None:
        found["against"] = {
            "model": other.summary["model"],
            "what": trial.against.what,
            **judged.compare(this, other, table),
            "summary": f"{AGAINST}/{SUMMARY}",
        }
    return found


def _figures(known: Truth, outcome: Outcome, figures: dict[str, Any]) -> dict[str, Any]:
    return {"source": known.source, **figures, "rows": judged.row_figures(known, outcome)}


def _swept(
    trial: Trial,
    sweep: Sweep,
    sides: Sides,
    known: Truth | None,
    progress: Callable[[str], Report],
) -> dict[str, Any]:
    """A backtest with each value: what is abnormal decides what is followed, so none is spared."""
    points = []
    for value, settings in zip(sweep.values, trial.swept, strict=True):
        with tempfile.TemporaryDirectory(dir=trial.out, prefix=".sweep-") as folder:
            side = replace(trial.side, settings=settings)
            report = progress(f"{sweep.key} {value:g}")
            outcome = sides.run(side, Path(folder), report, watches_drift=False)
            figures = None if known is None else judged.judge(known, outcome)[1]
            points.append(point(value, outcome.summary, figures))
    return {"key": sweep.key, "points": points}
