"""Files of others as recordings: CSV, JSON lines and Parquet, however their columns are laid out.

Three layouts are known: a row for each reading of a machine (``rows``), the same with a file for
each machine, which is named after it (``machine-files``), and a row for each value of a channel
(``long``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from polars.exceptions import PolarsError

from worker.core.errors import ConfigError
from worker.core.outgoing import partition_of
from worker.recording.files import Segment, segments_of, unwritable
from worker.recording.parquet import Columns
from worker.recording.writing import PartitionWriter
from worker.training.columns import ColumnError, channel_name, names, numbers, times_us
from worker.training.readings import KEYS, SIMULATION_START_US, load_columns

Layout = Literal["rows", "machine-files", "long"]
ENDINGS = (".csv", ".csv.gz", ".parquet", ".jsonl", ".ndjson")
ELSE = {
    "machine_id": ", or with --machine what all are of",
    "timestamp": ", or with --interval how far apart the rows are",
}
"""What else there is where a column is missing."""
GROUP_ROWS = 50_000
FILE_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Fields:
    """Where things stand in the files.

    Attributes:
        columns: the file's column for ``machine_id``, ``timestamp``, or a channel that has
            another name there. Other columns are channels of their own name.
        channel, value: in the layout ``long``, the columns of the channel's name and value.
        machine: of all readings, where the files do not say.
        interval_us: between readings of a machine, in the order of the files and of their rows,
            where they have no times; they begin in 2026.
    """

    layout: Layout = "rows"
    columns: Mapping[str, str] = field(default_factory=dict)
    channel: str = "channel"
    value: str = "value"
    machine: str | None = None
    interval_us: int | None = None


@dataclass(frozen=True)
class Imported:
    """What an import wrote; ``left_out``: rows without machine or time."""

    records: int
    machines: int
    left_out: int
    segments: tuple[Segment, ...]


def import_files(
    paths: Sequence[Path],
    fields: Fields,
    root: Path,
    topic: str,
    partitions: int = 1,
    on_progress: Callable[[int, int], None] = lambda done, size: None,
) -> Imported:
    """Write readings of files as a recording of events, in the order of time.

    Each reading becomes the event that a gateway would have sent then, keyed by its machine.

    Args:
        paths: files, or folders of them.
        root: folder of the recording; it must not have the topic yet.
        on_progress: told how many files are read, and of how many.

    Raises:
        ConfigError: naming file, column and row of what cannot be read.
        RecordingError: the folder cannot be written.
    """
    if segments_of(root, topic):
        raise ConfigError(f"--out: {root} has a recording of {topic!r} already; give another.")
    files = _files(paths)
    frames = []
    for done, file in enumerate(files):
        on_progress(done, len(files))
        frames.append(_readings(file, fields))
    on_progress(len(files), len(files))
    frame = _timed(pl.concat(frames, how="diagonal"), fields)
    usable = frame.drop_nulls(list(KEYS)).sort("timestamp", maintain_order=True)
    segments = _write(usable, root, topic, partitions)
    machines = usable["machine_id"].n_unique()
    return Imported(len(usable), machines, len(frame) - len(usable), segments)


def _files(paths: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        inside = path.is_dir()
        own = sorted(f for f in path.rglob("*") if f.name.lower().endswith(ENDINGS))
        if inside and not own:
            raise ConfigError(
                f"{path} has no file named {', '.join('*' + e for e in ENDINGS)}; give such files, "
                "or a folder of them."
            )
        found += own if inside else [path]
    return found


def _readings(file: Path, fields: Fields) -> pl.DataFrame:
    """A file's readings: machine_id, timestamp in microseconds, and a column a channel."""
    frame = _load(file)
    frame = _named(frame, file, fields)
    if fields.layout == "machine-files":
        frame = _of(file.name.partition(".")[0], frame)
    elif fields.machine is not None:
        frame = _of(fields.machine, frame)
    if fields.interval_us is not None:
        frame = frame.drop("timestamp", strict=False).with_columns(
            timestamp=pl.lit(SIMULATION_START_US)
        )
    needed = [*KEYS, *((fields.channel, fields.value) if fields.layout == "long" else ())]
    for name in needed:
        if name not in frame.columns:
            raise ConfigError(
                f"{file} has no column {name!r}, but {', '.join(frame.columns)}; say with --map "
                f"{name}=COLUMN which it is{ELSE.get(name, '')}."
            )
    columns = [_column(file, frame[name]) for name in frame.columns]
    found = pl.DataFrame(columns)
    if fields.layout == "long":
        wide = found.drop_nulls([*KEYS, fields.channel]).pivot(
            fields.channel, index=list(KEYS), values=fields.value, aggregate_function="last"
        )
        found = _as_channels(wide, file, {})
    return found


def _of(machine: str, frame: pl.DataFrame) -> pl.DataFrame:
    return frame.drop("machine_id", strict=False).with_columns(machine_id=pl.lit(machine))


def _named(frame: pl.DataFrame, file: Path, fields: Fields) -> pl.DataFrame:
    """The file's columns under the names that are mapped, the others in the form of channels."""
    for name, column in fields.columns.items():
        if column not in frame.columns:
            raise ConfigError(
                f"--map: {file} has no column {column!r} for {name}; it has "
                f"{', '.join(frame.columns)}."
            )
    mapped = {column: name for name, column in fields.columns.items()}
    if fields.layout == "long":
        # What else there is goes by its own name until the channels are columns.
        return frame.rename(mapped)
    return _as_channels(frame, file, mapped)


def _as_channels(frame: pl.DataFrame, file: Path, mapped: Mapping[str, str]) -> pl.DataFrame:
    taken: dict[str, str] = {}
    for column in frame.columns:
        name = mapped.get(column, column if column in KEYS else channel_name(column))
        if name in taken:
            raise ConfigError(
                f"{file}: {taken[name]!r} and {column!r} would both be {name}; give one another "
                "name, with --map NAME=COLUMN or in the file."
            )
        taken[name] = column
    return frame.rename({column: name for name, column in taken.items()})


def _timed(frame: pl.DataFrame, fields: Fields) -> pl.DataFrame:
    """Readings of files without times, each an interval after the one before of its machine."""
    if fields.interval_us is None:
        return frame
    rows = pl.int_range(pl.len()).over("machine_id")
    return frame.with_columns(timestamp=SIMULATION_START_US + rows * fields.interval_us)


def _load(file: Path) -> pl.DataFrame:
    if not file.name.lower().endswith((".jsonl", ".ndjson")):
        return load_columns(file, None, "import")
    try:
        return pl.read_ndjson(file, infer_schema_length=None)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}.") from error
    except PolarsError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ConfigError(f"{file} is not valid JSON lines: {reason}.") from error


def _column(file: Path, column: pl.Series) -> pl.Series:
    """A column as what it says: a machine, a time, readings, or text."""
    try:
        if column.name == "machine_id":
            return names(column)
        if column.name == "timestamp":
            return times_us(column)[0].alias("timestamp")
    except ColumnError as error:
        where = f"row {error.row + 1}: {error.value!r}" if error.row >= 0 else str(error.value)
        raise ConfigError(f"{file}, {column.name}, {where} cannot be read as such.") from error
    if column.dtype == pl.Boolean:
        return column
    try:
        values = numbers(column)
        # JSON has no infinity, and a gateway could not have sent one.
        return values.set(values.is_infinite(), None)
    except ColumnError:
        try:
            return names(column)
        except ColumnError as error:
            raise ConfigError(
                f"{file}, {column.name}: a column of {error.value} holds no readings; leave it out."
            ) from error


def _write(frame: pl.DataFrame, root: Path, topic: str, partitions: int) -> tuple[Segment, ...]:
    channels = [name for name in frame.columns if name not in KEYS]
    moment = pl.from_epoch("timestamp", "us").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
    value = pl.struct("machine_id", moment.alias("timestamp"), *channels).struct.json_encode()
    rows = frame.select(key=pl.col("machine_id"), time_ms=pl.col("timestamp") // 1000, value=value)
    machines = rows["key"].unique().to_list()
    places = {name: partition_of(name.encode(), partitions) for name in machines}
    at = np.array([places[name] for name in rows["key"].to_list()], np.int64)
    found: list[Segment] = []
    for partition in range(partitions):
        writer = PartitionWriter(root, topic, partition, 0, FILE_BYTES)
        try:
            for offset, columns in _columns(rows.filter(pl.Series(at == partition))):
                writer.write(columns, offset + len(columns["offset"]))
            writer.finish()
        except OSError as error:
            raise unwritable(root, error) from error
        finally:
            writer.discard()
        found += writer.finished
    return tuple(found)


def _columns(rows: pl.DataFrame) -> Iterator[tuple[int, Columns]]:
    """Rows as the columns of a recording, some at a time, and the first offset of each."""
    for begin in range(0, len(rows), GROUP_ROWS):
        part = rows.slice(begin, GROUP_ROWS)
        size = len(part)
        yield (
            begin,
            {
                "offset": list(range(begin, begin + size)),
                "timestamp": part["time_ms"].to_list(),
                "timestamp_type": ["create"] * size,
                "key": part["key"].cast(pl.Binary).to_list(),
                "value": part["value"].cast(pl.Binary).to_list(),
                "headers": [None] * size,
            },
        )
