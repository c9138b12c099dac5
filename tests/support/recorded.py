"""Recordings as ``driftdetector record`` would have written them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from worker.recording.writing import PartitionWriter

FILE_BYTES = 2**30


def keep(
    root: Path,
    topic: str,
    partition: int,
    sent: Sequence[tuple[bytes | None, bytes | None, int]],
    first: int = 0,
) -> None:
    """Write records, each a key, a value and Kafka's milliseconds, from an offset on."""
    offsets = range(first, first + len(sent))
    writer = PartitionWriter(root, topic, partition, first, FILE_BYTES)
    columns = {
        "offset": list(offsets),
        "timestamp": [time_ms for _, _, time_ms in sent],
        "timestamp_type": ["append"] * len(sent),
        "key": [key for key, _, _ in sent],
        "value": [value for _, value, _ in sent],
        "headers": [None] * len(sent),
    }
    writer.write(columns, offsets.stop)
    writer.finish()
