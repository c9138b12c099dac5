"""Training of a bundle: from readings to baselines, forest, and files.

Owns what is checked before and after learning, and what is written. What is learned is
``fit.py``'s business, the ONNX graph ``export.py``'s, the layout that of ``worker.models``.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import polars as pl
import tomli_w
from numpy.typing import NDArray

from worker.core.channels import US_PER_S, ChannelSpec, format_duration
from worker.core.detection.detector import BUDGET
from worker.core.drift import Reference
from worker.core.errors import BundleError, ConfigError
from worker.core.health import HealthProfile, learn_profile
from worker.core.messages import format_time_us
from worker.models.bundle import Bundle, OnnxModel, load_bundle
from worker.models.learned import Learned, pack, pack_reference
from worker.models.manifest import (
    BASELINES_NAME,
    FORMAT,
    MANIFEST_NAME,
    MODEL_NAME,
    REFERENCE_NAME,
    Digests,
    Feature,
    Golden,
    Manifest,
    Metadata,
    TrainingData,
    versions_in,
)
from worker.models.verify import metadata_props, open_session
from worker.replay.backtest import answers_to, machine_days
from worker.training.export import to_onnx
from worker.training.fit import Fitted, counters, fit
from worker.training.forest import TREES, FittedForest
from worker.training.labels import Verdict, judge
from worker.training.readings import MachineReadings, halves, without_repeats
from worker.training.reference import MAX_MACHINES, drift_reference
from worker.training.window import interval_us, window_for

BUDGETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""What labels choose from, in false episodes per machine and day."""
MIN_ROWS = 50
GOLDEN_ROWS = 8
PARITY_ROWS = 20_000
PARITY_RTOL = 1e-5
AUTHOR = "DriftDetector"
ROWS_PER_WORKER = 50_000
"""So many readings are worth a process of their own."""
FIT_SHARE = 0.7
"""Of the time that training takes."""

Floats = NDArray[np.float64]
Progress = Callable[[float], None]


@dataclass(frozen=True)
class TrainingResult:
    """What was written and the figures to judge it by.

    Attributes:
        path: the new bundle's folder.
        episodes: how many the bundle makes of its own training data.
        machine_days: for how long these watched the machines.
        verdicts: what labels say of budgets, in ascending order; empty without labels.
        parity: largest relative difference from scikit-learn's scores.
        size_bytes: of all files.
        notes: what a person should know about the readings, a sentence each.
    """

    path: Path
    manifest: Manifest
    window: str
    episodes: int
    machine_days: float
    verdicts: dict[float, Verdict]
    parity: float
    size_bytes: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Recipe:
    """All that makes a bundle but readings and budget.

    Attributes:
        threshold: an expert's own.
        on_progress: called with the share of the whole training that is done.
    """

    spec: ChannelSpec
    version: str
    training_date: str
    threshold: float | None
    seed: int
    workers: int
    on_progress: Progress


def train(
    spec: ChannelSpec,
    readings: MachineReadings,
    out: Path,
    *,
    training_date: str,
    version: str | None = None,
    budget: float | None = None,
    threshold: float | None = None,
    labels: pl.DataFrame | None = None,
    seed: int = 7,
    workers: int = 1,
    machine_groups: bool = False,
    on_progress: Progress = lambda share: None,
) -> TrainingResult:
    """Train a bundle and write it to ``out/<version>/``; same arguments, same bytes.

    Args:
        readings: mostly ordinary work.
        out: folder of the bundle's versions.
        training_date: UTC, ``YYYY-MM-DD``.
        version: default: the next minor version, ``1.0.0`` at first.
        budget: false episodes per machine and day that are tolerated; default: what labels
            choose, else ``BUDGET``.
        threshold: an expert's own anomaly score instead of what follows from the budget.
        labels: known faults, as :func:`worker.training.labels.read_labels` gives them.
        workers: processes to use.
        machine_groups: whether each machine is also watched for drift of its own.
        on_progress: called with the share that is done.

    Raises:
        ConfigError: the readings cannot be learned from, or the version exists.
        BundleError: the exported model does not score as scikit-learn does.
    """
    version = version or next_version(versions_in(out))
    target = out / version
    if target.exists():
        raise ConfigError(f"--version: {target} exists already; choose another or remove it.")
    readings = without_repeats(readings)
    notes = (*readings.notes, *check(spec, readings))
    if machine_groups and len(readings.machine_ids) > MAX_MACHINES:
        raise ConfigError(
            f"--machine-groups: the readings are of {len(readings.machine_ids):,} machines, and "
            f"at most {MAX_MACHINES} can be watched each by itself; leave it out."
        )
    if spec.window is None:
        spec = spec.with_window(window_for(readings))
    recipe = _Recipe(spec, version, training_date, threshold, seed, workers, on_progress)
    # The share of the time that goes into the bundle itself; labels take three times as long.
    share = 1.0 if labels is None else 0.25
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as folder:
        verdicts: dict[float, Verdict] = {}
        if labels is not None:
            tried = BUDGETS if budget is None else (budget,)
            verdicts = _held_out(recipe, readings, labels, tried, Path(folder), 1.0 - share)
            budget = max(verdicts, key=lambda budget: verdicts[budget].f1)
        made = _make(
            recipe, readings, BUDGET if budget is None else budget, Path(folder), 1.0 - share, share
        )
        answers = answers_to(made.bundle.pipeline(), readings)
        metadata = msgspec.structs.replace(
            made.bundle.manifest.metadata,
            contamination=round(answers.anomalies / len(readings), 9),
        )
        bundle = write_bundle(
            made.bundle.path,
            msgspec.structs.replace(made.bundle.manifest, metadata=metadata),
            made.fitted.forest,
            made.learned,
            drift_reference(
                spec,
                readings,
                made.fitted,
                made.bundle.model,
                answers.anomalous,
                seed,
                machine_groups,
            ),
        )
        shutil.move(bundle.path, target)
    on_progress(1.0)
    return TrainingResult(
        path=target,
        manifest=bundle.manifest,
        window=format_duration(spec.length_us),
        episodes=len(answers.episodes()),
        machine_days=machine_days(readings),
        verdicts=verdicts,
        parity=made.parity,
        size_bytes=sum(file.stat().st_size for file in target.iterdir()),
        notes=notes,
    )


def next_version(known: list[str]) -> str:
    """The next minor version after the newest of ``known``, oldest first."""
    if not known:
        return "1.0.0"
    parts = [*known[-1].split("."), "0"]
    return f"{parts[0]}.{int(parts[1]) + 1}.0"


def check(spec: ChannelSpec, readings: MachineReadings) -> list[str]:
    """Notes about channels that say nothing.

    Raises:
        ConfigError: nothing can be learned from the readings.
    """
    source = readings.source
    usable = int((~np.isnan(readings.values).all(axis=1)).sum())
    if usable < MIN_ROWS:
        raise ConfigError(
            f"{source}: {usable} usable readings are too few to train on; give at least "
            f"{MIN_ROWS}, each with a machine_id, a timestamp and a number."
        )
    if interval_us(readings) is None:
        raise ConfigError(
            f"{source}: no machine has readings of two different moments; give a history."
        )
    notes, moves = [], False
    counting = counters(readings.values, readings.starts)
    for channel, column, counts in zip(spec.continuous, readings.values.T, counting, strict=True):
        known = column[~np.isnan(column)]
        if not len(known):
            notes.append(f"{channel.name}: no reading at all, so it is not watched")
        elif (known == known[0]).all():
            notes.append(f"{channel.name}: always {known[0]:g}, so any other value is a deviation")
        else:
            moves = True
        if counts:
            notes.append(
                f"{channel.name}: only ever rises or only ever falls, as a counter does, so it is "
                "not watched; what it counts in a unit of time could be"
            )
    if not moves:
        raise ConfigError(
            f"{source}: no channel ever changes, so there is nothing to learn; give a history of "
            "machines at work."
        )
    return notes


def write_bundle(
    folder: Path,
    manifest: Manifest,
    forest: FittedForest,
    learned: Learned,
    reference: Reference | None = None,
) -> Bundle:
    """Write a bundle's files, and load them as a worker would.

    Args:
        manifest: complete but for the hashes.
        reference: what drift is held against.

    Raises:
        BundleError: a worker would refuse the bundle.
    """
    folder.mkdir(exist_ok=True)
    files = {
        MODEL_NAME: to_onnx(forest, metadata_props(manifest)),
        BASELINES_NAME: pack(learned),
    }
    if reference is not None:
        files[REFERENCE_NAME] = pack_reference(reference)
    digests = Digests(*(hashlib.sha256(content).hexdigest() for content in files.values()))
    for name, content in files.items():
        (folder / name).write_bytes(content)
    text = tomli_w.dumps(msgspec.to_builtins(msgspec.structs.replace(manifest, sha256=digests)))
    (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")
    return load_bundle(folder, folder.parent)


class _Made(NamedTuple):
    """A bundle, what is in its files, and how far its model is from scikit-learn's."""

    bundle: Bundle
    fitted: Fitted
    learned: Learned
    parity: float


def _make(
    recipe: _Recipe,
    readings: MachineReadings,
    budget: float,
    folder: Path,
    before: float,
    share: float,
) -> _Made:
    """Learn from readings and write a bundle into ``folder``.

    Args:
        before, share: of the whole training, what was done before and what this is of it.
    """
    spec = recipe.spec
    fitted = fit(
        spec,
        readings,
        seed=recipe.seed,
        workers=min(recipe.workers, 1 + len(readings) // ROWS_PER_WORKER),
        on_progress=lambda done: recipe.on_progress(before + FIT_SHARE * share * done),
    )
    inputs, scores, parity = _check_parity(fitted)
    manifest = Manifest(
        format=FORMAT,
        version=recipe.version,
        budget=budget,
        threshold=recipe.threshold,
        sha256=Digests(model="0" * 64, baselines="0" * 64),
        metadata=Metadata(
            author=AUTHOR,
            description=f"Baselines and an isolation forest of {TREES} trees for {spec.name}",
            training_date=recipe.training_date,
            contamination=0.0,
        ),
        training=_described(readings, recipe.seed),
        spec=spec.to_dict(),
        feature=_features(spec, fitted),
        golden=_golden(inputs, scores),
    )
    learned = Learned(fitted.baselines, _profile(readings), fitted.codes)
    bundle = write_bundle(folder / "bundle", manifest, fitted.forest, learned)
    return _Made(bundle, fitted, learned, parity)


def _held_out(
    recipe: _Recipe,
    readings: MachineReadings,
    labels: pl.DataFrame,
    budgets: Sequence[float],
    folder: Path,
    share: float,
) -> dict[float, Verdict]:
    """What labels say of budgets, each half of the data judged by a bundle of the other half.

    A bundle knows the faults of its own training data, so it cannot be judged by them.
    """
    found: dict[float, list[pl.DataFrame]] = {budget: [] for budget in budgets}
    earlier, later = (replace(half, source=f"half of {half.source}") for half in halves(readings))
    for i, (history, rest) in enumerate(((earlier, later), (later, earlier))):
        check(recipe.spec, history)
        bundle = _make(recipe, history, budgets[0], folder, i * share / 2, share / 4).bundle
        for k, budget in enumerate(budgets):
            pipeline = bundle.pipeline(budget=budget, threshold=recipe.threshold)
            found[budget].append(answers_to(pipeline, rest).episodes())
            recipe.on_progress(share * (i / 2 + 0.25 + (k + 1) / len(budgets) / 4))
    within_us = recipe.spec.length_us
    return {budget: judge(labels, pl.concat(parts), within_us) for budget, parts in found.items()}


def _profile(readings: MachineReadings) -> HealthProfile:
    return learn_profile(readings.machine_ids, readings.starts, readings.times_us, readings.values)


def _described(readings: MachineReadings, seed: int) -> TrainingData:
    return TrainingData(
        source=readings.source,
        rows=len(readings),
        machines=len(readings.machine_ids),
        start=format_time_us(int(readings.times_us.min())),
        end=format_time_us(int(readings.times_us.max())),
        interval_s=(interval_us(readings) or 0.0) / US_PER_S,
        seed=seed,
    )


def _features(spec: ChannelSpec, fitted: Fitted) -> list[Feature]:
    columns = zip(spec.feature_names, spec.feature_units, fitted.expected.tolist(), strict=True)
    return [Feature(name=name, unit=unit, expected=value) for name, unit, value in columns]


def _check_parity(fitted: Fitted) -> tuple[NDArray[np.float32], Floats, float]:
    """Some inputs (k, F), their scores (k,) by the exported graph, and their largest error.

    Raises:
        BundleError: they are too far from scikit-learn's.
    """
    model = OnnxModel(open_session(to_onnx(fitted.forest, {}), Path(MODEL_NAME), threads=1))
    rows = np.unique(np.linspace(0, len(fitted.inputs) - 1, PARITY_ROWS).astype(np.int64))
    inputs = fitted.inputs[rows]
    scores = model(inputs).astype(np.float64)
    wanted = fitted.forest.score_samples(inputs)
    worst = float(np.max(np.abs(scores - wanted) / np.abs(wanted)))
    if not worst <= PARITY_RTOL:
        raise BundleError(
            f"the exported model differs from scikit-learn by {worst:.1e} of the score; "
            "this combination of onnx, onnxruntime and scikit-learn cannot be used."
        )
    return inputs, scores, worst


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
