"""What Spark runs where it likes: a first look at records, a machine's day, and files of a day.

Nothing here needs Spark itself; tables go in and out.
"""

from __future__ import annotations

import hashlib
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

from worker.core.changelog import StateReader
from worker.core.drift import Collector
from worker.core.errors import RecordingError
from worker.core.events import Chunk
from worker.core.outgoing import Outputs
from worker.core.pipeline import Pipeline
from worker.core.scoring import watched_part
from worker.models.bundle import Bundle, load_bundle
from worker.pipelines import create_pipeline, state_limits
from worker.replay.drift_windows import pane_us_of
from worker.replay.machines import Clock, follow, place
from worker.replay.partition import Applied, Source, chunk_of, scores_of
from worker.replay.tables import SCORES, Told

if TYPE_CHECKING:
    from pyspark import Broadcast

Batches = Iterator[pa.RecordBatch]

CARRIED = -1
"""In place of an offset: the row holds what is known of the machine from the days before."""
READ = (
    "partition",
    "offset",
    "unix_millis(timestamp) AS timestamp",
    "key",
    "value",
    "xxhash64(_metadata.file_path) AS file",
)
"""What is read of a recording."""
PLACED = (
    "partition int, offset long, timestamp long, key binary, value binary, "
    "machine string, garbage long, begin long, clock_us long, before_us long, marked boolean"
)
"""Records with what the first look tells of them; see :class:`worker.replay.machines.Placed`.
``machine`` is empty for what is no event, and ``garbage`` then names the stretch, else 0."""
GROUP = ("partition", "machine", "garbage")
CARRY = (
    "partition",
    f"{CARRIED}L AS offset",
    "0L AS timestamp",
    "CAST(NULL AS BINARY) AS key",
    "carried AS value",
    "machine",
    "garbage",
    "0L AS begin",
    "0L AS clock_us",
)
"""What is known of a machine after a day, as a record of the next one."""
RESULT = (
    "partition int, machine string, garbage long, applied binary, scores binary, "
    "watched array<struct<panes: long, content: binary>>, carried binary"
)
PANES = 32
"""So many panes of partials are made at once."""
PARTIALS = "partition int, group string, start_us long, content binary"
_SCORED = pa.schema(
    [
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("machine_id", pa.string()),
        pa.field("timestamp", pa.int64()),
        pa.field("anomaly_score", pa.float64()),
        pa.field("threshold", pa.float64()),
        pa.field("is_anomaly", pa.bool_()),
        pa.field("top_channels", pa.list_(pa.string())),
    ]
)
SCORED = (
    "partition int, offset long, machine_id string, timestamp long, anomaly_score double, "
    "threshold double, is_anomaly boolean, top_channels array<string>"
)
PACKED = "partition int, scores binary"
_opened: dict[str, tuple[Bundle, Pipeline]] = {}
"""What this process has opened, by the hash of the job."""


@dataclass(frozen=True)
class Job:
    """What is applied, with the bundle's files: they go to where the tasks run."""

    source: Source
    files: dict[str, bytes]
    digest: str

    @classmethod
    def of(cls, bundle: Bundle, source: Source) -> Job:
        """The job of applying a source by a bundle."""
        files = {path.name: path.read_bytes() for path in sorted(bundle.path.iterdir())}
        content = pickle.dumps((source.settings.model_dump_json(), files))
        return cls(source, files, hashlib.sha256(content).hexdigest())

    def open(self) -> tuple[Bundle, Pipeline]:
        """The bundle and the pipeline that the settings ask for, once a process."""
        if self.digest not in _opened:
            with tempfile.TemporaryDirectory(prefix="driftdetector-") as folder:
                for name, content in self.files.items():
                    (Path(folder) / name).write_bytes(content)
                bundle = load_bundle(folder, Path(folder), threads=1)
            _opened[self.digest] = bundle, create_pipeline(self.source.settings, bundle)
        return _opened[self.digest]


def placing(job: Broadcast[Job]) -> Callable[[Batches], Batches]:
    """The first look at records, columns ``READ``; gives ``PLACED``."""

    def task(batches: Batches) -> Batches:
        bundle, pipeline = job.value.open()
        for batch in batches:
            files = batch.column("file").to_numpy()
            ends = [*(np.flatnonzero(files[1:] != files[:-1]) + 1).tolist(), len(files)]
            begin = 0
            for end in ends:
                if end > begin:
                    yield _placed(job.value.source.topic, bundle, pipeline, batch[begin:end])
                begin = end

    return task


def _placed(
    topic: str, bundle: Bundle, pipeline: Pipeline, batch: pa.RecordBatch
) -> pa.RecordBatch:
    """A stretch of one file: consecutive records of a partition."""
    chunk = chunk_of(topic, batch.column("partition")[0].as_py(), batch)
    if (np.diff(chunk.offsets) <= 0).any():
        raise RecordingError(
            f"offsets of partition {chunk.partition} are not ascending in a file; leave only what "
            "driftdetector record wrote."
        )
    found = place(pipeline.decoder, chunk, bundle.spec.pane_us)
    n, begin = len(chunk), int(chunk.offsets[0])
    machines = ["" if name is None else name.decode() for name in found.machine_ids]
    columns = {name: batch.column(name) for name in ("partition", "offset")}
    columns |= {"timestamp": pa.array(chunk.timestamps_ms)}
    columns |= {name: batch.column(name) for name in ("key", "value")}
    columns |= {
        "machine": pa.array(machines, pa.string()),
        "garbage": pa.array([0 if name else begin + 1 for name in machines], pa.int64()),
        "begin": pa.array(np.full(n, begin)),
        "clock_us": pa.array(found.clocks_us),
        "before_us": pa.array(found.before_us),
        "marked": pa.array(found.marked),
    }
    return pa.RecordBatch.from_pydict(columns)


def applying(
    job: Broadcast[Job], clocks: Broadcast[Mapping[int, Clock]]
) -> Callable[[tuple[Any, ...], pd.DataFrame], pd.DataFrame]:
    """One day of a machine, or a stretch of what is no event; gives ``RESULT``."""

    def task(key: tuple[Any, ...], rows: pd.DataFrame) -> pd.DataFrame:
        partition, machine, garbage = key
        own = {"partition": partition, "machine": machine, "garbage": garbage}
        clock = clocks.value.get(int(partition))
        found = _carried_on(rows) if clock is None else _apply(job.value, clock, partition, rows)
        return pd.DataFrame([own | found])

    return task


def _carried_on(rows: pd.DataFrame) -> dict[str, Any]:
    """What comes of a day without any record of the partition."""
    return {"applied": None, "scores": None, "watched": [], "carried": rows["value"].iloc[0]}


def _apply(job: Job, clock: Clock, partition: int, rows: pd.DataFrame) -> dict[str, Any]:
    bundle, pipeline = job.open()
    source, spec = job.source, bundle.spec
    rows = rows.sort_values("offset", ignore_index=True)
    reader = StateReader(spec, state_limits(source.settings, bundle))
    if rows["offset"].iloc[0] == CARRIED:
        known = pickle.loads(rows["value"].iloc[0])  # noqa: S301  # of our own tasks
        reader.read(known, range(len(known)))
        rows = rows.iloc[1:]
    state = reader.finish(0)
    chunk = Chunk(
        source.topic,
        int(partition),
        rows["offset"].to_numpy(np.int64),
        rows["timestamp"].to_numpy(np.int64),
        rows["key"].tolist(),
        rows["value"].tolist(),
        clock.at(rows["begin"].to_numpy(np.int64), rows["clock_us"].to_numpy(np.int64)),
    )
    applied = Applied(int(partition), Path())
    scores: list[pl.DataFrame] = []
    watched: list[tuple[int, bytes]] = []
    for part, outputs in follow(pipeline, state, chunk, clock):
        applied.count(outputs)
        applied.told.take(outputs)
        if len(part):
            table = scores_of(spec, part, outputs, Told())
            scores.append(table.with_columns(offset=pl.Series(part.offsets)))
        if source.watches_drift and bundle.reference is not None:
            watched += _watched(bundle, source, outputs)
    known = state.snapshot()
    return {
        "applied": pickle.dumps(applied),
        "scores": _scores(int(partition), pl.concat(scores)) if scores else None,
        "watched": watched,
        "carried": pickle.dumps(known) if known else None,
    }


def _watched(bundle: Bundle, source: Source, outputs: Outputs) -> Iterator[tuple[int, bytes]]:
    """What drift is judged by of a machine, some panes at a time; see ``WatchedPart``."""
    layout, pane_us = bundle.require_reference().layout, pane_us_of(source.settings.drift)
    for scored in outputs.scored_events:
        part = watched_part(bundle.spec, scored, layout.stride_us)
        panes_of = part.times_us // (pane_us * PANES)
        for panes in np.unique(panes_of).tolist():
            at = np.flatnonzero(panes_of == panes)
            own = {
                name: [column[i] for i in at.tolist()] for name, column in part.categories.items()
            }
            (name,) = set(part.machine_ids.values())
            content = name, part.times_us[at], part.rows[at], part.anomalous[at], own
            yield panes, pickle.dumps(content)


def gathering(job: Broadcast[Job]) -> Callable[[tuple[Any, ...], pd.DataFrame], pd.DataFrame]:
    """Partials of some panes from what their machines were watched by: ``PARTIALS``."""

    def task(key: tuple[Any, ...], rows: pd.DataFrame) -> pd.DataFrame:
        bundle, _ = job.value.open()
        pane_us = pane_us_of(job.value.source.settings.drift)
        collector = Collector(bundle.require_reference().layout, int(key[0]), pane_us)
        parts = [pickle.loads(content) for content in rows["content"]]  # noqa: S301  # our own
        names, times_us, watched, anomalous, categories = zip(*parts, strict=True)
        known = sorted(set(names))
        place_of = {name: place for place, name in enumerate(known)}
        collector.add(
            np.concatenate(times_us),
            np.repeat([place_of[name] for name in names], list(map(len, times_us))),
            known,
            np.concatenate(watched),
            np.concatenate(anomalous),
            {
                channel: list(chain.from_iterable(own[channel] for own in categories))
                for channel in categories[0]
            },
        )
        found = [(key[0], p.group, p.start_us, p.to_bytes()) for p in collector.take(0)]
        return pd.DataFrame(found, columns=["partition", "group", "start_us", "content"])

    return task


def _scores(partition: int, table: pl.DataFrame) -> bytes:
    """Scores with their offsets, as ``_SCORED``."""
    table = table.with_columns(
        pl.col("timestamp").dt.epoch("us"), partition=pl.lit(partition, pl.Int32)
    )
    return _packed(table.select(_SCORED.names).to_arrow().cast(_SCORED))


def unpacking(batches: Batches) -> Batches:
    """Scores of machines, a row a record: ``SCORED``."""
    for batch in batches:
        for packed in batch.column("scores").to_pylist():
            with pa.ipc.open_stream(packed) as reader:
                yield from reader


def packing(batches: Batches) -> Batches:
    """Scores in the order of partitions and offsets, many to a row: ``PACKED``."""
    for batch in batches:
        for partition in batch.column("partition").unique().to_pylist():
            own = pa.Table.from_batches([batch]).filter(pa.compute.field("partition") == partition)
            yield pa.RecordBatch.from_pydict(
                {"partition": pa.array([partition], pa.int32()), "scores": [_packed(own)]},
                pa.schema([("partition", pa.int32()), ("scores", pa.binary())]),
            )


def scores_in(packed: bytes) -> pa.Table:
    """The scores of a row of ``PACKED``, as they are written."""
    table = pl.from_arrow(pa.ipc.open_stream(packed).read_all())
    assert isinstance(table, pl.DataFrame)  # of a table
    moments = pl.from_epoch("timestamp", "us").dt.replace_time_zone("UTC")
    return table.with_columns(moments).select(list(SCORES)).to_arrow()


def _packed(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed
