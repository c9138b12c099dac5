"""What training learned besides the forest: ``baselines.npz``, and ``reference.npz`` for drift.

Owns the files' layout: the arrays of the machines' baselines, of what is usual of their sensors,
and of how rare their codes were. What the arrays mean is the business of those they belong to.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.core.channels import ChannelSpec
from worker.core.codes import CodeBook
from worker.core.detection.baselines import Baselines
from worker.core.drift import Reference, watched_columns
from worker.core.errors import BundleError
from worker.core.health import HealthProfile


class Learned(NamedTuple):
    """What training learned of machines, sensors and codes."""

    baselines: Baselines
    health: HealthProfile
    codes: CodeBook


def pack(learned: Learned) -> bytes:
    """The content of the file; what is the same gives the same bytes."""
    arrays: dict[str, NDArray[Any]] = {}
    for part in learned:
        arrays.update(part.to_arrays())
    return _archive(arrays)


def pack_reference(reference: Reference) -> bytes:
    """The content of ``reference.npz``; what is the same gives the same bytes."""
    return _archive(reference.to_arrays())


def _archive(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpack_reference(content: bytes, spec: ChannelSpec, path: Path) -> Reference:
    """Read what :func:`pack_reference` gave.

    Raises:
        BundleError: it is no archive of arrays, or they do not fit each other or the channels.
    """
    arrays = _arrays(content, path)
    try:
        reference = Reference.from_arrays(arrays)
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise BundleError(
            f"{path}: an array is missing or does not fit the others ({error}); retrain the bundle."
        ) from error
    if reference.columns != watched_columns(spec)[0]:
        raise BundleError(
            f"{path}: it watches other columns than the specification in model.toml makes; "
            "restore all files from the same training."
        )
    return reference


def unpack(content: bytes, spec: ChannelSpec, path: Path) -> Learned:
    """Read what :func:`pack` gave.

    Args:
        path: where it was read, for errors.

    Raises:
        BundleError: it is no archive of arrays, or they do not fit each other or the channels.
    """
    arrays = _arrays(content, path)
    for name, array in arrays.items():
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise BundleError(
                f"{path}: array {name!r} has values that are no numbers; retrain the bundle."
            )
    try:
        baselines = Baselines.from_arrays(arrays)
        _check(arrays, spec, baselines)
        learned = Learned(
            baselines, HealthProfile.from_arrays(arrays), CodeBook.from_arrays(arrays)
        )
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise BundleError(
            f"{path}: an array is missing or does not fit the others ({error}); retrain the bundle."
        ) from error
    return learned


def _arrays(content: bytes, path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an archive."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    # What a damaged archive raises depends on where the damage is.
    except (
        *(OSError, ValueError, EOFError, KeyError, AttributeError, NotImplementedError),
        *(zipfile.BadZipFile, zlib.error),
    ) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise BundleError(
            f"{path} cannot be read as an archive of arrays: {reason}; retrain the bundle."
        ) from error


def _check(arrays: Mapping[str, NDArray[Any]], spec: ChannelSpec, baselines: Baselines) -> None:
    """Require the arrays to fit the specification and each other."""
    if baselines.signals_count != len(spec.signals):
        raise BundleError(
            f"there are baselines of {baselines.signals_count} signals, but the specification in "
            f"model.toml makes {len(spec.signals)}; restore all files from the same training."
        )
    machines, channels = len(baselines), len(spec.continuous)
    for name, dtype, shape in (
        ("ranges", "f4", (machines + 1, channels, 3)),
        ("limits", "u2", (machines + 1, channels, 2)),
        ("usual_us", "i8", (machines + 1, 2)),
        ("code_rows", "i8", (2,)),
    ):
        array = arrays[name]
        if array.dtype != np.dtype(dtype) or array.shape != shape:
            raise BundleError(
                f"array {name!r} is {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape}; "
                "retrain the bundle."
            )
    if arrays["code_rows"][1] != len(spec.events):
        raise BundleError(
            f"there are codes of {arrays['code_rows'][1]} channels, but the specification in "
            f"model.toml has {len(spec.events)}; restore all files from the same training."
        )
