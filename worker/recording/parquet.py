"""What a file of a recording holds, and reading it a part at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from worker.core.errors import RecordingError
from worker.core.events import Chunk
from worker.recording.files import Segment, first_line

SCHEMA = pa.schema(
    [
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("timestamp", pa.timestamp("ms", "UTC")),
        pa.field("timestamp_type", pa.dictionary(pa.int8(), pa.string())),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field(
            "headers",
            pa.list_(pa.struct([pa.field("key", pa.string()), pa.field("value", pa.binary())])),
        ),
    ]
)
"""Columns of a recording; ``timestamp_type`` is "create", "append" or null."""
FIELDS = tuple(name for name in SCHEMA.names if name != "partition")

READ = ("offset", "timestamp", "key", "value")
"""Those that :func:`chunk_of` takes."""
CHUNK_ROWS = 10_000
"""As many records at a time as a worker takes."""

Columns = dict[str, list[Any]]
"""A list for each of :data:`FIELDS`, as long as there are records."""


def read_batches(
    segments: Iterable[Segment], rows: int, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The records of files, in their order, so many at a time.

    Args:
        columns: those of ``SCHEMA`` that are read; default: all.

    Raises:
        RecordingError: a file is damaged or no recording.
    """
    for segment in segments:
        try:
            with pq.ParquetFile(segment.path) as file:
                if file.schema_arrow.names != SCHEMA.names:
                    raise RecordingError(
                        f"{segment.path} has other columns than a recording; leave only what "
                        "driftdetector record wrote in this folder."
                    )
                yield from file.iter_batches(rows, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise RecordingError(
                f"{segment.path} cannot be read: {first_line(error)}; restore it, or remove it "
                "and record its offsets again."
            ) from error


def chunk_of(topic: str, partition: int, batch: pa.RecordBatch) -> Chunk:
    """Records of a recording as the pipeline takes them; a missing timestamp counts as 0."""
    times = batch.column("timestamp").cast(pa.int64()).fill_null(0)
    return Chunk(
        topic=topic,
        partition=partition,
        offsets=batch.column("offset").to_numpy(),
        timestamps_ms=times.to_numpy(),
        keys=batch.column("key").to_pylist(),
        values=batch.column("value").to_pylist(),
    )
