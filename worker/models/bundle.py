"""Finding, checking and opening model bundles.

A bundle is a folder ``models/<name>/<version>/`` with ``model.onnx``, ``baselines.npz``,
``model.toml`` and, for drift, ``reference.npz``. Nothing in it is used before every check of
``manifest.py`` and ``verify.py`` has passed.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from worker.core.channels import ChannelSpec
from worker.core.codes import CodeBook
from worker.core.detection.baselines import Baselines
from worker.core.detection.detector import Detector, Model
from worker.core.drift import Reference
from worker.core.episodes import DEFAULT_RULES, EpisodeRules, Episodes
from worker.core.errors import BundleError
from worker.core.forest import Forest
from worker.core.health import Health, HealthProfile
from worker.core.pipeline import Pipeline
from worker.core.planned import PlannedWindow
from worker.models.learned import unpack, unpack_reference
from worker.models.manifest import (
    BASELINES_NAME,
    MODEL_NAME,
    REFERENCE_NAME,
    Manifest,
    read_manifest,
    versions_in,
)
from worker.models.trees import read_forest
from worker.models.verify import (
    check_golden,
    check_metadata,
    check_signature,
    open_session,
    read_file,
)

_REFERENCE = re.compile(r"(?P<name>[a-z][a-z0-9-]*)(/(?P<version>\d+(\.\d+){0,3}))?")


class OnnxModel:
    """The isolation forest on an onnxruntime session."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name
        self._outputs = [session.get_outputs()[0].name]

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score rows of features.

        Args:
            features: (n, F) float32, n >= 0.

        Returns:
            (n,) float32, lower is worse.
        """
        scores: NDArray[np.float32] = self._session.run(self._outputs, {self._input: features})[0]
        return scores.reshape(-1)


@dataclass(frozen=True)
class Bundle:
    """A verified model with all that scoring needs.

    Attributes:
        name, version: as in ``models/<name>/<version>``; the name is the spec's.
        model: features (n, F) float32 to scores (n,) float32.
        forest: its trees, from which anomalies are explained.
        expected: (F,) training median of each feature.
        baselines: what training learned of each machine.
        health: what is usual of each machine's sensors.
        codes: how rare the machines' own codes were.
        reference: what drift is held against; None: it was trained before there was one.
        fingerprint: CRC-32 of ``baselines.npz``, never 0: what a machine's state refers to.
        budget: false episodes per machine and day that are tolerated.
        threshold: an expert's own anomaly score instead of what follows from the budget.
        framework: what runs the model, such as ``onnxruntime 1.32.0``.
        path: folder that it was loaded from.
    """

    name: str
    version: str
    spec: ChannelSpec
    model: Model
    forest: Forest
    expected: NDArray[np.float64]
    baselines: Baselines
    health: HealthProfile
    codes: CodeBook
    reference: Reference | None
    fingerprint: int
    budget: float
    threshold: float | None
    manifest: Manifest
    framework: str
    path: Path

    @property
    def model_version(self) -> str:
        """``name/version``, as anomalies carry it."""
        return f"{self.name}/{self.version}"

    def pipeline(
        self,
        *,
        budget: float | None = None,
        threshold: float | None = None,
        rules: EpisodeRules = DEFAULT_RULES,
        planned: Sequence[PlannedWindow] = (),
    ) -> Pipeline:
        """The pipeline that scores with this bundle.

        Args:
            budget, threshold: in place of the bundle's own.
            rules: when readings make an episode.
            planned: maintenance windows from configuration.
        """
        detector = Detector(
            self.spec,
            self.baselines,
            self.codes,
            self.model,
            self.expected,
            self.forest,
            budget=budget or self.budget,
            threshold=self.threshold if budget is None and threshold is None else threshold,
        )
        return Pipeline(
            self.model_version,
            self.fingerprint,
            detector,
            Health(self.spec, self.health),
            Episodes(self.spec, rules),
            planned,
        )

    def require_reference(self) -> Reference:
        """The drift reference.

        Raises:
            BundleError: the bundle has none.
        """
        if self.reference is None:
            raise BundleError(
                f"{self.path} has no {REFERENCE_NAME} to hold drift against, because it was "
                "trained before there was one or on too few rows; train the bundle anew with: "
                "driftdetector train."
            )
        return self.reference

    @property
    def metadata(self) -> dict[str, str | float]:
        """Author, description, training date and contamination."""
        meta = self.manifest.metadata
        return {
            "author": meta.author,
            "description": meta.description,
            "training_date": meta.training_date,
            "contamination": meta.contamination,
        }


def find_bundle(reference: str, models_dir: Path) -> Path:
    """Resolve ``name``, ``name/version`` or a path to a bundle's folder.

    A name alone means its newest version; versions are compared number by
    number, so 1.10.0 is newer than 1.9.0. Names are looked up in ``models_dir``
    first, then the reference is taken as a path.

    Raises:
        BundleError: nothing is there; lists what could be meant.
    """
    match = _REFERENCE.fullmatch(reference)
    if match:
        folder = models_dir / match["name"]
        known = versions_in(folder)
        if match["version"] in known:
            return folder / str(match["version"])
        if known and match["version"] is None:
            return folder / known[-1]
        if known:
            raise BundleError(
                f"bundle {reference!r} does not exist; versions of {match['name']} in "
                f"{models_dir} are {', '.join(known)}."
            )
    path = Path(reference).expanduser()
    if path.is_dir():
        return path / known[-1] if (known := versions_in(path)) else path
    names = sorted(p.name for p in models_dir.glob("*") if versions_in(p))
    raise BundleError(
        f"bundle {reference!r} does not exist; write one of the bundles in {models_dir} "
        f"({', '.join(names) or 'there are none'}), name/version, or the path of a bundle folder."
    )


def load_bundle(
    reference: str | os.PathLike[str], models_dir: Path, *, threads: int | None = None
) -> Bundle:
    """Find, verify and open a bundle.

    Args:
        reference: ``name`` (newest version), ``name/version`` or a folder's path.
        models_dir: folder with ``<name>/<version>/`` folders.
        threads: onnxruntime threads for one call; None: one a core.

    Raises:
        BundleError: it does not exist or fails a check; one sentence says which
            and what to do.
    """
    folder = find_bundle(os.fspath(reference), models_dir)
    manifest, spec = read_manifest(folder)
    path = folder / MODEL_NAME
    content = read_file(folder, MODEL_NAME, manifest.sha256.model)
    session = open_session(content, path, threads or os.cpu_count() or 1)
    check_signature(session, len(manifest.feature), path)
    check_metadata(session, manifest, path)
    model = OnnxModel(session)
    check_golden(model, manifest, path)
    arrays = read_file(folder, BASELINES_NAME, manifest.sha256.baselines)
    learned = unpack(arrays, spec, folder / BASELINES_NAME)
    return Bundle(
        name=spec.name,
        version=manifest.version,
        spec=spec,
        model=model,
        forest=read_forest(content, len(manifest.feature), path),
        expected=np.array([f.expected for f in manifest.feature]),
        baselines=learned.baselines,
        health=learned.health,
        codes=learned.codes,
        reference=_read_reference(folder, manifest, spec),
        fingerprint=zlib.crc32(arrays) or 1,
        budget=manifest.budget,
        threshold=manifest.threshold,
        manifest=manifest,
        framework=f"onnxruntime {ort.__version__}",
        path=folder,
    )


def _read_reference(folder: Path, manifest: Manifest, spec: ChannelSpec) -> Reference | None:
    digest = manifest.sha256.reference
    if digest is None:
        return None
    content = read_file(folder, REFERENCE_NAME, digest)
    return unpack_reference(content, spec, folder / REFERENCE_NAME)
