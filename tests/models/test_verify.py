from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.models.test_manifest import edit, put
from worker.core.errors import BundleError
from worker.models.bundle import load_bundle


def rewrite(bundle: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    """Change the model and record its new hash, as if it had been trained that way."""
    path = bundle / "model.onnx"
    model = onnx.load(path)
    change(model)
    replace(bundle, model.SerializeToString())


def replace(bundle: Path, content: bytes) -> None:
    (bundle / "model.onnx").write_bytes(content)
    edit(bundle, put("sha256", "model", value=hashlib.sha256(content).hexdigest()))


def shape(values: list[onnx.ValueInfoProto], kind: int, dims: list[str | int]) -> None:
    name = values[0].name
    values[0].CopyFrom(helper.make_tensor_value_info(name, kind, dims))


def second_output(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Neg", ["score"], ["other"]))
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, ["N", 1]))


def two_columns(model: onnx.ModelProto) -> None:
    model.graph.node[-1].output[0] = "single"
    model.graph.node.append(helper.make_node("Concat", ["single", "single"], ["score"], axis=1))
    shape(model.graph.output, TensorProto.FLOAT, ["N", 2])


def double_output(model: onnx.ModelProto) -> None:
    model.graph.node[-1].output[0] = "single"
    model.graph.node.append(helper.make_node("Cast", ["single"], ["score"], to=TensorProto.DOUBLE))
    shape(model.graph.output, TensorProto.DOUBLE, ["N", 1])


def drop_prop(name: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        kept = [prop for prop in model.metadata_props if prop.key != name]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)

    return change


def set_prop(name: str, value: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        for prop in model.metadata_props:
            if prop.key == name:
                prop.value = value

    return change


def half_scores(model: onnx.ModelProto) -> None:
    scale = model.graph.initializer[0]
    value = onnx.numpy_helper.to_array(scale) * np.float32(0.5)
    scale.CopyFrom(onnx.numpy_helper.from_array(np.float32(value), scale.name))


def positive_exponent(model: onnx.ModelProto) -> None:
    scale = model.graph.initializer[0]
    value = onnx.numpy_helper.to_array(scale) * np.float32(-1.0)
    scale.CopyFrom(onnx.numpy_helper.from_array(np.float32(value), scale.name))


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[-1].op_type = "Frobnicate"


def future_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 999


DAMAGE: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "unknown operator": (unknown_operator, r"cannot be opened by onnxruntime"),
    "opset from the future": (future_opset, r"cannot be opened by onnxruntime.*opset"),
    "fewer inputs": (
        lambda model: shape(model.graph.input, TensorProto.FLOAT, ["N", 18]),
        r"shape \['N', 18\]; model.toml lists 19 features",
    ),
    "fixed batch": (
        lambda model: shape(model.graph.input, TensorProto.FLOAT, [1, 19]),
        r"takes tensor\(float\) of shape \[1, 19\]",
    ),
    "double input": (
        lambda model: shape(model.graph.input, TensorProto.DOUBLE, ["N", 19]),
        r"takes tensor\(double\)|cannot be opened",
    ),
    "second output": (second_output, r"has 1 inputs and 2 outputs"),
    "two columns": (two_columns, r"gives tensor\(float\) of shape \['N', 2\]"),
    "double output": (double_output, r"gives tensor\(double\)"),
    "no features entry": (drop_prop("features"), r"no metadata entry 'features'"),
    "other features": (set_prop("features", "[]"), r"metadata entry 'features' differs"),
    "other version": (set_prop("version", "9.9.9"), r"metadata entry 'version' differs"),
    "other scores": (half_scores, r"scores golden vector 1 as .* training recorded"),
    "scores out of range": (positive_exponent, r"outside \[-1, 1\]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_model_that_does_not_fit_is_refused_in_one_sentence(bundle: Path, damage: str) -> None:
    change, sentence = DAMAGE[damage]
    rewrite(bundle, change)
    with pytest.raises(BundleError, match=sentence) as refusal:
        load_bundle(bundle, bundle.parents[1])
    message = str(refusal.value)
    assert str(bundle / "model.onnx") in message
    assert "\n" not in message
    assert message.endswith(".")


@pytest.mark.parametrize("name", ["model.onnx", "baselines.npz"])
def test_every_flipped_byte_of_a_file_is_noticed(bundle: Path, name: str) -> None:
    path = bundle / name
    content = bytearray(path.read_bytes())
    for position in (0, len(content) // 2, len(content) - 1):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(BundleError, match=r"is not the file that model\.toml describes"):
            load_bundle(bundle, bundle.parents[1])


@pytest.mark.parametrize("name", ["model.onnx", "baselines.npz"])
def test_a_missing_file_is_refused(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=rf"{name} cannot be read: .*beside its model\.toml"):
        load_bundle(bundle, bundle.parents[1])


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07"])
def test_bytes_that_are_no_model_are_refused(bundle: Path, content: bytes) -> None:
    replace(bundle, content)
    with pytest.raises(BundleError, match=r"cannot be opened by onnxruntime|0 inputs"):
        load_bundle(bundle, bundle.parents[1])


def test_a_golden_score_within_the_tolerance_passes_and_beyond_it_does_not(bundle: Path) -> None:
    def scale(factor: float) -> Callable[[dict[str, object]], object]:
        def change(data: dict[str, object]) -> None:
            data["golden"][2]["score"] *= factor  # type: ignore[index]

        return change

    edit(bundle, scale(1 + 5e-6))
    load_bundle(bundle, bundle.parents[1])
    edit(bundle, scale(1 + 1e-4))
    with pytest.raises(BundleError, match="golden vector 3"):
        load_bundle(bundle, bundle.parents[1])
