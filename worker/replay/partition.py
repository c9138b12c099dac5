"""One partition of a recording through the worker's own ``step``, from wherever its state is.

Owns the files that come of a partition. Whoever has its records in the order of offsets, in as
many stretches as they like, gets the same answers.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from worker.core.channels import ChannelSpec
from worker.core.events import Chunk
from worker.core.outgoing import Outputs
from worker.core.state import PartitionState
from worker.models.bundle import Bundle
from worker.pipelines import create_pipeline, state_limits
from worker.recording.parquet import chunk_of
from worker.replay.drift_windows import Keeper, Kept
from worker.replay.published import Published
from worker.replay.tables import SCORES, Answers, Told
from worker.settings import Settings


@dataclass(frozen=True)
class Source:
    """What is applied: a recorded topic, by a bundle and settings.

    Attributes:
        bundle: name, ``name/version`` or folder.
        messages: folder for what would have been published, as a recording of the streams;
            None: it is not kept.
        watches_drift: whether windows are also judged for drift.
    """

    root: Path
    topic: str
    bundle: str
    settings: Settings
    messages: Path | None = None
    watches_drift: bool = True


@dataclass
class Applied:
    """What came of one partition; ``path`` has its scores, a row for each record.

    ``kept`` is what drift is judged by.
    """

    partition: int
    path: Path
    records: int = 0
    scored: int = 0
    late: int = 0
    anomalies: int = 0
    dead: Counter[str] = field(default_factory=Counter)
    told: Told = field(default_factory=Told)
    kept: Kept | None = None


class _Origin(msgspec.Struct):
    offset: int


class _Late(msgspec.Struct):
    """What of a late event's message says which record it was."""

    machine_id: str
    timestamp: str
    origin: _Origin


class PartitionRun:
    """Applies a partition's records as they are given; a context manager for the file of scores.

    Args:
        folder: for the files.
        state: to go on from; None: fresh.

    Raises:
        ConfigError: a setting does not fit the bundle.
        OSError: a file cannot be written.
    """

    def __init__(
        self,
        bundle: Bundle,
        source: Source,
        folder: Path,
        partition: int,
        state: PartitionState | None = None,
    ) -> None:
        self._topic, self._partition = source.topic, partition
        self._pipeline = create_pipeline(source.settings, bundle)
        limits = state_limits(source.settings, bundle)
        self.state = PartitionState(bundle.spec, limits=limits) if state is None else state
        self._applied = Applied(partition, folder / f"{partition:05}.parquet")
        self._published = None
        if source.messages is not None:
            self._published = Published(source.messages, source.settings.topics, partition)
        self._keeper = None
        if source.watches_drift and bundle.reference is not None:
            partials = folder / f"{partition:05}.partials"
            self._keeper = Keeper(bundle, source.settings.drift, partition, partials)
        self._file = pq.ParquetWriter(self._applied.path, schema(), compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def take(self, batch: pa.RecordBatch) -> int:
        """Apply the next records, columns ``READ``; returns the offset to go on from."""
        chunk = chunk_of(self._topic, self._partition, batch)
        applied, published = self._applied, self._published
        outputs = self._pipeline.step(self.state, chunk, tells_anomalies=published is not None)
        table = _scores(self._pipeline.spec, chunk, outputs, applied.told)
        self._file.write_table(table.to_arrow())
        if self._keeper is not None:
            self._keeper.take(outputs)
        if published is not None:
            published.take(outputs.records, int(chunk.timestamps_ms[-1]))
        applied.records += outputs.events
        applied.scored += outputs.scored
        applied.late += outputs.late
        applied.anomalies += outputs.anomalies
        applied.dead.update(outputs.dead)
        return int(chunk.offsets[-1]) + 1

    def finish(self) -> Applied:
        """What came of it; its files are complete."""
        self._file.close()
        if self._published is not None:
            self._published.finish()
        if self._keeper is not None:
            self._applied.kept = self._keeper.finish()
        return self._applied


def _scores(spec: ChannelSpec, chunk: Chunk, outputs: Outputs, told: Told) -> pl.DataFrame:
    """A row for each record of the chunk; see ``SCORES``."""
    answers = Answers(spec, len(chunk), told)
    answers.take(np.arange(len(chunk)), outputs)
    machine_ids: list[bytes | None] = [None] * len(chunk)
    times: NDArray[np.int64] = np.full(len(chunk), np.iinfo(np.int64).min)
    for part in outputs.scored_events:
        rows = part.readings.rows
        for row, machine_id in zip(rows.tolist(), part.readings.machine_ids, strict=True):
            machine_ids[row] = machine_id
        times[rows] = part.readings.times_us
    for record in outputs.records:
        if record.stream == "late-events":
            late = msgspec.json.decode(record.value, type=_Late)
            row = int(np.searchsorted(chunk.offsets, late.origin.offset))
            machine_ids[row] = late.machine_id.encode()
            times[row] = np.datetime64(late.timestamp.rstrip("Z"), "us").astype(np.int64)
    # NumPy's "not a time" is the smallest number.
    moments = pl.Series("timestamp", times.view("datetime64[us]")).dt.replace_time_zone("UTC")
    ids = pl.Series("machine_id", machine_ids, dtype=pl.Binary).cast(pl.String)
    return pl.DataFrame([ids, moments]).hstack(answers.table()).select(list(SCORES))


def schema() -> pa.Schema:
    """Of the scores."""
    return pl.DataFrame(schema=SCORES).to_arrow().schema
