"""Writing recordings: files that appear whole, one after the other, a day each at most."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worker.recording.files import UNFINISHED, Segment, folder_of
from worker.recording.parquet import SCHEMA, Columns

DAY_MS = 86_400_000


class PartitionWriter:
    """Writes the records of a partition into one file after the other.

    Args:
        begin: offset of the first record, or before it.
        size_bytes: files are finished when they are so large, and where a day ends.

    Attributes:
        finished: files that have appeared.
    """

    def __init__(self, root: Path, topic: str, partition: int, begin: int, size_bytes: int) -> None:
        self._root, self._topic, self._partition = root, topic, partition
        self._size_bytes = size_bytes
        self._file = Writer(root, topic, partition, begin)
        self.finished: list[Segment] = []

    def write(self, columns: Columns, end: int) -> None:
        """Append records that follow.

        Args:
            columns: see :data:`worker.recording.parquet.Columns`.
            end: offset to go on from.

        Raises:
            OSError: they cannot be written.
        """
        for day, part, part_end in _by_day(columns, end):
            if self._file.rows and part["offset"] and day > self._file.day:
                self.finish()
            self._file.write(part, part_end)
            if self._file.size_bytes >= self._size_bytes:
                self.finish()

    def finish(self) -> None:
        """Let what was written appear; what follows goes into a new file.

        Raises:
            OSError: it cannot be written.
        """
        segment = self._file.finish()
        if segment is not None:
            self.finished.append(segment)
            self._file = Writer(self._root, self._topic, self._partition, segment.end)

    def discard(self) -> None:
        """Remove what has not appeared."""
        self._file.discard()


@dataclass
class Writer:
    """The file of one partition that is being written.

    Attributes:
        begin: first offset that it covers.
        end: offset to go on from, so far.
        rows: records in it.
        day: of its first record, days since 1970.
    """

    root: Path
    topic: str
    partition: int
    begin: int

    def __post_init__(self) -> None:
        self.end = self.begin
        self.rows = 0
        self.day = 0
        self._file: Any = None
        self._parquet: Any = None
        self._unfinished = Path()

    @property
    def size_bytes(self) -> int:
        """How large the file is so far."""
        return 0 if self._file is None else int(self._file.tell())

    def write(self, columns: Columns, end: int) -> None:
        """Append records that follow, as one row group.

        Args:
            columns: a list for each column of :data:`SCHEMA` but ``partition``.
            end: offset to go on from.

        Raises:
            OSError: it cannot be written.
        """
        rows = len(columns["offset"])
        if rows:
            if self._file is None:
                self._open(columns["timestamp"][0])
            arrays = {"partition": [self.partition] * rows, **columns}
            self._parquet.write_table(pa.Table.from_pydict(arrays, schema=SCHEMA))
        self.rows += rows
        self.end = end

    def finish(self) -> Segment | None:
        """Let the file appear, durably; None when it has no record.

        Raises:
            OSError: it cannot be written.
        """
        if self._file is None:
            return None
        self._parquet.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        name = f"{self.partition:05}-{self.begin:018}-{self.end:018}.parquet"
        path = self._unfinished.with_name(name)
        self._unfinished.rename(path)
        self._file = None
        _sync_folder(path.parent)
        return Segment(self.partition, self.begin, self.end, path)

    def discard(self) -> None:
        """Remove what was written."""
        if self._file is None:
            return
        # On a full disk closing fails as writing did.
        with suppress(OSError, ValueError, pa.ArrowException):
            self._parquet.close()
        with suppress(OSError):
            self._file.close()
        self._unfinished.unlink(missing_ok=True)
        self._file = None

    def _open(self, time_ms: int | None) -> None:
        moment = datetime.fromtimestamp((time_ms or 0) / 1000, UTC)
        self.day = (time_ms or 0) // DAY_MS
        folder = folder_of(self.root, self.topic) / f"date={moment:%Y-%m-%d}"
        folder.mkdir(parents=True, exist_ok=True)
        self._unfinished = folder / f"{self.partition:05}-{self.begin:018}{UNFINISHED}"
        self._file = self._unfinished.open("wb")
        self._parquet = pq.ParquetWriter(
            self._file,
            SCHEMA,
            compression="zstd",
            # Values are all different, and so are offsets.
            use_dictionary=["partition", "timestamp_type", "key"],
            column_encoding={"offset": "DELTA_BINARY_PACKED", "timestamp": "DELTA_BINARY_PACKED"},
        )


def _by_day(columns: Columns, end: int) -> Iterator[tuple[int, Columns, int]]:
    """Cut records where a day begins that none before had; each part with where it ends."""
    times = columns["timestamp"]
    if not times:
        yield 0, columns, end
        return
    days = np.maximum.accumulate(np.array([(t or 0) // DAY_MS for t in times]))
    cuts = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(times)]
    for begin, stop in pairwise(cuts):
        part = {name: column[begin:stop] for name, column in columns.items()}
        yield int(days[begin]), part, end if stop == len(times) else columns["offset"][stop]


def _sync_folder(folder: Path) -> None:
    """Make a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
