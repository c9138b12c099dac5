"""A bundle of four simulated pumps, and what they did afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from worker.core.channels import ChannelSpec, parse_spec
from worker.models.bundle import Bundle, load_bundle
from worker.simulator import FaultRates, Simulator
from worker.training.readings import SIMULATION_START_US, machine_readings, recording_of
from worker.training.train import train

ROOT = Path(__file__).parents[2]
INTERVAL_S = 600.0
DAY_US = 86_400_000_000
TRAINING_DAYS, TEST_DAYS = 20, 4


@dataclass(frozen=True)
class Pumps:
    """A bundle, and the readings of the days after its training."""

    bundle: Bundle
    path: Path
    frame: pl.DataFrame


@pytest.fixture(scope="session")
def pumps(tmp_path_factory: pytest.TempPathFactory) -> Pumps:
    spec = parse_spec((ROOT / "tests/data/pump.toml").read_text())
    simulator = Simulator(
        spec,
        start_us=SIMULATION_START_US,
        machines=4,
        interval_s=INTERVAL_S,
        seed=5,
        faults=FaultRates.none(),
    )
    split_us = SIMULATION_START_US + TRAINING_DAYS * DAY_US
    training = frame_of(spec, simulator, split_us)
    readings = machine_readings(recording_of(training, spec, "history"), spec)
    out = tmp_path_factory.mktemp("models") / "pump"
    path = train(spec, readings, out, training_date="2026-01-31").path
    frame = frame_of(spec, simulator, split_us + TEST_DAYS * DAY_US)
    return Pumps(load_bundle(path, path), path, frame)


def frame_of(spec: ChannelSpec, simulator: Simulator, until_us: int) -> pl.DataFrame:
    """The simulator's next readings as people keep them."""
    found = simulator.readings(until_us)
    return pl.DataFrame(
        {
            "machine_id": np.array(simulator.machine_ids)[found.machines],
            "timestamp": pl.Series(found.times_us).cast(pl.Datetime("us", "UTC")),
            **{c.name: found.values[:, i] for i, c in enumerate(spec.continuous)},
        }
    )


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
