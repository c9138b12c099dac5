"""What is known to have been abnormal: files of episodes or of labelled rows.

Owns how such a file is read, and how labels of rows become episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from worker.core.errors import ConfigError
from worker.judging.matching import MOMENT
from worker.training.columns import MISSING, ColumnError, names, times_us
from worker.training.readings import load_columns

MACHINE = "machine_id"
BEGINS = ("begin", "start", "from", "begin_at", "start_at", "started_at", "start_time", "opened_at")
POINTS = ("timestamp", "time", "at")
ENDS = ("end", "until", "to", "end_at", "ended_at", "end_time", "closed_at")
KINDS = ("label", "kind", "fault", "type")
YES, NO = ("1", "1.0", "true"), ("0", "0.0", "false")

EPISODES: dict[str, Any] = {
    MACHINE: pl.String,
    "begin": MOMENT,
    "end": MOMENT,
    "label": pl.String,
}
LABELS: dict[str, Any] = {MACHINE: pl.String, "timestamp": MOMENT, "label": pl.Boolean}


@dataclass(frozen=True)
class Known:
    """What a file says.

    Attributes:
        source: its name.
        frame: see :data:`EPISODES`, or :data:`LABELS` where it says of rows. A machine is null
            throughout where the file has no machines.
    """

    source: str
    frame: pl.DataFrame
    by_row: bool


class Placed(NamedTuple):
    """True episodes of machines and times that were judged; ``notes`` says what was not."""

    episodes: pl.DataFrame
    notes: list[str]


def read_truth(path: Path, option: str = "--truth") -> Known:
    """Read episodes, points in time or labels of rows from a CSV or Parquet file.

    Raises:
        ConfigError: saying which column or row is wrong.
    """
    frame = load_columns(path, None, option)
    begin = _one_of(frame, (*BEGINS, *POINTS))
    if begin is None:
        raise ConfigError(
            f"{option}: {path} has the columns {', '.join(frame.columns)}; it needs machine_id, "
            "begin and end, or machine_id, timestamp and a label that is 0 or 1."
        )
    if not len(frame):
        raise ConfigError(f"{option}: {path} has no rows; leave the option out without any.")
    reader = _Reader(frame, path, option)
    kind, end = _one_of(frame, KINDS), _one_of(frame, ENDS)
    machines = reader.machines()
    if begin in POINTS and end is None and kind is not None:
        labels = yes_or_no(frame[kind])
        if labels is not None:
            columns = [machines, reader.moments(begin, "timestamp"), labels.alias("label")]
            return Known(path.name, pl.DataFrame(columns, LABELS), by_row=True)
    label = pl.Series("label", [None] * len(frame), pl.String)
    columns = [
        machines,
        reader.moments(begin, "begin"),
        reader.moments(end or begin, "end"),
        label if kind is None else names(frame[kind]).alias("label"),
    ]
    episodes = pl.DataFrame(columns, EPISODES)
    before = (episodes["end"] < episodes["begin"]).arg_true()
    if len(before):
        raise ConfigError(f"{option}: {path}, row {before[0] + 1}: the end is before the begin.")
    return Known(path.name, episodes, by_row=False)


class _Reader:
    """Columns of one file."""

    def __init__(self, frame: pl.DataFrame, path: Path, option: str) -> None:
        self._frame, self._path, self._option = frame, path, option

    def machines(self) -> pl.Series:
        if MACHINE not in self._frame.columns:
            return pl.Series(MACHINE, [None] * len(self._frame), pl.String)
        return self._complete(names(self._frame[MACHINE]).alias(MACHINE))

    def moments(self, name: str, new: str) -> pl.Series:
        try:
            found = times_us(self._frame[name])[0]
        except ColumnError as error:
            where = f", row {error.row + 1}" if error.row >= 0 else ""
            raise ConfigError(
                f"{self._option}: {self._path}{where}, {name}: {error.value!r} is not a moment "
                "between 1970 and 2100; write RFC 3339 with an offset."
            ) from error
        return self._complete(found.cast(MOMENT).alias(name)).alias(new)

    def _complete(self, column: pl.Series) -> pl.Series:
        missing = column.is_null().arg_true()
        if len(missing):
            raise ConfigError(
                f"{self._option}: {self._path}, row {missing[0] + 1}: {column.name} is missing; "
                "write it, and for the end of a point in time its begin."
            )
        return column


def yes_or_no(column: pl.Series) -> pl.Series | None:
    """Labels 0 and 1, or true and false, as booleans, null where missing; None: it has others."""
    try:
        text = names(column).str.to_lowercase()
    except ColumnError:
        return None
    text = text.set(text.is_in(MISSING), None)
    labels = pl.DataFrame({"text": text}).select(
        pl.when(pl.col("text").is_in(YES))
        .then(statement=True)
        .when(pl.col("text").is_in(NO))
        .then(statement=False)
        .alias(column.name)
    )[column.name]
    return labels if labels.null_count() == text.null_count() else None


def require_labels(column: pl.Series, where: str) -> pl.Series:
    """The same of a column that has to have them.

    Raises:
        ConfigError: it has other values, or none.
    """
    labels = yes_or_no(column)
    if labels is None or labels.null_count() == len(labels):
        some = names(column).drop_nulls().unique().sort().head(3).to_list()
        seen = f"has such as {', '.join(map(repr, some))}" if some else "is empty"
        raise ConfigError(
            f"{where}: a label is 0 or 1, or true or false, but {column.name!r} {seen}."
        )
    return labels


def labels_of_rows(known: pl.DataFrame, scores: pl.DataFrame) -> pl.Series:
    """The labels of the rows of a backtest; null where there is none.

    Args:
        known: see :data:`LABELS`; of several for one moment, 1 counts.
        scores: N rows with ``machine_id`` and ``timestamp``.
    """
    latest = known.group_by(MACHINE, "timestamp").agg(pl.col("label").max())
    return scores.select(MACHINE, "timestamp").join(
        latest, on=[MACHINE, "timestamp"], how="left", maintain_order="left"
    )["label"]


def episodes_of_labels(scores: pl.DataFrame, labels: pl.Series) -> pl.DataFrame:
    """An episode for each run of rows of a machine, in the order of time, that are labelled so.

    It lasts from its first row to its last. Rows without label, machine or time do not count.
    """
    rows = (
        scores.select(MACHINE, "timestamp")
        .with_columns(label=labels)
        .drop_nulls()
        .sort(MACHINE, "timestamp", maintain_order=True)
    )
    return (
        rows.with_columns(run=pl.col("label").rle_id().over(MACHINE))
        .filter("label")
        .group_by(MACHINE, "run", maintain_order=True)
        .agg(begin=pl.col("timestamp").first(), end=pl.col("timestamp").last())
        .select(MACHINE, "begin", "end", label=pl.lit(None, pl.String))
    )


def machines_of(scores: pl.LazyFrame) -> pl.DataFrame:
    """A row for each machine of a backtest: ``machine_id``, its ``first`` and ``last`` moment."""
    return (
        scores.select(MACHINE, "timestamp")
        .drop_nulls()
        .group_by(MACHINE)
        .agg(first=pl.col("timestamp").min(), last=pl.col("timestamp").max())
        .collect()
    )


def with_machine(known: Known, machines: pl.DataFrame) -> pl.DataFrame:
    """What is known, under the only machine there is where the file has none.

    Args:
        machines: from :func:`machines_of`.

    Raises:
        ConfigError: there are several.
    """
    if not known.frame[MACHINE].null_count():
        return known.frame
    if len(machines) != 1:
        raise ConfigError(
            f"--truth: {known.source} has no column machine_id, and the data have "
            f"{len(machines):,} machines; say which one each row is of."
        )
    return known.frame.with_columns(pl.lit(machines[MACHINE][0]).alias(MACHINE))


def placed(known: pl.DataFrame, machines: pl.DataFrame, tolerance_us: int) -> Placed:
    """Leave out episodes of machines, or of times, of which nothing was judged.

    Args:
        known: see :data:`EPISODES`.
        machines: from :func:`machines_of`.
        tolerance_us: as in :func:`windows`.
    """
    rows = known.join(machines, on=MACHINE, how="left", maintain_order="left")
    meant = windows(rows, tolerance_us)
    judged = (meant["begin"] <= rows["last"]) & (meant["end"] >= rows["first"])
    notes = []
    for count, what in (
        (rows["first"].null_count(), "of machines that the data do not have"),
        ((~judged).sum(), "before or after the machine's readings"),
    ):
        if count:
            notes.append(f"true episodes {what}, left out: {count:,}")
    return Placed(known.filter(judged), notes)


def windows(episodes: pl.DataFrame, tolerance_us: int) -> pl.DataFrame:
    """The spans in which an alarm counts: somewhat before an episode too, and after a point."""
    margin = pl.duration(microseconds=tolerance_us)
    point = pl.col("begin") == pl.col("end")
    return episodes.select(
        MACHINE,
        begin=pl.col("begin") - margin,
        end=pl.when(point).then(pl.col("end") + margin).otherwise("end"),
    )


def _one_of(frame: pl.DataFrame, wanted: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in frame.columns), None)
