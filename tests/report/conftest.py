"""Results of real backtests of simulated mills, one of them with a hostile name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.support.backtested import HOSTILE, Backtested
from worker.cli.channels import default_channels, read_spec
from worker.cli.main import run
from worker.simulator import Simulator
from worker.training.readings import SIMULATION_START_US

HOURS = 60
US_PER_HOUR = 3_600_000_000


@pytest.fixture(scope="session")
def mills(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Readings of four mills with faults over some days, a reading each minute."""
    spec = read_spec(default_channels())
    simulator = Simulator(spec, start_us=SIMULATION_START_US, machines=4, interval_s=60.0, seed=3)
    found = simulator.readings(SIMULATION_START_US + HOURS * US_PER_HOUR)
    ids = np.array([HOSTILE, *simulator.machine_ids[1:]])
    path = tmp_path_factory.mktemp("mills") / "mills <b>now<b>.parquet"
    pl.DataFrame(
        {
            "machine_id": ids[found.machines],
            "timestamp": pl.Series(found.times_us).cast(pl.Datetime("us", "UTC")),
            **{c.name: found.values[:, i] for i, c in enumerate(spec.continuous)},
        }
    ).write_parquet(path)
    return path


@pytest.fixture(scope="session")
def plain(mills: Path, tmp_path_factory: pytest.TempPathFactory) -> Backtested:
    """A backtest without truth and without another candidate."""
    out = tmp_path_factory.mktemp("plain") / "results"
    status = run(["backtest", "--data", str(mills), "--model", "machine-health", "--out", str(out)])
    assert status == 0
    return Backtested(mills, out)
