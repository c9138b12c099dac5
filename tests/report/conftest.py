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
def simulator() -> Simulator:
    """Four mills with faults over some days, a reading each minute."""
    spec = read_spec(default_channels())
    return Simulator(spec, start_us=SIMULATION_START_US, machines=4, interval_s=60.0, seed=3)


@pytest.fixture(scope="session")
def mills(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their readings; the first mill has a hostile name."""
    found = simulator.readings(SIMULATION_START_US + HOURS * US_PER_HOUR)
    path = tmp_path_factory.mktemp("mills") / "mills <b>now<b>.parquet"
    pl.DataFrame(
        {
            "machine_id": np.array(names_of(simulator))[found.machines],
            "timestamp": pl.Series(found.times_us).cast(pl.Datetime("us", "UTC")),
            **{c.name: found.values[:, i] for i, c in enumerate(simulator.spec.continuous)},
        }
    ).write_parquet(path)
    return path


@pytest.fixture(scope="session")
def faults(mills: Path, simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What was wrong with the mills in that time."""
    names = dict(zip(simulator.machine_ids, names_of(simulator), strict=True))
    path = tmp_path_factory.mktemp("truth") / "faults.csv"
    pl.DataFrame(
        [
            {
                "machine_id": names[fault.machine_id],
                "begin": fault.start_us // 1000,
                "end": fault.end_us // 1000,
                "label": f"<i>{fault.kind}</i>",
            }
            for fault in simulator.truth().faults
            if fault.category == "machine"
        ]
    ).write_csv(path)
    return path


def names_of(simulator: Simulator) -> list[str]:
    return [HOSTILE, *simulator.machine_ids[1:]]


@pytest.fixture(scope="session")
def plain(mills: Path, tmp_path_factory: pytest.TempPathFactory) -> Backtested:
    """A backtest without truth and without another candidate."""
    out = tmp_path_factory.mktemp("plain") / "results"
    status = run(["backtest", "--data", str(mills), "--model", "machine-health", "--out", str(out)])
    assert status == 0
    return Backtested(mills, out)


@pytest.fixture(scope="session")
def judged(mills: Path, faults: Path, tmp_path_factory: pytest.TempPathFactory) -> Backtested:
    """The same against other settings, with what was true, a sweep and a gate."""
    folder = tmp_path_factory.mktemp("judged")
    loud, out = folder / "loud.toml", folder / "results"
    loud.write_text("[detection]\nbudget = 5.0\n")
    options = ["--truth", str(faults), "--against", str(loud), "--sweep", "budget=0.01,5"]
    gate = ["--fail-if", "recall < 0.01", "--fail-if", "episodes < 0"]
    command = ["backtest", "--data", str(mills), "--model", "machine-health", "--out", str(out)]
    assert run([*command, *options, *gate]) == 0
    return Backtested(mills, out)
