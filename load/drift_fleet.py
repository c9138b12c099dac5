"""A small fleet with daily cycles, a bundle trained on it, and what it sends afterwards.

Shared by the tests of drift and by ``load/drift_live.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import polars as pl

from worker.core.channels import ChannelSpec, parse_spec
from worker.models.bundle import Bundle, load_bundle
from worker.simulator import FaultRates, FleetChange, Simulator
from worker.training.readings import SIMULATION_START_US, machine_readings, recording_of
from worker.training.train import train

US_PER_MIN = 60_000_000
US_PER_HOUR = 60 * US_PER_MIN
DAY_US = 24 * US_PER_HOUR
MACHINES = 12
INTERVAL_S = 60.0
TRAINING_DAYS = 8
AFTER_US = SIMULATION_START_US + TRAINING_DAYS * DAY_US
"""The end of the training."""
Event = tuple[bytes, bytes]

SPEC = parse_spec(
    """
    name = "fleet"
    [window]
    length = "10m"
    pane = "1m"
    grace = "2m"
    max_future = "5m"
    [[channel]]
    name = "pressure"
    unit = "bar"
    typical = [4.0, 6.0]
    [[channel]]
    name = "flow"
    unit = "l/min"
    typical = [80.0, 120.0]
    [[channel]]
    name = "current"
    unit = "A"
    typical = [8.0, 12.0]
    [[channel]]
    name = "site"
    kind = "categorical"
    values = ["north", "south"]
    """
)


def training_frame() -> pl.DataFrame:
    """All that the fleet sent during its training."""
    sent = simulator(SIMULATION_START_US, seed=5).advance(AFTER_US)
    frame = pl.DataFrame([msgspec.json.decode(value) for _, value in sent])
    return frame.with_columns(pl.col("timestamp").str.to_datetime(time_unit="us", time_zone="UTC"))


def train_fleet(folder: Path) -> Bundle:
    """Train a bundle of the fleet, with its reference, into a new version under ``folder``."""
    readings = machine_readings(recording_of(training_frame(), SPEC, "history"), SPEC)
    path = train(SPEC, readings, folder / "fleet", training_date="2026-01-31").path
    return load_bundle(path, path)


def events(
    hours: float, changes: Sequence[FleetChange] = (), spec: ChannelSpec = SPEC, seed: int = 31
) -> list[Event]:
    """Keys and values that the fleet sends from the end of its training on."""
    return simulator(AFTER_US, seed, changes, spec).advance(AFTER_US + round(hours * US_PER_HOUR))


def simulator(
    start_us: int, seed: int, changes: Sequence[FleetChange] = (), spec: ChannelSpec = SPEC
) -> Simulator:
    """The fleet from an event time on, without faults of single machines."""
    return Simulator(
        spec,
        start_us=start_us,
        machines=MACHINES,
        interval_s=INTERVAL_S,
        seed=seed,
        faults=FaultRates.none(),
        changes=changes,
    )
