"""The drift reference: part of the bundle, and its own training is no drift to it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from tests.training.test_train import DATE, TWO, history
from worker.core.drift import FLEET, SCORE
from worker.core.errors import BundleError
from worker.models.bundle import load_bundle
from worker.training.readings import machine_readings, recording_of
from worker.training.train import TrainingResult, train


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    readings = machine_readings(recording_of(history(400), TWO, "history"), TWO)
    return train(TWO, readings, tmp_path_factory.mktemp("models") / "two", training_date=DATE)


def test_a_bundle_carries_the_reference_of_its_training(result: TrainingResult) -> None:
    reference = load_bundle(result.path, result.path).require_reference()
    group = reference.groups[FLEET]
    assert reference.columns == (*TWO.feature_names, SCORE)
    assert group.machines == 2
    assert group.slots == pytest.approx(400, abs=5)
    assert group.interval_us == 60_000_000
    assert len(reference.hash) == 64


def test_reading_it_again_gives_the_same_reference(result: TrainingResult) -> None:
    first, second = (load_bundle(result.path, result.path).require_reference() for _ in range(2))
    assert first.hash == second.hash
    arrays, again = first.to_arrays(), type(first).from_arrays(first.to_arrays()).to_arrays()
    assert all(np.array_equal(arrays[name], again[name]) for name in arrays)


def test_a_damaged_reference_is_refused(result: TrainingResult, tmp_path: Path) -> None:
    for file in result.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = bytearray((tmp_path / "reference.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "reference.npz").write_bytes(content)
    with pytest.raises(BundleError, match="sha256"):
        load_bundle(tmp_path, tmp_path)


def test_a_bundle_of_before_drift_works_and_says_to_train_anew_when_asked(
    result: TrainingResult, tmp_path: Path
) -> None:
    for name in ("model.onnx", "baselines.npz"):
        (tmp_path / name).write_bytes((result.path / name).read_bytes())
    manifest = tomllib.loads((result.path / "model.toml").read_text())
    del manifest["sha256"]["reference"]
    (tmp_path / "model.toml").write_text(tomli_w.dumps(manifest))
    bundle = load_bundle(tmp_path, tmp_path)
    with pytest.raises(BundleError, match="train the bundle anew"):
        bundle.require_reference()
