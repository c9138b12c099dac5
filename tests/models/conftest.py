"""A small trained bundle to take copies of."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from worker.core.channels import parse_spec
from worker.training.readings import simulated_readings
from worker.training.train import train

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for the pump's channels, trained once."""
    spec = parse_spec((ROOT / "tests/data/pump.toml").read_text())
    out = tmp_path_factory.mktemp("models") / "pump"
    readings = simulated_readings(spec, seed=1, machines=4)
    return train(spec, readings, out, training_date="2026-01-31").path


@pytest.fixture
def bundle(trained: Path, tmp_path: Path) -> Path:
    """A copy of it at ``<tmp>/pump/1.0.0``, to damage."""
    return shutil.copytree(trained, tmp_path / "pump" / "1.0.0")
