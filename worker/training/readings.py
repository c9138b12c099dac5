"""Where training data come from: CSV files or the simulator.

Owns reading and checking them; every source ends as :class:`TrainingReadings`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.core.channels import US_PER_S, ChannelSpec
from worker.core.errors import ConfigError
from worker.core.events import FIRST_MICROSECONDS
from worker.simulator import FaultRates, Simulator

SIMULATION_START_US = 1_767_225_600 * US_PER_S
"""2026-01-01T00:00:00Z."""
SIMULATED_MACHINES = 100
SIMULATED_WINDOWS = 30

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MISSING = frozenset({"", "null", "nan", "na", "none"})


@dataclass(frozen=True)
class TrainingReadings:
    """A table of readings in order of event time.

    Attributes:
        source: where they come from, for the bundle's manifest.
        machine_ids: n ids.
        times_us: (n,) event times, epoch microseconds.
        values: (n, C) readings of the continuous channels, NaN where missing.
    """

    source: str
    machine_ids: list[str]
    times_us: NDArray[np.int64]
    values: NDArray[np.float64]


def simulate_readings(spec: ChannelSpec, seed: int) -> TrainingReadings:
    """Readings of healthy simulated machines over thirty windows, six a pane.

    At least thirty hours, so that each hour of the day has been seen.
    """
    interval_s = spec.pane_us / US_PER_S / 6.0
    length_us = SIMULATED_WINDOWS * max(spec.length_us, 3600 * US_PER_S)
    simulator = Simulator(
        spec,
        start_us=SIMULATION_START_US,
        machines=SIMULATED_MACHINES,
        interval_s=interval_s,
        seed=seed,
        faults=FaultRates.none(),
    )
    readings = simulator.readings(SIMULATION_START_US + length_us)
    ids = np.array(simulator.machine_ids)[readings.machines]
    hours = length_us // (3600 * US_PER_S)
    return TrainingReadings(
        source=f"simulation of {SIMULATED_MACHINES} healthy machines over {hours} hours, "
        f"an event each {interval_s:g} s, seed {seed}",
        machine_ids=ids.tolist(),
        times_us=readings.times_us,
        values=readings.values,
    )


def read_csv(path: Path, spec: ChannelSpec) -> TrainingReadings:
    """Read one CSV file, or all of a folder's.

    Columns are ``machine_id``, ``timestamp`` (RFC 3339 with an offset, or epoch milliseconds
    or microseconds) and one for each continuous channel; others are ignored. An empty field
    or ``null`` is a missing reading.

    Raises:
        ConfigError: naming file, line and column of the first thing that cannot be read.
    """
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"--data: {path} has no file named *.csv; give a CSV file or a folder.")
    ids: list[str] = []
    times: list[int] = []
    rows: list[list[float]] = []
    for file in files:
        for machine_id, time_us, values in _rows(file, spec):
            ids.append(machine_id)
            times.append(time_us)
            rows.append(values)
    if not rows:
        raise ConfigError(f"--data: {path} has no rows; training needs readings.")
    times_us = np.array(times, np.int64)
    order = np.argsort(times_us, kind="stable")
    return TrainingReadings(
        source=path.name,
        machine_ids=[ids[i] for i in order],
        times_us=times_us[order],
        values=np.array(rows, np.float64)[order],
    )


def _rows(file: Path, spec: ChannelSpec) -> Iterator[tuple[str, int, list[float]]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            channels = [c.name for c in spec.continuous]
            for name in ("machine_id", "timestamp", *channels):
                if name not in (reader.fieldnames or ()):
                    raise ConfigError(
                        f"{file}: there is no column {name!r}; the columns must be machine_id, "
                        f"timestamp, {', '.join(channels)}."
                    )
            for row in reader:
                where = f"{file}, line {reader.line_num}"
                if not row["machine_id"]:
                    raise ConfigError(f"{where}: machine_id is empty; write the machine's id.")
                values = [_number(row[name], f"{where}, {name}") for name in channels]
                yield row["machine_id"], _time_us(row["timestamp"], where), values
    except OSError as error:
        raise ConfigError(f"--data: {file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--data: {file} is not UTF-8 text; convert it first.") from error
    except csv.Error as error:
        raise ConfigError(f"--data: {file} is not a CSV file: {error}.") from error


def _number(text: str | None, where: str) -> float:
    if text is None or text.strip().lower() in _MISSING:
        return float("nan")
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(
            f"{where}: {text!r} is not a number; leave the field empty where a reading is missing."
        ) from error


def _time_us(text: str | None, where: str) -> int:
    try:
        moment = datetime.fromisoformat(text or "")
        if moment.tzinfo is not None:
            return (moment - _EPOCH) // timedelta(microseconds=1)
    except ValueError:
        if text and text.isdecimal() and len(text) < 18:
            epoch = int(text)
            return epoch if epoch >= FIRST_MICROSECONDS else epoch * 1000
    raise ConfigError(
        f"{where}: {text!r} is not a timestamp; write RFC 3339 with an offset, such as "
        "2026-01-31T06:00:00Z, or epoch milliseconds."
    )
