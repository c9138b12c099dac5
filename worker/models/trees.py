"""The trees inside ``model.onnx``, for explaining what the model says.

Reads the attributes of the graph's TreeEnsembleRegressor with the part of ONNX's Protocol
Buffers schema that they need: the ``onnx`` package is for training only, and is not
installed where bundles are put to work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from worker.core.errors import BundleError
from worker.core.forest import NONE, Forest

_STRING, _FLOAT, _INT64, _MESSAGE = 9, 2, 3, 11
_SCHEMA: dict[str, dict[str, tuple[int, int]]] = {
    "Model": {"Graph": (7, _MESSAGE)},
    "Graph": {"Node": (1, _MESSAGE)},
    "Node": {"op_type": (4, _STRING), "Attribute": (5, _MESSAGE)},
    "Attribute": {"name": (1, _STRING), "floats": (7, _FLOAT), "ints": (8, _INT64)},
}
"""Number and type of the fields that are read, as in ``onnx.proto``; one that is a message
is named like its type. All are read as lists."""


def _message_type() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="trees.proto", package="driftdetector")
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            type_name = f".driftdetector.{field}" if kind == _MESSAGE else None
            message.field.add(name=field, number=number, type=kind, label=3, type_name=type_name)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("driftdetector.Model"))


_MODEL = _message_type()


def read_forest(content: bytes, features: int, path: Path) -> Forest:
    """The trees of a model.

    Args:
        content: ``model.onnx``.
        features: how many the model takes.
        path: what to call the file in errors.

    Raises:
        BundleError: the graph has no TreeEnsembleRegressor, or not the attributes and trees
            that ``worker/training/export.py`` writes.
    """
    try:
        model = _MODEL.FromString(content)
        ensembles = [
            node
            for graph in model.Graph
            for node in graph.Node
            if list(node.op_type) == ["TreeEnsembleRegressor"]
        ]
        if not ensembles:
            raise ValueError("it has no TreeEnsembleRegressor")
        columns = {
            attribute.name[0]: np.array(attribute.floats, np.float32)
            if attribute.floats
            else np.array(attribute.ints, np.int64)
            for attribute in ensembles[0].Attribute
        }
        return _forest(columns, features)
    except (DecodeError, KeyError, IndexError, ValueError) as error:
        why = f"{error} is missing or no node's" if isinstance(error, KeyError) else error
        raise BundleError(
            f"{path} cannot be explained: {why}; export it with driftdetector train."
        ) from error


def _forest(columns: dict[str, NDArray[Any]], features: int) -> Forest:
    def nodes(trees: str, ids: str) -> list[tuple[int, int]]:
        return list(zip(columns[trees].tolist(), columns[ids].tolist(), strict=True))

    keys = nodes("nodes_treeids", "nodes_nodeids")
    position = {key: i for i, key in enumerate(keys)}
    value = np.zeros(len(keys))
    leaves = [position[key] for key in nodes("target_treeids", "target_nodeids")]
    value[leaves] = columns["target_weights"]
    inner = np.ones(len(keys), np.bool_)
    inner[leaves] = False
    children = np.full((len(keys), 2), NONE, np.int32)
    for side, name in enumerate(("nodes_truenodeids", "nodes_falsenodeids")):
        below = nodes("nodes_treeids", name)
        children[inner, side] = [position[below[i]] for i in np.flatnonzero(inner).tolist()]
    return Forest.of(
        split=columns["nodes_featureids"].astype(np.int32),
        threshold=columns["nodes_values"].astype(np.float32),
        children=children,
        rows=columns["nodes_hitrates"].astype(np.float64),
        value=value,
        features=features,
    )
