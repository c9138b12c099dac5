"""Tables of readings: from CSV and Parquet files, frames in memory or the simulator.

Owns reading and checking them. Training takes them as :class:`MachineReadings`, sorted by
machine and time; a backtest also needs the :class:`Recording`, in the order of its rows.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars.exceptions import PolarsError

from worker.core.channels import US_PER_S, ChannelSpec
from worker.core.errors import ConfigError
from worker.core.features import mask_impossible
from worker.simulator import FaultRates, Simulator
from worker.training.columns import ColumnError, names, numbers, times_us

SIMULATION_START_US = 1_767_225_600 * US_PER_S
"""2026-01-01T00:00:00Z."""
SIMULATED_MACHINES = 100
SIMULATED_WINDOWS = 30
FILE_TYPES = (".csv", ".csv.gz", ".parquet")
NAIVE = "timestamps without a time zone were taken as UTC"

KEYS = ("machine_id", "timestamp")


@dataclass(frozen=True)
class Recording:
    """Readings as they were recorded, row by row.

    Attributes:
        source: the file or folder they come from, for people.
        frame: N rows of ``machine_id`` (text), ``timestamp`` (UTC, microseconds), a float64
            column for each continuous channel, and one of text for each other channel of
            the specification that was recorded; null where there is nothing.
        notes: what a person should know about how the rows were read, a sentence each.
    """

    source: str
    frame: pl.DataFrame
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MachineReadings:
    """Readings of K machines, machine after machine, each in order of event time.

    Attributes:
        source: where they come from, for the bundle's manifest.
        machine_ids: K ids, ascending.
        starts: (K + 1,) machine k has the rows from ``starts[k]`` to ``starts[k + 1]``.
        times_us: (n,) event times, epoch microseconds.
        values: (n, C) readings of the continuous channels, NaN where missing or impossible.
        impossible: (n, C) where a reading was infinite or outside its physical range.
        categories: n values or None for each other channel that was recorded.
        rows: (n,) where each reading stood in the recording.
        notes: what a person should know about them, a sentence each.
    """

    source: str
    machine_ids: tuple[str, ...]
    starts: NDArray[np.int64]
    times_us: NDArray[np.int64]
    values: NDArray[np.float64]
    impossible: NDArray[np.bool_]
    categories: dict[str, Sequence[str | None]]
    rows: NDArray[np.int64]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.times_us)

    @property
    def machines(self) -> NDArray[np.int64]:
        """(n,) positions in ``machine_ids``."""
        return np.repeat(np.arange(len(self.machine_ids)), np.diff(self.starts))


def read_recording(path: Path, spec: ChannelSpec, option: str = "--data") -> Recording:
    """Read one CSV or Parquet file, or all of a folder's.

    Columns are ``machine_id``, ``timestamp`` and one for each continuous channel; those of
    other channels are read where they exist, all others are ignored.

    Args:
        option: what the person wrote before the path, for errors.

    Raises:
        ConfigError: naming file, row and column of the first thing that cannot be read.
    """
    files = files_of(path, option)
    known = [*KEYS, *(c.name for c in spec.channels)]
    parts = [recording_of(load_columns(file, known, option), spec, str(file)) for file in files]
    notes = dict.fromkeys(note for part in parts for note in part.notes)
    frame = pl.concat([part.frame for part in parts], how="diagonal")
    return Recording(path.name, frame, tuple(notes))


def recording_of(frame: pl.DataFrame, spec: ChannelSpec, source: str) -> Recording:
    """Bring a frame of readings into the form of :class:`Recording`.

    Raises:
        ConfigError: naming row and column of the first thing that cannot be read.
    """
    wanted = [*KEYS, *(c.name for c in spec.continuous)]
    for name in wanted:
        if name not in frame.columns:
            raise ConfigError(
                f"{source}: there is no column {name!r}; the columns must be {', '.join(wanted)}."
            )
    naive = False
    columns: list[pl.Series] = []
    for name in [*wanted, *(c.name for c in spec.channels if c.name not in wanted)]:
        if name not in frame.columns:
            continue
        try:
            if name == "timestamp":
                moments, naive = times_us(frame[name])
                column = moments.cast(pl.Datetime("us", "UTC"))
            elif name in wanted[len(KEYS) :]:
                column = numbers(frame[name])
            else:
                column = names(frame[name])
        except ColumnError as error:
            raise ConfigError(_refusal(source, name, wanted, error)) from error
        columns.append(column.alias(name))
    return Recording(source, pl.DataFrame(columns), (NAIVE,) if naive else ())


def before(recording: Recording, until: datetime) -> Recording:
    """Leave out readings from a moment on, and say how many."""
    earlier = recording.frame.filter((pl.col("timestamp") < until) | pl.col("timestamp").is_null())
    left_out = len(recording.frame) - len(earlier)
    note = f"readings from {until.isoformat()} on, left out: {left_out:,}"
    notes = (*recording.notes, note) if left_out else recording.notes
    return replace(recording, frame=earlier, notes=notes)


def machine_readings(recording: Recording, spec: ChannelSpec) -> MachineReadings:
    """Sort readings by machine and time; rows without either are left out, and it is said."""
    frame = recording.frame.with_row_index("row")
    usable = frame.drop_nulls(list(KEYS))
    ordered = usable.sort("machine_id", "timestamp", maintain_order=True)
    raw = np.array(ordered.select(c.name for c in spec.continuous).to_numpy(), order="C")
    values = mask_impossible(spec, raw)
    impossible = np.isnan(values) & ~np.isnan(raw)
    lengths = ordered.group_by("machine_id", maintain_order=True).len()
    readings = MachineReadings(
        source=recording.source,
        machine_ids=tuple(lengths["machine_id"]),
        starts=np.concatenate([[0], lengths["len"].to_numpy().cumsum()]).astype(np.int64),
        times_us=ordered["timestamp"].dt.epoch("us").to_numpy(writable=True),
        values=values,
        impossible=impossible,
        categories={
            c.name: ordered[c.name].to_list()
            for c in spec.channels
            if c.kind != "continuous" and c.name in ordered.columns
        },
        rows=ordered["row"].to_numpy().astype(np.int64),
    )
    notes = [*recording.notes]
    if left_out := len(frame) - len(usable):
        notes.append(f"rows without machine_id or timestamp, left out: {left_out:,}")
    if unsorted := _out_of_order(usable):
        notes.append(f"rows older than the one before of their machine, sorted: {unsorted:,}")
    for channel, count in zip(spec.continuous, impossible.sum(axis=0).tolist(), strict=True):
        if count:
            notes.append(
                f"{channel.name}: {count:,} of {len(raw):,} readings are infinite or outside "
                "the physical range and count as missing"
            )
    return replace(readings, notes=tuple(notes))


def without_repeats(readings: MachineReadings) -> MachineReadings:
    """Leave out rows that repeat the one before of their machine: time and every reading."""
    same = np.zeros(len(readings), np.bool_)
    values, machines = readings.values, readings.machines
    same[1:] = (
        (machines[1:] == machines[:-1])
        & (readings.times_us[1:] == readings.times_us[:-1])
        & ((values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))).all(axis=1)
    )
    for column in readings.categories.values():
        same[1:] &= [a == b for a, b in zip(column[1:], column[:-1], strict=True)]
    if not same.any():
        return readings
    note = f"rows that repeat the one before of their machine, left out: {int(same.sum()):,}"
    return replace(_only(readings, ~same), notes=(*readings.notes, note))


def halves(readings: MachineReadings) -> tuple[MachineReadings, MachineReadings]:
    """The earlier and the later half of each machine's readings."""
    middle = (readings.starts[:-1] + readings.starts[1:]) // 2
    earlier = np.arange(len(readings)) < np.repeat(middle, np.diff(readings.starts))
    return _only(readings, earlier), _only(readings, ~earlier)


def _only(readings: MachineReadings, kept: NDArray[np.bool_]) -> MachineReadings:
    """Some of the readings (n,), and the machines that have one of them."""
    counts = np.bincount(readings.machines[kept], minlength=len(readings.machine_ids))
    rows = np.flatnonzero(kept)
    return replace(
        readings,
        machine_ids=tuple(np.array(readings.machine_ids, object)[counts > 0].tolist()),
        starts=np.concatenate([[0], counts[counts > 0].cumsum()]).astype(np.int64),
        times_us=readings.times_us[rows],
        values=readings.values[rows],
        impossible=readings.impossible[rows],
        categories={
            name: [column[i] for i in rows.tolist()] for name, column in readings.categories.items()
        },
        rows=readings.rows[rows],
    )


def simulated_readings(
    spec: ChannelSpec, seed: int, machines: int = SIMULATED_MACHINES
) -> MachineReadings:
    """Readings of healthy simulated machines over thirty windows, six a pane.

    At least thirty hours, so that each hour of the day has been seen.
    """
    interval_s = spec.pane_us / US_PER_S / 6.0
    length_us = SIMULATED_WINDOWS * max(spec.length_us, 3600 * US_PER_S)
    simulator = Simulator(
        spec,
        start_us=SIMULATION_START_US,
        machines=machines,
        interval_s=interval_s,
        seed=seed,
        faults=FaultRates.none(),
    )
    simulated = simulator.readings(SIMULATION_START_US + length_us)
    ids = pl.Series(simulator.machine_ids, dtype=pl.String)
    columns = {c.name: simulated.values[:, i] for i, c in enumerate(spec.continuous)}
    frame = pl.DataFrame(
        {"machine_id": ids[simulated.machines], "timestamp": simulated.times_us, **columns}
    )
    hours = length_us // (3600 * US_PER_S)
    source = (
        f"simulation of {machines} healthy machines over {hours} hours, "
        f"an event each {interval_s:g} s, seed {seed}"
    )
    return machine_readings(recording_of(frame, spec, source), spec)


def files_of(path: Path, option: str) -> list[Path]:
    """A file itself, or the tables in a folder; raises ConfigError if it has none."""
    if not path.is_dir():
        return [path]
    files = sorted(f for f in path.iterdir() if f.name.lower().endswith(FILE_TYPES))
    if not files:
        raise ConfigError(
            f"{option}: {path} has no file named *.csv or *.parquet; "
            "give a CSV or Parquet file, or a folder of them."
        )
    return files


def load_columns(file: Path, known: Sequence[str] | None, option: str) -> pl.DataFrame:
    """Those columns of a CSV or Parquet file that are known, as they stand there; None: all.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        if file.name.lower().endswith(".parquet"):
            schema = pl.read_parquet_schema(file)
            columns = [name for name in schema if known is None or name in known]
            return pl.read_parquet(file, columns=columns)
        header = _header(file)
        separator = max(",;\t|", key=header.count)
        # All as text: what a column holds must not depend on what its first rows look like.
        frame = pl.read_csv(
            file, separator=separator, infer_schema=False, truncate_ragged_lines=False
        )
    except OSError as error:
        raise ConfigError(f"{option}: {file} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{option}: {file} is not UTF-8 text; convert it first.") from error
    except PolarsError as error:
        kind = "Parquet" if file.name.lower().endswith(".parquet") else "CSV"
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise ConfigError(f"{option}: {file} is not a valid {kind} file: {reason}.") from error
    frame = frame.rename(str.strip)
    return frame.select(name for name in frame.columns if known is None or name in known)


def _header(file: Path) -> str:
    """The first line of a CSV file."""
    compressed = file.name.lower().endswith(".gz")
    with gzip.open(file, "rb") if compressed else file.open("rb") as stream:
        return stream.readline().decode("utf-8-sig")


def _refusal(source: str, name: str, wanted: Sequence[str], error: ColumnError) -> str:
    if error.row < 0:
        return f"{source}: column {name!r} is of type {error.value}, which holds no such values."
    where = f"{source}, row {error.row + 1}, {name}: {error.value!r}"
    if name == "timestamp":
        return (
            f"{where} is not a moment between 1970 and 2100; write RFC 3339 with an offset, such "
            "as 2026-01-31T06:00:00Z, or epoch milliseconds."
        )
    return f"{where} is not a number; leave the field empty where a reading is missing."


def _out_of_order(frame: pl.DataFrame) -> int:
    earlier = pl.col("timestamp") < pl.col("timestamp").shift(1).over("machine_id")
    return int(frame.select(earlier.sum()).item() or 0)
