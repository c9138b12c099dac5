from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from worker.core.errors import BundleError
from worker.models.manifest import read_manifest, version_key, versions_in


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle / "model.toml"
    data = tomllib.loads(path.read_text())
    change(data)
    path.write_text(tomli_w.dumps(data))


def put(*keys: str | int, value: object) -> Callable[[dict[str, Any]], object]:
    def change(data: Any) -> None:
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = value

    return change


def swap_features(data: dict[str, Any]) -> None:
    data["feature"][0], data["feature"][1] = data["feature"][1], data["feature"][0]


DAMAGE = {
    "missing key": (lambda data: data.pop("budget"), r"missing required field `budget`"),
    "unknown key": (put("buget", value=1.0), r"unknown field `buget`"),
    "wrong type": (put("budget", value="low"), r"Expected `float`, got `str`"),
    "first format": (put("format", value=1), r"is of format 1, which has no baselines .* train"),
    "other format": (put("format", value=3), r"Invalid enum value 3"),
    "bad sha256": (put("sha256", "model", value="abc"), r"sha256.model"),
    "one sha256": (lambda data: data["sha256"].pop("baselines"), r"required field `baselines`"),
    "bad version": (put("version", value="latest"), r"version"),
    "broken spec": (put("spec", "channel", 0, "kind", value="odd"), r"spec: .*kind"),
    "fewer features": (lambda data: data["feature"].pop(), r"\d+ features are listed .* makes \d+"),
    "swapped features": (swap_features, r"feature 1 is 'pressure' but its spec makes 'flow'"),
    "expected not finite": (
        put("feature", 2, "expected", value=float("nan")),
        r"expected of feature 'motor_current' is nan",
    ),
    "budget zero": (put("budget", value=0.0), r"budget 0.0 is not a positive number"),
    "budget infinite": (put("budget", value=float("inf")), r"budget inf is not"),
    "threshold outside": (put("threshold", value=-1.5), r"threshold -1.5 is outside"),
    "threshold not a number": (put("threshold", value=float("nan")), r"threshold nan is outside"),
    "no golden vectors": (put("golden", value=[]), r"golden"),
    "short golden vector": (
        lambda data: data["golden"][1]["features"].pop(),
        r"golden vector 2 has \d+ values for \d+ features",
    ),
    "golden not finite": (
        put("golden", 0, "features", 3, value=float("inf")),
        r"golden vector 1 has a value that is not a finite number",
    ),
    "version differs from folder": (put("version", value="1.1.0"), r"version 1.1.0 but its folder"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_manifest_is_refused_in_one_sentence(bundle: Path, damage: str) -> None:
    change, sentence = DAMAGE[damage]
    edit(bundle, change)  # type: ignore[arg-type]
    with pytest.raises(BundleError, match=sentence) as refusal:
        read_manifest(bundle)
    message = str(refusal.value)
    assert str(bundle / "model.toml") in message
    assert "\n" not in message
    assert re.search(r"(retrain|train the bundle|restore|rename|docs/channels.md)", message)


def test_a_missing_manifest_is_refused(bundle: Path) -> None:
    (bundle / "model.toml").unlink()
    with pytest.raises(BundleError, match=r"model\.toml does not exist; give a folder with"):
        read_manifest(bundle)


def test_a_manifest_that_is_not_toml_or_not_text_is_refused(bundle: Path) -> None:
    for content in (b"threshold = = 1", b"\xff\xfe\x00"):
        (bundle / "model.toml").write_bytes(content)
        with pytest.raises(BundleError, match="is not valid TOML"):
            read_manifest(bundle)


def test_a_manifest_that_cannot_be_read_is_refused(bundle: Path) -> None:
    (bundle / "model.toml").unlink()
    (bundle / "model.toml").mkdir()
    with pytest.raises(BundleError, match="cannot be read"):
        read_manifest(bundle)


def test_an_intact_manifest_gives_the_specification_it_was_trained_for(bundle: Path) -> None:
    manifest, spec = read_manifest(bundle)
    assert spec.name == "pump"
    assert spec.panes == 24
    assert tuple(feature.name for feature in manifest.feature) == spec.feature_names
    assert tuple(feature.unit for feature in manifest.feature) == spec.feature_units


def test_versions_are_compared_number_by_number(tmp_path: Path) -> None:
    for name in ("1.10.0", "1.9.2", "2", "0.5", ".new-abc", "latest", "1.10.0.1"):
        (tmp_path / name).mkdir()
    (tmp_path / "3.0.0").write_text("a file, not a version")
    assert versions_in(tmp_path) == ["0.5", "1.9.2", "1.10.0", "1.10.0.1", "2"]
    assert versions_in(tmp_path / "none") == []
    assert version_key("2") == version_key("2.0.0")
