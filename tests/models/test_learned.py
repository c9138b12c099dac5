from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.models.test_manifest import edit, put
from worker.core.errors import BundleError
from worker.models.bundle import load_bundle

MODELS = Path(__file__).parents[2] / "models"


def repack(bundle: Path, change: Callable[[dict[str, np.ndarray]], object]) -> bytes:
    with np.load(bundle / "baselines.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    change(arrays)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def set_array(name: str, change: Callable[[np.ndarray], object]) -> Callable[[Path], bytes]:
    return lambda bundle: repack(bundle, lambda arrays: arrays.update({name: change(arrays[name])}))  # type: ignore[dict-item]


def no_number(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flat[1] = np.nan
    return array


BASELINES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "empty": (lambda bundle: b"", r"cannot be read as an archive"),
    "no archive": (lambda bundle: b"not an archive", r"cannot be read as an archive"),
    "truncated": (lambda bundle: (bundle / "baselines.npz").read_bytes()[:-100], r"as an archive"),
    "one array only": (lambda bundle: b"\x93NUMPY", r"cannot be read as an archive"),
    "pickled": (
        set_array("scale", lambda array: array.astype(object)),
        r"cannot be read as an archive of arrays: Object arrays cannot be loaded",
    ),
    "array missing": (
        lambda bundle: repack(bundle, lambda arrays: arrays.pop("season")),
        r"array 'season' is missing",
    ),
    "other shape": (set_array("scale", lambda array: array[1:]), r"array 'scale' is"),
    "other type": (set_array("signals", lambda array: array.astype(np.int8)), r"array 'signals'"),
    "other dimensions": (set_array("location", lambda array: array[0]), r"does not fit the others"),
    "other sensors": (set_array("limits", lambda array: array[:, 1:]), r"array 'limits' is uint16"),
    "no sensors": (
        lambda bundle: repack(bundle, lambda arrays: arrays.pop("ranges")),
        r"an array is missing or does not fit the others \('ranges'\)",
    ),
    "other codes": (
        set_array("code_rows", lambda array: array + 1),
        r"there are codes of 1 channels, but the specification in model\.toml has 0",
    ),
    "not a number": (set_array("location", no_number), r"'location' has values that are no"),
    "fewer signals": (
        lambda bundle: (MODELS / "machine-health/1.0.0/baselines.npz").read_bytes(),
        r"there are baselines of 7 signals, but the specification in model\.toml makes 4",
    ),
}


@pytest.mark.parametrize("damage", BASELINES)
def test_baselines_that_do_not_fit_are_refused_in_one_sentence(bundle: Path, damage: str) -> None:
    change, sentence = BASELINES[damage]
    content = change(bundle)
    (bundle / "baselines.npz").write_bytes(content)
    edit(bundle, put("sha256", "baselines", value=hashlib.sha256(content).hexdigest()))
    with pytest.raises(BundleError, match=sentence) as refusal:
        load_bundle(bundle, bundle.parents[1])
    message = str(refusal.value)
    assert str(bundle / "baselines.npz") in message
    assert "\n" not in message
    assert message.endswith(".")


def test_the_fingerprint_tells_baselines_apart_and_other_arrays_do_no_harm(bundle: Path) -> None:
    before = load_bundle(bundle, bundle.parents[1])
    content = repack(bundle, lambda arrays: arrays.update(more=np.zeros(1)))
    (bundle / "baselines.npz").write_bytes(content)
    edit(bundle, put("sha256", "baselines", value=hashlib.sha256(content).hexdigest()))
    after = load_bundle(bundle, bundle.parents[1])
    assert 0 < before.fingerprint != after.fingerprint > 0
    np.testing.assert_array_equal(after.baselines.location, before.baselines.location)
