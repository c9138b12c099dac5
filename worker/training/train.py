"""Training of a bundle: readings to features, isolation forest, scoring and files.

Owns what is learned and how. Features come from the same window code that the
worker runs; the ONNX graph from ``export.py``; the layout from ``manifest.py``.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import tomli_w
from numpy.typing import NDArray

from worker.core.channels import US_PER_S, ChannelSpec
from worker.core.detection.detector import BUDGET
from worker.core.errors import BundleError, ConfigError
from worker.core.health import HealthProfile, learn_profile
from worker.core.messages import format_time_us
from worker.models.bundle import OnnxModel, load_bundle
from worker.models.learned import Learned, pack
from worker.models.manifest import (
    BASELINES_NAME,
    FORMAT,
    MANIFEST_NAME,
    MODEL_NAME,
    Digests,
    Feature,
    Golden,
    Manifest,
    Metadata,
    TrainingData,
    versions_in,
)
from worker.models.verify import metadata_props, open_session
from worker.training import CONTAMINATION
from worker.training.export import to_onnx
from worker.training.fit import fit
from worker.training.forest import TREES, FittedForest
from worker.training.readings import MachineReadings, without_repeats
from worker.training.window import interval_us, window_for

QUANTILES = 1001
GOLDEN_ROWS = 8
PARITY_ROWS = 20_000
PARITY_RTOL = 1e-5
MIN_ROWS = 1000
BATCH_ROWS = 50_000
AUTHOR = "DriftDetector"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TrainingResult:
    """What was written and the figures to judge it by.

    Attributes:
        path: the new bundle's folder.
        flagged_share: share of training readings below the threshold.
        parity: largest relative difference from scikit-learn's scores.
    """

    path: Path
    rows: int
    machines: int
    features: int
    threshold: float
    flagged_share: float
    parity: float
    model_bytes: int


def train(
    spec: ChannelSpec,
    readings: MachineReadings,
    out: Path,
    *,
    training_date: str,
    version: str | None = None,
    budget: float = BUDGET,
    seed: int = 7,
    workers: int = 1,
    on_progress: Callable[[float], None] = lambda share: None,
) -> TrainingResult:
    """Train a bundle and write it to ``out/<version>/``; same arguments, same bytes.

    Args:
        readings: ordinary work; faults in them would be learned as ordinary.
        out: folder of the bundle's versions.
        training_date: UTC, ``YYYY-MM-DD``.
        version: default: the next minor version, ``1.0.0`` at first.
        budget: false episodes per machine and day that are tolerated.
        workers: processes to use.
        on_progress: called with the share that is done.

    Raises:
        ConfigError: too few readings, a channel without any, or the version exists.
        BundleError: the exported model does not score as scikit-learn does.
    """
    version = version or next_version(versions_in(out))
    target = out / version
    if target.exists():
        raise ConfigError(f"--version: {target} exists already; choose another or remove it.")
    readings = without_repeats(readings)
    if spec.window is None:
        spec = spec.with_window(window_for(readings))
    fitted = fit(
        spec,
        readings,
        seed=seed,
        workers=workers,
        on_progress=lambda share: on_progress(0.7 * share),
    )
    baselines = pack(Learned(fitted.baselines, _health(readings), fitted.codes))
    forest, inputs = fitted.forest, fitted.inputs
    scores = _score(to_onnx(forest, {}), inputs, lambda share: on_progress(0.7 + 0.3 * share))
    parity = _parity(forest, inputs, scores)
    threshold = round(float(np.quantile(scores, CONTAMINATION)), 6)

    manifest = Manifest(
        format=FORMAT,
        version=version,
        budget=budget,
        sha256=Digests(model="0" * 64, baselines=hashlib.sha256(baselines).hexdigest()),
        forest_threshold=threshold,
        score_quantiles=np.quantile(scores, np.linspace(0, 1, QUANTILES)).round(6).tolist(),
        metadata=Metadata(
            author=AUTHOR,
            description=f"Isolation forest of {TREES} trees for {spec.name}",
            training_date=training_date,
            contamination=CONTAMINATION,
        ),
        training=_described(readings, len(inputs), seed),
        spec=spec.to_dict(),
        feature=_learned_features(spec, inputs.astype(np.float64)),
        golden=_golden(inputs, scores),
    )
    content = to_onnx(forest, metadata_props(manifest))
    digests = msgspec.structs.replace(manifest.sha256, model=hashlib.sha256(content).hexdigest())
    write_bundle(
        target,
        {MODEL_NAME: content, BASELINES_NAME: baselines},
        msgspec.structs.replace(manifest, sha256=digests),
    )
    on_progress(1.0)
    return TrainingResult(
        path=target,
        rows=len(inputs),
        machines=manifest.training.machines,
        features=inputs.shape[1],
        threshold=threshold,
        flagged_share=float((scores < threshold).mean()),
        parity=parity,
        model_bytes=len(content),
    )


def next_version(known: list[str]) -> str:
    """The next minor version after the newest of ``known``, oldest first."""
    if not known:
        return "1.0.0"
    parts = [*known[-1].split("."), "0"]
    return f"{parts[0]}.{int(parts[1]) + 1}.0"


def write_bundle(target: Path, files: Mapping[str, bytes], manifest: Manifest) -> None:
    """Write a bundle's files and manifest, load them as a worker would, then put them in place.

    Raises:
        BundleError: a worker would refuse the bundle; nothing is left at ``target``.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as folder:
        new = Path(folder) / "bundle"
        new.mkdir()
        for name, content in files.items():
            (new / name).write_bytes(content)
        text = tomli_w.dumps(msgspec.to_builtins(manifest))
        (new / MANIFEST_NAME).write_text(text, encoding="utf-8")
        load_bundle(new, target.parent)
        shutil.move(new, target)


def _health(readings: MachineReadings) -> HealthProfile:
    return learn_profile(readings.machine_ids, readings.starts, readings.times_us, readings.values)


def _described(readings: MachineReadings, rows: int, seed: int) -> TrainingData:
    return TrainingData(
        source=readings.source,
        rows=rows,
        machines=len(readings.machine_ids),
        start=format_time_us(int(readings.times_us.min())),
        end=format_time_us(int(readings.times_us.max())),
        interval_s=(interval_us(readings) or 0.0) / US_PER_S,
        seed=seed,
    )


def _score(
    content: bytes, inputs: NDArray[np.float32], on_progress: Callable[[float], None]
) -> Floats:
    """Scores (n,) by the exported graph, which is what a worker compares with the threshold."""
    model = OnnxModel(open_session(content, Path(MODEL_NAME), threads=1))
    parts = []
    for start in range(0, len(inputs), BATCH_ROWS):
        parts.append(model(inputs[start : start + BATCH_ROWS]))
        on_progress((start + BATCH_ROWS) / (len(inputs) + BATCH_ROWS))
    return np.concatenate(parts).astype(np.float64)


def _parity(forest: FittedForest, inputs: NDArray[np.float32], scores: Floats) -> float:
    rows = np.unique(np.linspace(0, len(inputs) - 1, PARITY_ROWS).astype(np.int64))
    wanted = forest.score_samples(inputs[rows])
    worst = float(np.max(np.abs(scores[rows] - wanted) / np.abs(wanted)))
    if not worst <= PARITY_RTOL:
        raise BundleError(
            f"the exported model differs from scikit-learn by {worst:.1e} of the score; "
            "this combination of onnx, onnxruntime and scikit-learn cannot be used."
        )
    return worst


def _learned_features(spec: ChannelSpec, features: Floats) -> list[Feature]:
    """Expected value and spread of each feature.

    The spread is the larger of two robust standard deviations, from the median
    absolute deviation and from the range of the middle 98 %, because features such as
    tool wear are far from normal; never zero, for features that never moved.
    """
    expected = np.median(features, axis=0)
    mad = np.median(np.abs(features - expected), axis=0)
    low, high = np.quantile(features, [0.01, 0.99], axis=0)
    floor = np.maximum(1e-6 * np.abs(expected), 1e-9)
    spread = np.maximum.reduce([1.4826 * mad, (high - low) / 4.65, floor])
    return [
        Feature(name=name, expected=_short(e), spread=_short(s), unit=unit)
        for name, unit, e, s in zip(
            spec.feature_names, spec.feature_units, expected, spread, strict=True
        )
    ]


def _golden(inputs: NDArray[np.float32], scores: Floats) -> list[Golden]:
    """Rows evenly spread from the worst to the best score, exact in float32."""
    order = np.argsort(scores, kind="stable")
    rows = order[np.linspace(0, len(order) - 1, GOLDEN_ROWS).astype(np.int64)]
    return [
        Golden(
            score=float(str(np.float32(scores[row]))),
            features=[float(str(value)) for value in inputs[row]],
        )
        for row in rows
    ]


def _short(value: float) -> float:
    return float(f"{value:.6g}")
