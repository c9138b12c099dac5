"""What a report was made from: versions and hashes, so that it can be made again."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path

from worker import __version__
from worker.assets import asset_dir
from worker.models.bundle import find_bundle
from worker.models.manifest import MANIFEST_NAME, read_manifest
from worker.recording.files import segments_of
from worker.replay.sides import EPISODES, SCORES, Side
from worker.replay.trial import Trial
from worker.training.readings import files_of

JUDGING = ("detection", "episodes", "maintenance")
"""Sections of the settings that say what becomes an episode."""


def made_from(trial: Trial) -> list[tuple[str, str]]:
    """What a trial was made from: pairs of a name and what it was, for people."""
    data = trial.data
    files = (
        files_of(data.path, "--data")
        if data.topic is None
        else [segment.path for segment in segments_of(data.path, data.topic)]
    )
    made = [
        ("data", f"{data.path.name}{f', topic {data.topic}' if data.topic else ''}"),
        ("data sha256", _hash_of(data.path, files)),
    ]
    for name, path in (("warm-up", data.warm_up), ("truth", trial.truth)):
        if path is not None:
            made += [(name, path.name), (f"{name} sha256", _hash_of(path, files_of(path, name)))]
    made += [*_of_bundle("model", trial.side), *_of_settings("settings", trial.side)]
    if trial.against is not None:
        if trial.against.model != trial.side.model:
            made += _of_bundle("other model", trial.against)
        made += _of_settings("other settings", trial.against)
    written = [trial.out / name for name in (SCORES, EPISODES)]
    made += [("results", ", ".join(f"{one.name} {_digest(one)}" for one in written))]
    made += [("program", f"driftdetector {__version__}, Python {platform.python_version()}")]
    return made


def _of_bundle(what: str, side: Side) -> list[tuple[str, str]]:
    folder = find_bundle(side.model, asset_dir("models"))
    manifest, spec = read_manifest(folder)
    training = manifest.training
    seen = (
        f"{training.source}: {training.rows:,} readings of {training.machines:,} machines "
        f"from {training.start} to {training.end}, seed {training.seed}"
    )
    return [
        (what, f"{spec.name}/{manifest.version} of {manifest.metadata.training_date}"),
        # The manifest has the hashes of the bundle's other files.
        (f"{what} sha256", f"{_digest(folder / MANIFEST_NAME)} ({MANIFEST_NAME})"),
        (f"{what} trained on", seen),
    ]


def _of_settings(what: str, side: Side) -> list[tuple[str, str]]:
    chosen = side.settings.model_dump(mode="json", include=set(JUDGING))
    text = json.dumps(chosen, sort_keys=True, separators=(",", ":"))
    shown = [
        f"{section}.{name} = {json.dumps(value)}"
        for section, values in sorted(chosen.items())
        for name, value in values.items()
        if value not in (None, [], {})
    ]
    return [
        (what, ", ".join(shown) or "all at their defaults"),
        (f"{what} sha256", hashlib.sha256(text.encode()).hexdigest()),
    ]


def _hash_of(root: Path, files: list[Path]) -> str:
    """The hash of a file; of several that of ``sha256sum``'s list of them, by name."""
    if files == [root]:
        return f"{_digest(root)} ({root.stat().st_size:,} bytes)"
    size = sum(file.stat().st_size for file in files)
    lines = sorted(f"{_digest(file)}  {file.relative_to(root)}\n" for file in files)
    lines.sort(key=lambda line: line[66:])
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    return f"{digest} of the list of {len(files):,} files ({size:,} bytes)"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
