"""Labelled faults: when a machine is known to have been abnormal.

Owns reading them and judging episodes by them. Training learns nothing from labels; they only
help to choose the budget, and say what a bundle finds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from worker.core.errors import ConfigError
from worker.training.columns import ColumnError, names, times_us
from worker.training.readings import load_columns

COLUMNS = ("machine_id", "start", "end")


@dataclass(frozen=True)
class Verdict:
    """What episodes found of labelled faults.

    Attributes:
        labels: number of labelled faults.
        caught: how many of them an episode overlaps.
        episodes: number of episodes.
        false: how many of them overlap no labelled fault.
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
    """Read faults from a CSV or Parquet file with the columns machine_id, start and end.

    Returns:
        A row for each fault: ``machine_id`` text, ``start`` and ``end`` epoch microseconds;
        both moments belong to the fault.

    Raises:
        ConfigError: saying which column or row is wrong.
    """
    frame = load_columns(path, COLUMNS, "--labels")
    for name in COLUMNS:
        if name not in frame.columns:
            raise ConfigError(
                f"--labels: {path} has no column {name!r}; it needs machine_id, start and end, "
                "a row for each known fault."
            )
    columns = []
    for name in COLUMNS:
        try:
            column = names(frame[name]) if name == COLUMNS[0] else times_us(frame[name])[0]
        except ColumnError as error:
            raise ConfigError(
                f"--labels: {path}, row {error.row + 1}, {name}: {error.value!r} is not a moment "
                "between 1970 and 2100; write RFC 3339 with an offset."
            ) from error
        columns.append(column.alias(name))
    labels = pl.DataFrame(columns).with_row_index("row", offset=1)
    wrong = labels.filter(
        pl.any_horizontal(pl.col(*COLUMNS).is_null()) | (pl.col("end") < pl.col("start"))
    )
    if len(wrong):
        raise ConfigError(
            f"--labels: {path}, row {wrong['row'][0]}: each fault needs a machine_id, a start, and "
            "an end that is not before it."
        )
    if not len(labels):
        raise ConfigError(f"--labels: {path} has no rows; leave the option out without labels.")
    return labels.drop("row")


def judge(labels: pl.DataFrame, episodes: pl.DataFrame) -> Verdict:
    """Compare episodes with labelled faults.

    Args:
        labels: as :func:`read_labels` gives them.
        episodes: ``machine_id``, ``opened_at`` and ``closed_at`` (UTC datetimes); null while open.
    """
    spans = episodes.select(
        "machine_id",
        opened=pl.col("opened_at").dt.epoch("us"),
        closed=pl.col("closed_at").dt.epoch("us").fill_null(2**62),
    ).with_row_index("episode")
    pairs = (
        labels.with_row_index("label")
        .join(spans, on="machine_id")
        .filter((pl.col("opened") <= pl.col("end")) & (pl.col("closed") >= pl.col("start")))
    )
    return Verdict(
        labels=len(labels),
        caught=pairs["label"].n_unique(),
        episodes=len(spans),
        false=len(spans) - pairs["episode"].n_unique(),
    )
