"""Readings of a recorded topic, for training: its events as a worker would decode them."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa

from worker.core.channels import ChannelSpec
from worker.core.errors import ConfigError
from worker.core.events import EventDecoder
from worker.recording.files import segments_of
from worker.recording.parquet import CHUNK_ROWS, READ, chunk_of, read_batches
from worker.training.readings import Recording


def read_recorded(root: Path, topic: str, spec: ChannelSpec) -> Recording:
    """The readings of a recorded topic, in the order of partitions and offsets.

    What a worker would not decode is left out, and it is said.

    Raises:
        ConfigError: it has no event of these channels.
        RecordingError: a file is damaged.
    """
    decoder = EventDecoder(spec)
    frames, left_out = [], 0
    for batch in read_batches(segments_of(root, topic), CHUNK_ROWS, READ):
        frames.append(_readings(decoder, spec, topic, batch))
        left_out += len(batch) - len(frames[-1])
    if not sum(map(len, frames)):
        raise ConfigError(
            f"--data: {root} has no event of topic {topic!r} with a machine, a time and one of the "
            f"channels {', '.join(c.name for c in spec.continuous)}."
        )
    notes = (f"records that are no events of these channels, left out: {left_out:,}",)
    return Recording(f"{root.name}, topic {topic}", pl.concat(frames), notes if left_out else ())


def _readings(
    decoder: EventDecoder, spec: ChannelSpec, topic: str, batch: pa.RecordBatch
) -> pl.DataFrame:
    readings, _ = decoder.decode(chunk_of(topic, 0, batch))
    others = {
        name: pl.Series([None if v is None else str(v) for v in values], dtype=pl.String)
        for name, values in (readings.categories | readings.codes).items()
    }
    return pl.DataFrame(
        {
            "machine_id": pl.Series([n.decode() for n in readings.machine_ids], dtype=pl.String),
            "timestamp": pl.Series(readings.times_us).cast(pl.Datetime("us", "UTC")),
            **{
                channel.name: pl.Series(readings.values[:, i]).fill_nan(None)
                for i, channel in enumerate(spec.continuous)
            },
            **others,
        }
    )
