"""Checks of a bundle's files against its manifest before they may score anything.

Owns the refusals that concern hashes and ``model.onnx``: graph, signature, metadata,
golden vectors. Each is one :class:`BundleError` that says what to do. Those that concern the
arrays of ``baselines.npz`` are in ``learned.py``.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnxruntime as ort

from worker.core.detection.detector import Model
from worker.core.errors import BundleError
from worker.models.manifest import MANIFEST_NAME, Manifest

GOLDEN_RTOL = 1e-5


def read_file(folder: Path, name: str, sha256: str) -> bytes:
    """Read one of a bundle's files and compare its hash with the manifest's.

    Raises:
        BundleError: the file is missing or is not the one the manifest describes.
    """
    path = folder / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path} cannot be read: {error.strerror}; restore it beside its {MANIFEST_NAME}."
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise BundleError(
            f"{path} is not the file that {MANIFEST_NAME} describes: its sha256 is {digest}, not "
            f"{sha256}; restore all files from the same training."
        )
    return content


def open_session(content: bytes, path: Path, threads: int) -> ort.InferenceSession:
    """Open an ONNX session on the CPU.

    Threads of the session sleep between calls instead of spinning: the worker's
    other thread polls Kafka on the same cores.

    Raises:
        BundleError: onnxruntime refuses the graph, its opset or an operator.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no narrower base
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BundleError(
            f"{path} cannot be opened by onnxruntime {ort.__version__}: {reason}; "
            "retrain the bundle with this version of driftdetector."
        ) from error


def check_signature(session: ort.InferenceSession, features: int, path: Path) -> None:
    """Require one float32 input (N, ``features``) and one float32 output (N, 1) or (N,).

    Raises:
        BundleError: saying what the model has instead.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise BundleError(
            f"{path} has {len(inputs)} inputs and {len(outputs)} outputs; it must have one "
            "of each; export it with driftdetector train."
        )
    found = inputs[0]
    if (
        found.type != "tensor(float)"
        or len(found.shape) != 2
        or isinstance(found.shape[0], int)
        or found.shape[1] != features
    ):
        raise BundleError(
            f"{path} takes {found.type} of shape {found.shape}; model.toml lists {features} "
            f"features, so it must take tensor(float) of shape [N, {features}]."
        )
    result = outputs[0]
    fits = len(result.shape) == 1 or (len(result.shape) == 2 and result.shape[1] == 1)
    if result.type != "tensor(float)" or not fits:
        raise BundleError(
            f"{path} gives {result.type} of shape {result.shape}; it must give one score a "
            "row: tensor(float) of shape [N, 1]."
        )


def check_metadata(session: ort.InferenceSession, manifest: Manifest, path: Path) -> None:
    """Require that the metadata inside the model repeat the manifest's.

    Raises:
        BundleError: naming the entry that is missing or different.
    """
    found = session.get_modelmeta().custom_metadata_map
    for key, wanted in metadata_props(manifest).items():
        if key not in found:
            raise BundleError(
                f"{path} has no metadata entry {key!r}; export it with driftdetector train."
            )
        if found[key] != wanted:
            raise BundleError(
                f"{path}: metadata entry {key!r} differs from model.toml ({found[key][:80]!r} "
                f"against {wanted[:80]!r}); restore both files from the same training."
            )


def metadata_props(manifest: Manifest) -> dict[str, str]:
    """The entries that an exported model carries in ``metadata_props``."""
    return {
        "version": manifest.version,
        "author": manifest.metadata.author,
        "description": manifest.metadata.description,
        "training_date": manifest.metadata.training_date,
        "contamination": repr(manifest.metadata.contamination),
        "features": json.dumps([f.name for f in manifest.feature]),
    }


def check_golden(model: Model, manifest: Manifest, path: Path) -> None:
    """Require that the model reproduce the scores recorded at training.

    Raises:
        BundleError: naming the first vector whose score differs by more than 1e-5 of it.
    """
    rows = np.array([g.features for g in manifest.golden], dtype=np.float32)
    scores = model(rows)
    for i, golden in enumerate(manifest.golden):
        score = float(scores[i])
        if not -1.0 <= score <= 1.0:
            raise BundleError(
                f"{path} scores golden vector {i + 1} as {score}, outside [-1, 1]; "
                "retrain the bundle."
            )
        if abs(score - golden.score) > GOLDEN_RTOL * abs(golden.score):
            raise BundleError(
                f"{path} scores golden vector {i + 1} as {score:.7f}, training recorded "
                f"{golden.score:.7f}; this onnxruntime or file differs, retrain the bundle."
            )
