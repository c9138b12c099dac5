from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from worker.core.channels import ChannelSpec, parse_spec
from worker.core.errors import ConfigError
from worker.core.features import features_of
from worker.models.bundle import load_bundle
from worker.simulator import FaultRates, Simulator, match_faults
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


def features_in(spec: ChannelSpec, readings: MachineReadings) -> tuple[Any, Any]:
    ids = [readings.machine_ids[machine] for machine in readings.machines]
    return features_of(spec, ids, readings.times_us, readings.values)


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
    features, scored = features_in(spec, readings)
    features = features[scored]
    scores = bundle.model(features)
    scoring = bundle.scoring
    assert (scores < scoring.threshold).mean() == pytest.approx(0.001, abs=1e-5)
    assert result.flagged_share == pytest.approx(0.001, abs=1e-5)
    np.testing.assert_allclose(scoring.expected, np.median(features, axis=0), rtol=1e-5)
    low, high = np.quantile(features, [0.01, 0.99], axis=0)
    assert (scoring.spread >= (high - low) / 4.65 * (1 - 1e-5)).all()
    np.testing.assert_allclose(
        scoring.score_quantiles, np.quantile(scores, np.linspace(0, 1, 1001)), atol=1e-6
    )
    assert scoring.confidence(scoring.threshold) == pytest.approx(0.999, abs=2e-4)


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


def test_too_few_readings_or_a_channel_without_any_are_refused(
    spec: ChannelSpec, readings: MachineReadings, tmp_path: Path
) -> None:
    few = first_rows(readings, 999)
    with pytest.raises(ConfigError, match="999 usable readings are too few"):
        train(spec, few, tmp_path, training_date=DATE)
    values = readings.values.copy()
    values[:, 1] = np.nan
    with pytest.raises(ConfigError, match="no usable reading for feature 'pressure'"):
        train(spec, replace(readings, values=values), tmp_path, training_date=DATE)
    assert list(tmp_path.iterdir()) == []


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
    assert np.isfinite(bundle.scoring.expected).all()
    assert (bundle.scoring.spread > 0).all()


@pytest.mark.parametrize(
    ("name", "days", "interval_s", "least_detected", "most_false_alarms"),
    [("machine-health", 1.0, 10.0, 0.8, 30.0), ("pump", 12.0, 600.0, 0.6, 3.0)],
)
def test_most_faults_of_a_fresh_simulation_are_detected_and_chance_would_find_few(
    result: TrainingResult,
    name: str,
    days: float,
    interval_s: float,
    least_detected: float,
    most_false_alarms: float,
) -> None:
    reference = str(result.path) if name == "pump" else name
    bundle = load_bundle(reference, ROOT / "models")
    source = Simulator(
        bundle.spec,
        start_us=START_US,
        machines=50,
        interval_s=interval_s,
        seed=31,
        faults=FaultRates(machine=1.0 if name == "machine-health" else 0.2),
    )
    rows = source.readings(START_US + int(days * DAY_US))
    ids = np.array(source.machine_ids)[rows.machines].tolist()
    features, _ = features_of(bundle.spec, ids, rows.times_us, rows.values, bundle.scoring.expected)
    flagged = bundle.model(features) < bundle.scoring.threshold
    found = [(ids[i], int(rows.times_us[i])) for i in np.flatnonzero(flagged)]
    report = match_faults(source.truth(), found)
    assert report.injected >= 30
    assert report.detected / report.injected >= least_detected
    assert report.chance_level < 0.1
    assert report.false_alarms_per_machine_day < most_false_alarms
