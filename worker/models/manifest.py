"""The manifest of a model bundle, ``model.toml``: its keys, reading and validation.

Owns the file's format. Whether the files beside it fit is checked in
``verify.py``. docs/bundles.md describes every key.
"""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from worker.core.channels import ChannelSpec, spec_from_dict
from worker.core.errors import BundleError, ConfigError

MANIFEST_NAME = "model.toml"
MODEL_NAME = "model.onnx"
BASELINES_NAME = "baselines.npz"
REFERENCE_NAME = "reference.npz"
FORMAT: Literal[2] = 2

_VERSION = re.compile(r"\d+(\.\d+){0,3}")

Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
Version = Annotated[str, msgspec.Meta(pattern=r"^\d+(\.\d+){0,3}$")]


class Digests(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The sha256 of the files beside the manifest; bundles of before drift have no reference."""

    model: Sha256
    baselines: Sha256
    reference: Sha256 | None = None


class Metadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who trained the model, when and how; the same is inside ``model.onnx``.

    Attributes:
        training_date: UTC date as ``YYYY-MM-DD``.
        contamination: share of the training readings that are anomalies to the bundle.
    """

    author: str
    description: str
    training_date: str
    contamination: float


class TrainingData(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the model has seen.

    Attributes:
        source: the file, folder or simulation that the readings came from.
        rows: number of readings.
        start, end: event time of the first and last reading, RFC 3339.
        interval_s: median time between two readings of a machine.
        seed: of the forest.
    """

    source: str
    rows: int
    machines: int
    start: str
    end: str
    interval_s: float
    seed: int


class Feature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model input; ``expected`` is its training median, which stands in where it is missing."""

    name: str
    expected: float
    unit: str = ""


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of features with the score the model must give for it."""

    score: float
    features: list[float]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """``model.toml``, in the order in which it is written.

    Attributes:
        format: version of this layout.
        budget: false episodes per machine and day that are tolerated; gives the threshold.
        threshold: an expert's own, instead: anomaly scores below it are anomalies.
        sha256: of the other files.
        spec: the channel specification as :meth:`ChannelSpec.to_dict` gives it.
        feature: the model's inputs in order.
    """

    format: Literal[2]
    version: Version
    budget: float
    sha256: Digests
    metadata: Metadata
    training: TrainingData
    spec: dict[str, Any]
    feature: list[Feature]
    golden: Annotated[list[Golden], msgspec.Meta(min_length=1)]
    threshold: float | None = None


def read_manifest(folder: Path) -> tuple[Manifest, ChannelSpec]:
    """Read and validate ``model.toml`` of the bundle in ``folder``.

    Raises:
        BundleError: the file is missing, not TOML, incomplete or contradicts itself.
    """
    path = folder / MANIFEST_NAME
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(
            f"{path} does not exist; give a folder with {MODEL_NAME}, {BASELINES_NAME} and "
            f"{MANIFEST_NAME}, "
            "or train one with: driftdetector train."
        ) from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}; fix its access.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is not valid TOML: {error}; restore or retrain it.") from error
    if data.get("format") == 1:
        raise BundleError(
            f"{path} is of format 1, which has no baselines of the machines; train the bundle "
            "anew with: driftdetector train."
        )
    try:
        manifest = msgspec.convert(data, Manifest)
        spec = spec_from_dict(manifest.spec, f"{path}: spec")
    except msgspec.ValidationError as error:
        what = str(error).replace("`$.", "`")
        raise BundleError(f"{path}: {what}; restore or retrain the bundle.") from error
    except ConfigError as error:
        raise BundleError(str(error)) from error
    _check_features(manifest, spec, path)
    _check_numbers(manifest, path)
    if _VERSION.fullmatch(folder.name) and folder.name != manifest.version:
        raise BundleError(
            f"{path} says version {manifest.version} but its folder is named {folder.name}; "
            "rename the folder."
        )
    return manifest, spec


def version_key(version: str) -> tuple[int, ...]:
    """Sort key of a version: numbers compared part by part, so 1.10.0 follows 1.9.2."""
    parts = [int(part) for part in version.split(".")]
    return tuple(parts + [0] * (4 - len(parts)))


def versions_in(folder: Path) -> list[str]:
    """Versions of one bundle, oldest first: its sub-folders named like ``1.0.0``."""
    if not folder.is_dir():
        return []
    names = [p.name for p in folder.iterdir() if p.is_dir() and _VERSION.fullmatch(p.name)]
    return sorted(names, key=version_key)


def _check_features(manifest: Manifest, spec: ChannelSpec, path: Path) -> None:
    names = tuple(f.name for f in manifest.feature)
    if len(names) != len(spec.feature_names):
        raise BundleError(
            f"{path}: {len(names)} features are listed but its spec makes "
            f"{len(spec.feature_names)}; retrain the bundle for these channels."
        )
    for i, (name, wanted) in enumerate(zip(names, spec.feature_names, strict=True)):
        if name != wanted:
            raise BundleError(
                f"{path}: feature {i + 1} is {name!r} but its spec makes {wanted!r} there; "
                "retrain the bundle for these channels."
            )


def _check_numbers(manifest: Manifest, path: Path) -> None:
    for feature in manifest.feature:
        if not math.isfinite(feature.expected):
            raise BundleError(
                f"{path}: expected of feature {feature.name!r} is {feature.expected}, "
                "not a finite number; retrain the bundle."
            )
    if not (math.isfinite(manifest.budget) and manifest.budget > 0):
        raise BundleError(
            f"{path}: budget {manifest.budget} is not a positive number of false episodes per "
            "machine and day; retrain the bundle."
        )
    if manifest.threshold is not None and not -1.0 < manifest.threshold <= 1.0:
        raise BundleError(
            f"{path}: threshold {manifest.threshold} is outside (-1, 1]; retrain the bundle."
        )
    for i, golden in enumerate(manifest.golden):
        if len(golden.features) != len(manifest.feature):
            raise BundleError(
                f"{path}: golden vector {i + 1} has {len(golden.features)} values for "
                f"{len(manifest.feature)} features; restore or retrain the bundle."
            )
        if not all(map(math.isfinite, [golden.score, *golden.features])):
            raise BundleError(
                f"{path}: golden vector {i + 1} has a value that is not a finite number; "
                "restore or retrain the bundle."
            )
