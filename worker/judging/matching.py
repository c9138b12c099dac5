"""Which spans of time meet: alarms and true episodes, the alarms of two sides.

A table of spans has ``machine_id``, ``begin`` and ``end`` (UTC datetimes); both moments belong to
the span. Spans of different machines never meet. Nothing here needs spans to be sorted or apart.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

MOMENT = pl.Datetime("us", "UTC")
LATEST_US = 2**62

Times = NDArray[np.int64]


class Matches(NamedTuple):
    """What of n spans meets spans of another table.

    Attributes:
        met: (n,) whether any does.
        first_us: (n,) since when, within the span: its begin where one lasted then already. 0 where
            none meets.
    """

    met: NDArray[np.bool_]
    first_us: Times


class Shared(NamedTuple):
    """Events that one or both of two sides told of."""

    both: int
    only_this: int
    only_other: int


def matches(spans: pl.DataFrame, others: pl.DataFrame) -> Matches:
    """Which of n spans meet one of ``others``, and since when."""
    met, first_us = np.zeros(len(spans), np.bool_), np.zeros(len(spans), np.int64)
    by_machine = {
        name: (np.sort(begins), np.sort(ends)) for name, _, begins, ends in _by_machine(others)
    }
    for name, rows, begins, ends in _by_machine(spans):
        if name not in by_machine:
            continue
        other_begins, other_ends = by_machine[name]
        # What ended before has begun before, so the difference of two counts is what meets.
        over = np.searchsorted(other_ends, begins, "left")
        met[rows] = np.searchsorted(other_begins, ends, "right") > over
        begun = np.searchsorted(other_begins, begins, "right")
        following = other_begins[np.minimum(begun, len(other_begins) - 1)]
        first_us[rows] = np.where(begun > over, begins, following)
    return Matches(met, np.where(met, first_us, 0))


def shared_events(this: pl.DataFrame, other: pl.DataFrame) -> Shared:
    """Count what two sides told of; spans that meet, of whichever side, are one event."""
    sides = pl.concat(
        [
            table.select("machine_id", "begin", "end", of_this=pl.lit(of_this))
            for table, of_this in ((this, True), (other, False))
        ]
    ).sort("machine_id", "begin", "end")
    until = pl.col("end").cum_max().shift(1).over("machine_id")
    events = (
        sides.with_columns(event=(until.is_null() | (pl.col("begin") > until)).cum_sum())
        .group_by("event")
        .agg(this=pl.col("of_this").any(), other=(~pl.col("of_this")).any())
    )
    both, only_this = (
        events.filter("this", condition).height for condition in (pl.col("other"), ~pl.col("other"))
    )
    return Shared(both, only_this, events.height - both - only_this)


def told_spans(episodes: pl.DataFrame) -> pl.DataFrame:
    """Episodes as they were told, from opening to close; one that is open has no end."""
    return episodes.select(
        "machine_id",
        begin="opened_at",
        end=pl.col("closed_at").fill_null(pl.from_epoch(pl.lit(LATEST_US), "us").cast(MOMENT)),
    )


def alarms(episodes: pl.DataFrame) -> pl.DataFrame:
    """The moments at which episodes opened: then a person is told, and only then."""
    return episodes.select("machine_id", begin="opened_at", end="opened_at")


def _by_machine(spans: pl.DataFrame) -> list[tuple[str, NDArray[np.int64], Times, Times]]:
    """Machine, rows, begins and ends (epoch microseconds) of each machine's spans."""
    grouped = (
        spans.select("machine_id", pl.col("begin", "end").dt.epoch("us"))
        .with_row_index("row")
        .group_by("machine_id")
        .agg("row", "begin", "end")
    )
    return [
        (name, *(np.asarray(column, np.int64) for column in columns))
        for name, *columns in grouped.iter_rows()
    ]
