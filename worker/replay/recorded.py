"""What a worker would have said of a recorded topic: every record through its own ``step``.

Owns feeding the files of each partition through the pipeline that the settings ask for, from
fresh state, in the order of offsets, so that what comes out is what a worker would have published,
byte for byte. Partitions do not know of each other, so each may have a process of its own.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from worker.assets import asset_dir
from worker.core.errors import ConfigError
from worker.models.bundle import Bundle, load_bundle
from worker.recording.files import Segment, segments_of
from worker.recording.parquet import CHUNK_ROWS, READ, read_batches
from worker.replay.backtest import DAY_US, decision_of, differences, text_of
from worker.replay.drift_windows import Drifts, judge_drift
from worker.replay.engine import Engine, Spark
from worker.replay.partition import Applied, PartitionRun, Source
from worker.replay.published import Published
from worker.replay.tables import Told

POLL_S = 0.2
_progress: Any = None
"""Records done by each partition, in memory that processes share."""
_bundle: Bundle
"""Of a process that applies partitions, opened once."""


def apply_recording(
    bundle: Bundle,
    source: Source,
    scores: Path,
    processes: int,
    on_progress: Callable[[int, int], None] = lambda done, size: None,
) -> list[Applied]:
    """Apply each partition of a recording from fresh state.

    Args:
        bundle: the source's; other processes open it again.
        scores: folder for a file of scores for each partition.
        processes: at most so many at a time.
        on_progress: told how many offsets are done, and of how many.

    Raises:
        ConfigError: there is nothing recorded, or a setting does not fit the bundle.
        RecordingError: a file is damaged, or cannot be written.
    """
    segments = segments_of(source.root, source.topic)
    if not segments:
        raise ConfigError(f"{source.root} has no records of topic {source.topic!r}.")
    by_partition: dict[int, list[Segment]] = {}
    for segment in segments:
        by_partition.setdefault(segment.partition, []).append(segment)
    size = sum(segment.end - segment.begin for segment in segments)
    processes = min(processes, len(by_partition))

    def report(done: int) -> None:
        on_progress(done, size)

    if processes == 1:
        found = _apply_here(bundle, source, scores, by_partition, report)
    else:
        found = _apply_side_by_side(source, scores, by_partition, processes, report)
    on_progress(size, size)
    return sorted(found, key=lambda one: one.partition)


def _apply_here(
    bundle: Bundle,
    source: Source,
    scores: Path,
    by_partition: Mapping[int, list[Segment]],
    on_progress: Callable[[int], None],
) -> list[Applied]:
    """One partition after the other, which spares a small recording the start of processes."""
    found, before = [], 0
    for partition, own in by_partition.items():
        report = partial(_report_from, on_progress, before)
        found.append(apply_partition(bundle, source, scores, partition, own, report))
        before += sum(segment.end - segment.begin for segment in own)
    return found


def _report_from(on_progress: Callable[[int], None], before: int, done: int) -> None:
    on_progress(before + done)


def _apply_side_by_side(
    source: Source,
    scores: Path,
    by_partition: Mapping[int, list[Segment]],
    processes: int,
    on_progress: Callable[[int], None],
) -> list[Applied]:
    context = multiprocessing.get_context("spawn")
    shared = context.Array("q", len(by_partition), lock=False)
    # The longest first: what is left at the end is short.
    places = {partition: place for place, partition in enumerate(by_partition)}
    longest = sorted(by_partition, key=lambda p: -sum(s.end - s.begin for s in by_partition[p]))
    own = (shared, source)
    with ProcessPoolExecutor(processes, context, initializer=_begin, initargs=own) as pool:
        running = [
            pool.submit(_apply_shared, source, scores, p, by_partition[p], places[p])
            for p in longest
        ]
        while wait(running, POLL_S, FIRST_EXCEPTION).not_done:
            on_progress(sum(shared))
            if any(one.done() and one.exception() for one in running):
                break
        pool.shutdown(cancel_futures=True)
        return [future.result() for future in running if not future.cancelled()]


def _begin(progress: Any, source: Source) -> None:
    global _progress, _bundle
    _progress, _bundle = progress, _open(source)


def _open(source: Source) -> Bundle:
    return load_bundle(source.bundle, asset_dir("models"), threads=1)


def apply_partition(
    bundle: Bundle,
    source: Source,
    scores: Path,
    partition: int,
    segments: Sequence[Segment],
    on_progress: Callable[[int], None],
) -> Applied:
    """Apply one partition of a recording; see :func:`apply_recording`.

    Args:
        on_progress: told how many of its offsets are done.
    """
    with PartitionRun(bundle, source, scores, partition) as run:
        for batch in read_batches(segments, CHUNK_ROWS, READ):
            on_progress(run.take(batch) - segments[0].begin)
        return run.finish()


def _apply_shared(
    source: Source, scores: Path, partition: int, segments: Sequence[Segment], place: int
) -> Applied:
    def report(done: int) -> None:
        _progress[place] = done

    return apply_partition(_bundle, source, scores, partition, segments, report)


@dataclass(frozen=True)
class Result:
    """What came of a whole recording; see :class:`worker.replay.backtest.Backtest`.

    The scores are in a file, for there may be more than fit in memory.
    """

    episodes: pl.DataFrame
    health: pl.DataFrame
    drift: Drifts | None
    summary: dict[str, Any]


def backtest_recording(
    source: Source,
    scores: Path,
    engine: Engine,
    on_progress: Callable[[int, int], None] = lambda done, size: None,
) -> Result:
    """Apply a recording and write its scores; see :func:`apply_recording`.

    Args:
        scores: file for the scores, in the order of partitions and offsets.
        engine: what applies it.

    Raises:
        BundleError: the bundle is refused.
        OSError: the scores cannot be written.
    """
    begun_s = time.perf_counter()
    bundle = _open(source)
    with tempfile.TemporaryDirectory(dir=scores.parent, prefix=".scores-") as folder:
        if isinstance(engine, Spark):
            from worker.replay.spark import apply_on_spark  # an extra of its own

            parts = apply_on_spark(bundle, source, engine, Path(folder), on_progress)
        else:
            parts = apply_recording(bundle, source, Path(folder), engine, on_progress)
        drift = _drift_of(bundle, source, parts)
        seconds = time.perf_counter() - begun_s
        together = pl.scan_parquet([part.path for part in parts])
        together.sink_parquet(scores, maintain_order=True)
    told = Told()
    for part in parts:
        told.join(part.told)
    episodes, health = told.episodes(), told.health()
    machines = _machines(scores)
    typical_us = machines["typical_us"].drop_nulls().to_numpy()
    interval_us = float(np.median(typical_us)) if len(typical_us) else None
    records = sum(part.records for part in parts)
    scored = sum(part.scored for part in parts)
    anomalies = sum(part.anomalies for part in parts)
    dead = sum((part.dead for part in parts), Counter[str]())
    # A machine with a single moment was watched for as long as others between two.
    typical = pl.col("typical_us").fill_null(interval_us or 0.0)
    days = machines.select((pl.col("moments") * typical).sum()).item() / DAY_US
    summary = {
        "model": bundle.model_version,
        "data": f"{source.root.name}, topic {source.topic}",
        "warm_up": None,
        "notes": differences(bundle, machines["machine_id"], interval_us),
        "rows": records,
        "scored": scored,
        "not_scored": records - scored,
        "late": sum(part.late for part in parts),
        "dead_letters": dict(sorted(dead.items())),
        "machines": len(machines),
        "start": text_of(machines["start"].min()),
        "end": text_of(machines["end"].max()),
        "anomalies": anomalies,
        "anomaly_share": anomalies / max(scored, 1),
        "machine_days": days,
        "episodes": len(episodes),
        "episodes_open": episodes["closed_at"].null_count(),
        "episodes_per_machine_day": len(episodes) / days if days else None,
        **decision_of(source.settings, bundle),
        "health": dict(sorted(health["kind"].value_counts().iter_rows())),
        "drift": None if drift is None else drift.summary,
        "seconds": round(seconds, 3),
        "rows_per_second": round(records / max(seconds, 1e-9)),
    }
    return Result(episodes, health, drift, summary)


def _drift_of(bundle: Bundle, source: Source, parts: Sequence[Applied]) -> Drifts | None:
    """Judge the windows of all partitions together."""
    kept = [part.kept for part in parts if part.kept is not None]
    if not kept:
        return None
    drift = judge_drift(bundle, source.settings.drift, kept)
    if source.messages is not None and drift.records:
        # A worker's topics have a group's messages where its name hashes to; here is one partition.
        published = Published(source.messages, source.settings.topics, 0)
        published.take(drift.records, max(one.end_ms for one in kept))
        published.finish()
    return drift


def _machines(scores: Path) -> pl.DataFrame:
    """A row for each machine: its span, how many moments it has, and the median between two."""
    gaps_us = pl.col("timestamp").unique().sort().diff().dt.total_microseconds()
    return (
        pl.scan_parquet(scores)
        .select("machine_id", "timestamp")
        .drop_nulls()
        .group_by("machine_id")
        .agg(
            start=pl.col("timestamp").min(),
            end=pl.col("timestamp").max(),
            moments=pl.col("timestamp").n_unique(),
            typical_us=gaps_us.median(),
        )
        .sort("machine_id")
        .collect()
    )
