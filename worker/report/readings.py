"""The readings that scores were given for, read again a part at a time.

A report shows what the channels did beside what was said of them. The scores' file has a row for
each row or record of the data in the same order, so both are read side by side and neither is
ever in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from worker.core.channels import ChannelSpec
from worker.core.errors import ConfigError
from worker.core.features import mask_impossible
from worker.training.columns import numbers
from worker.training.readings import files_of, load_columns

PART_ROWS = 250_000
CHUNK_ROWS = 50_000
ANSWERS = ("anomaly_score", "threshold")
Floats = NDArray[np.float64]


class Part(NamedTuple):
    """Rows of the data that have a machine and a time.

    Attributes:
        machine_ids: (n,) text.
        times_us: (n,) epoch microseconds.
        answers: (n, 2) score and threshold, and (n, 4) with those of the other side; NaN: none.
        values: (n, C) readings of the continuous channels; NaN where missing or impossible.
    """

    machine_ids: pl.Series
    times_us: NDArray[np.int64]
    answers: Floats
    values: Floats


def read_parts(
    spec: ChannelSpec, data: Path, topic: str | None, scores: Sequence[Path]
) -> Iterator[Part]:
    """Read data and scores side by side, in the order of rows.

    Args:
        data: table, folder of tables, or recording.
        topic: of a recording; None: it is none.
        scores: of this side and of the other, if there is one.

    Raises:
        ConfigError: the data have another number of rows than the scores.
    """
    columns = ("machine_id", "timestamp", *ANSWERS)
    lazy = [pl.scan_parquet(path).select(columns) for path in scores]
    rows = [int(one.select(pl.len()).collect().item()) for one in lazy]
    start = 0
    for values in _of_tables(spec, data) if topic is None else _of_recording(spec, data, topic):
        told = [one.slice(start, len(values)).collect() for one in lazy]
        start += len(values)
        if any(len(one) != len(values) for one in told):
            break
        usable = (
            told[0]["machine_id"].is_not_null() & told[0]["timestamp"].is_not_null()
        ).arg_true()
        at = usable.to_numpy()
        frame = told[0][usable]
        answers = [one[name] for one in told for name in ANSWERS]
        yield Part(
            machine_ids=frame["machine_id"],
            times_us=frame["timestamp"].dt.epoch("us").to_numpy(),
            answers=np.column_stack([column.to_numpy()[at] for column in answers]),
            values=values[at],
        )
    if any(count != start for count in rows):
        raise ConfigError(
            f"{data} has not the rows that {' and '.join(map(str, scores))} were made from; "
            "run the backtest again."
        )


def _of_tables(spec: ChannelSpec, data: Path) -> Iterator[Floats]:
    """The readings of files of tables; of Parquet not even one file as a whole."""
    names = [channel.name for channel in spec.continuous]
    for file in files_of(data, "--data"):
        if file.name.lower().endswith(".parquet"):
            lazy = pl.scan_parquet(file).select(names)
            rows = int(lazy.select(pl.len()).collect().item())
            frames: Iterator[pl.DataFrame] = (
                lazy.slice(i, PART_ROWS).collect() for i in range(0, rows, PART_ROWS)
            )
        else:
            frames = iter(load_columns(file, names, "--data").iter_slices(PART_ROWS))
        for frame in frames:
            columns = [numbers(frame[name]) for name in names]
            yield mask_impossible(spec, np.array(pl.DataFrame(columns).to_numpy(), order="C"))


def _of_recording(spec: ChannelSpec, data: Path, topic: str) -> Iterator[Floats]:
    """The readings of records; NaN for what is no event."""
    # Imported here: a table needs no pyarrow.
    from worker.core.events import EventDecoder
    from worker.recording.files import segments_of
    from worker.recording.parquet import READ, chunk_of, read_batches

    decoder = EventDecoder(spec)
    for batch in read_batches(segments_of(data, topic), CHUNK_ROWS, READ):
        chunk = chunk_of(topic, 0, batch)
        readings, _ = decoder.decode(chunk)
        values = np.full((len(chunk), len(spec.continuous)), np.nan)
        values[readings.rows] = np.where(readings.impossible, np.nan, readings.values)
        yield values
