from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests.models.test_manifest import edit, put
from worker.core.channels import parse_spec
from worker.core.errors import BundleError
from worker.models.bundle import Bundle, find_bundle, load_bundle

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="module")
def default() -> Bundle:
    return load_bundle("machine-health", MODELS, threads=1)


def test_the_default_bundle_loads_and_fits_its_channel_file(default: Bundle) -> None:
    spec = parse_spec((MODELS / "machine-health/channels.toml").read_text())
    assert (default.spec.channels, default.spec.derived) == (spec.channels, spec.derived)
    assert len(spec.feature_names) == 32
    assert default.name == "machine-health"
    assert default.model_version == f"machine-health/{default.version}"
    assert default.framework == f"onnxruntime {onnxruntime.__version__}"
    assert set(default.metadata) == {"author", "description", "training_date", "contamination"}


def test_the_default_bundle_loads_in_less_than_a_second() -> None:
    begun_s = time.perf_counter()
    load_bundle("machine-health", MODELS)
    assert time.perf_counter() - begun_s < 1.0


def test_the_model_gives_one_float32_score_a_row_and_none_for_no_rows(default: Bundle) -> None:
    rows = np.array([g.features for g in default.manifest.golden], np.float32)
    for count in (0, 1, len(rows)):
        scores = default.model(rows[:count])
        assert scores.shape == (count,)
        assert scores.dtype == np.float32
        assert ((scores >= -1) & (scores <= 0)).all()


def test_a_name_means_its_newest_version(bundle: Path) -> None:
    models = bundle.parents[1]
    newer = shutil.copytree(bundle, bundle.parent / "1.10.0")
    shutil.copytree(bundle, bundle.parent / "1.9.0")
    assert find_bundle("pump", models) == newer
    assert find_bundle("pump/1.0.0", models) == bundle
    assert find_bundle(str(bundle.parent), models / "elsewhere") == newer
    with pytest.raises(BundleError, match=r"1\.0\.0.*1\.10\.0"):
        load_bundle("pump", models)
    edit(bundle.parent / "1.10.0", put("version", value="1.10.0"))
    with pytest.raises(BundleError, match="metadata entry 'version' differs"):
        load_bundle("pump", models)


def test_a_folder_outside_the_models_loads_by_its_path(bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "anywhere" / "mine")
    loaded = load_bundle(copy, tmp_path / "no-models")
    assert loaded.model_version == "pump/1.0.0"
    assert loaded.path == copy


def test_an_unknown_bundle_is_refused_with_what_there_is(bundle: Path) -> None:
    models = bundle.parents[1]
    with pytest.raises(BundleError, match=r"'pumps' does not exist; .*\(pump\)"):
        load_bundle("pumps", models)
    with pytest.raises(BundleError, match=r"versions of pump .* are 1\.0\.0"):
        load_bundle("pump/3.0.0", models)
    with pytest.raises(BundleError, match="there are none"):
        load_bundle("/nowhere", models / "none")
    with pytest.raises(BundleError, match=r"model\.toml does not exist"):
        load_bundle(models, models)
