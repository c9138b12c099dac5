"""Which machines and channels a report shows, and in which order.

Owns what is worst: a machine with true episodes that were missed, then one with most episodes,
then one with most abnormal readings.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import polars as pl

from worker.core.channels import ChannelSpec
from worker.report.results import Results
from worker.report.timelines import MOST_CHANNELS, Stretch, Wanted

COUNTS = ("episodes", "other_episodes", "true", "missed")


def machines_of(results: Results) -> pl.DataFrame:
    """A row for each machine, the worst first.

    Returns:
        Columns ``machine_id``, ``start`` and ``end`` (UTC), ``scored``, ``anomalies`` and those
        of ``COUNTS``.
    """
    machines = _machines(results.this.scores)
    truth = results.truth
    counted = {
        "episodes": results.this.episodes,
        "other_episodes": None if results.other is None else results.other.episodes,
        "true": truth,
        "missed": None if truth is None else truth.filter(~pl.col("found")),
    }
    for name, table in counted.items():
        if table is None:
            machines = machines.with_columns(pl.lit(0, pl.UInt32).alias(name))
            continue
        counts = table.drop_nulls("machine_id").group_by("machine_id").agg(pl.len().alias(name))
        machines = machines.join(counts, on="machine_id", how="left")
    abnormal = pl.col("anomalies") / pl.col("scored").clip(1)
    return (
        machines.with_columns(pl.col(COUNTS).fill_null(0))
        .with_columns(told=pl.max_horizontal("episodes", "other_episodes"), abnormal=abnormal)
        .sort("missed", "told", "abnormal", "machine_id", descending=[True, True, True, False])
        .drop("told", "abnormal")
    )


def wanted(results: Results, machines: pl.DataFrame, spec: ChannelSpec) -> list[Wanted]:
    """What is shown of some machines."""
    names = [channel.name for channel in spec.continuous]
    episodes = results.this.episodes
    usual = Counter(episodes["top_channels"].explode().drop_nulls().to_list())
    by_machine = {key[0]: own for key, own in episodes.group_by("machine_id")}
    found = []
    for row in machines.iter_rows(named=True):
        own = by_machine.get(row["machine_id"], episodes.clear())
        mine = Counter(own["top_channels"].explode().drop_nulls().to_list())
        order = sorted(range(len(names)), key=lambda c: (-mine[names[c]], -usual[names[c]], c))
        end_us = _us(row["end"])
        found.append(
            Wanted(
                machine_id=row["machine_id"],
                start_us=_us(row["start"]),
                end_us=end_us,
                focus=tuple(_focus(results, row["machine_id"], end_us)),
                channels=tuple(order[:MOST_CHANNELS]),
            )
        )
    return found


def _machines(scores: Path) -> pl.DataFrame:
    return (
        pl.scan_parquet(scores)
        .select("machine_id", "timestamp", "anomaly_score", "is_anomaly")
        .drop_nulls(["machine_id", "timestamp"])
        .group_by("machine_id")
        .agg(
            start=pl.col("timestamp").min(),
            end=pl.col("timestamp").max(),
            scored=pl.col("anomaly_score").count(),
            anomalies=pl.col("is_anomaly").sum(),
        )
        .collect(engine="streaming")
    )


def _focus(results: Results, machine_id: str, end_us: int) -> list[Stretch]:
    """When something was told of a machine, or was true of it."""
    tables = [(results.this.episodes, "opened_at", "closed_at")]
    if results.other is not None:
        tables.append((results.other.episodes, "opened_at", "closed_at"))
    if results.truth is not None:
        tables.append((results.truth, "begin", "end"))
    found = []
    for table, begin, end in tables:
        own = table.filter(pl.col("machine_id") == machine_id).select(
            pl.col(begin).dt.epoch("us"), pl.col(end).dt.epoch("us").fill_null(end_us)
        )
        found += [(int(a), int(b)) for a, b in own.iter_rows()]
    return found


def _us(moment: object) -> int:
    found: int = pl.Series([moment], dtype=pl.Datetime("us", "UTC")).dt.epoch("us").item()
    return found
