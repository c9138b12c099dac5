from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from worker.core.channels import ChannelSpec, parse_spec
from worker.core.errors import ConfigError
from worker.models.bundle import load_bundle
from worker.training.readings import MachineReadings, simulated_readings
from worker.training.train import TrainingResult, next_version, train

ROOT = Path(__file__).parents[2]
DATE = "2026-01-31"
START_US = 1_780_000_000_000_000
DAY_US = 86_400_000_000


def first_rows(readings: MachineReadings, rows: int) -> MachineReadings:
    machines = int(np.searchsorted(readings.starts, rows))
    return replace(
        readings,
        machine_ids=readings.machine_ids[:machines],
        starts=np.append(readings.starts[:machines], rows),
        times_us=readings.times_us[:rows],
        values=readings.values[:rows],
        impossible=readings.impossible[:rows],
        rows=readings.rows[:rows],
    )


@pytest.fixture(scope="module")
def spec() -> ChannelSpec:
    return parse_spec((ROOT / "tests/data/pump.toml").read_text())


@pytest.fixture(scope="module")
def readings(spec: ChannelSpec) -> MachineReadings:
    return simulated_readings(spec, seed=1, machines=20)


@pytest.fixture(scope="module")
def result(
    spec: ChannelSpec, readings: MachineReadings, tmp_path_factory: pytest.TempPathFactory
) -> TrainingResult:
    out = tmp_path_factory.mktemp("models") / "pump"
    return train(spec, readings, out, training_date=DATE)


def test_the_written_bundle_loads_and_carries_what_was_learned(
    spec: ChannelSpec, readings: MachineReadings, result: TrainingResult
) -> None:
    bundle = load_bundle(result.path, result.path)
    assert bundle.spec == spec
    assert bundle.model_version == "pump/1.0.0"
    assert bundle.baselines.machine_ids.tolist() == list(readings.machine_ids)
    assert bundle.health.machine_ids == readings.machine_ids
    assert np.isfinite(bundle.expected).all()


def test_the_model_carries_its_metadata_inside(result: TrainingResult, spec: ChannelSpec) -> None:
    props = {p.key: p.value for p in onnx.load(result.path / "model.onnx").metadata_props}
    manifest = tomllib.loads((result.path / "model.toml").read_text())
    assert props["version"] == "1.0.0"
    assert props["training_date"] == DATE
    assert props["contamination"] == "0.001"
    assert json.loads(props["features"]) == list(spec.feature_names)
    assert props["author"] == manifest["metadata"]["author"]
    assert props["description"] == manifest["metadata"]["description"]
    content = (result.path / "model.onnx").read_bytes()
    assert manifest["sha256"]["model"] == hashlib.sha256(content).hexdigest()
    assert manifest["training"]["rows"] == result.rows
    assert len(manifest["golden"]) == 8


def test_the_same_training_writes_the_same_bytes(
    spec: ChannelSpec, readings: MachineReadings, result: TrainingResult, tmp_path: Path
) -> None:
    again = train(spec, readings, tmp_path, training_date=DATE)
    for name in ("model.onnx", "model.toml", "baselines.npz"):
        assert (again.path / name).read_bytes() == (result.path / name).read_bytes()


def test_versions_count_up_and_existing_ones_are_never_overwritten(
    spec: ChannelSpec, readings: MachineReadings, tmp_path: Path
) -> None:
    few = first_rows(readings, 3000)
    shares: list[float] = []
    first = train(spec, few, tmp_path, training_date=DATE, on_progress=shares.append)
    second = train(spec, few, tmp_path, training_date=DATE)
    assert (first.path.name, second.path.name) == ("1.0.0", "1.1.0")
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    with pytest.raises(ConfigError, match=r"1\.1\.0 exists already"):
        train(spec, few, tmp_path, training_date=DATE, version="1.1.0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.0.0", "1.1.0"]
    assert next_version(["1.9.0", "2"]) == "2.1.0"


def test_missing_readings_and_constant_channels_can_be_trained_on(
    spec: ChannelSpec, readings: MachineReadings, tmp_path: Path
) -> None:
    few = first_rows(readings, 20_000)
    values = few.values.copy()
    values[::3, 0] = np.nan
    values[:, 2] = 50.0
    values[few.machines == 0, 1] = np.nan
    gaps = replace(few, values=values)
    bundle = load_bundle(train(spec, gaps, tmp_path, training_date=DATE).path, tmp_path)
    assert np.isfinite(bundle.expected).all()
