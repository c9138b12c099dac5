"""Labelled faults: when a machine is known to have been abnormal.

Owns judging budgets by them. Training learns nothing from labels; they only help to choose the
budget, and say what a bundle finds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from worker.core.errors import ConfigError
from worker.judging.matching import alarms, matches
from worker.judging.truth import MACHINE, read_truth, windows


@dataclass(frozen=True)
class Verdict:
    """What alarms found of labelled faults; what counts as found says ``worker/judging``.

    Attributes:
        labels: number of labelled faults.
        caught: how many of them were found.
        episodes: number of episodes, each with one alarm.
        false: how many of these alarms came in no labelled fault.
    """

    labels: int
    caught: int
    episodes: int
    false: int

    @property
    def f1(self) -> float:
        """Harmonic mean of the share of faults caught and the share of episodes that caught one."""
        if not self.caught:
            return 0.0
        recall = self.caught / self.labels
        precision = 1.0 - self.false / self.episodes
        return 2.0 * precision * recall / (precision + recall)


def read_labels(path: Path) -> pl.DataFrame:
    """Read faults from a CSV or Parquet file; see ``truth.EPISODES``.

    Raises:
        ConfigError: saying which column or row is wrong.
    """
    known = read_truth(path, "--labels")
    if known.by_row or known.frame[MACHINE].null_count():
        raise ConfigError(
            f"--labels: {path} needs the columns machine_id, begin and end, a row for each known "
            "fault."
        )
    return known.frame


def judge(labels: pl.DataFrame, episodes: pl.DataFrame, tolerance_us: int) -> Verdict:
    """Compare episodes with labelled faults.

    Args:
        labels: as :func:`read_labels` gives them.
        episodes: ``machine_id`` and ``opened_at`` (UTC datetimes).
        tolerance_us: how long before a fault, and before or after a point in time, an alarm counts.
    """
    told, faults = alarms(episodes), windows(labels, tolerance_us)
    return Verdict(
        labels=len(labels),
        caught=int(matches(faults, told).met.sum()),
        episodes=len(told),
        false=int((~matches(told, faults).met).sum()),
    )
