"""An isolation forest as a compact ONNX graph.

The score of an isolation forest (Liu, Ting and Zhou, "Isolation Forest", ICDM
2008) is ``-2 ** (-E[h] / c(psi))``, where h is the depth at which a tree isolates
the row plus c(n) for the n training rows left in the leaf. Everything that
depends on the leaf alone goes into its weight, so that the graph is one
TreeEnsembleRegressor followed by Mul, Exp and Neg. Its ``nodes_hitrates`` are the numbers of
training rows in the nodes, which explaining a score needs (:mod:`worker.core.forest`).

Scores do not depend on how rows are batched: weights are multiples of 2**-12
and each sum over the trees stays below 2**12, so every partial sum is exact in
float32, whatever order onnxruntime adds in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from worker.training.forest import FittedForest

OPSET = 12
OPSET_ML = 3
IR_VERSION = 7
WEIGHT_STEP = 2.0**-12


def to_onnx(fitted: FittedForest, metadata: Mapping[str, str]) -> bytes:
    """Export a fitted forest.

    The graph maps ``features`` float32 [N, F] to ``score`` float32 [N, 1], equal to
    ``fitted.score_samples`` to a relative 1e-5.

    Args:
        fitted: each tree on all of its columns (``max_features=1.0``).
        metadata: written to the model's ``metadata_props``.

    Raises:
        ValueError: the forest is too large for exact sums in float32.
    """
    forest = fitted.forest
    attributes, largest_sum = _tree_attributes(fitted)
    if largest_sum >= 2**24 * WEIGHT_STEP:
        raise ValueError(
            f"path lengths of the trees can add up to {largest_sum:.0f}, more than float32 "
            "sums exactly; train fewer trees."
        )
    trees = len(forest.estimators_)
    scale = -math.log(2.0) / (trees * float(path_length(np.array([forest.max_samples_]))[0]))
    nodes = [
        helper.make_node(
            "TreeEnsembleRegressor",
            ["features"],
            ["path_length"],
            domain="ai.onnx.ml",
            n_targets=1,
            aggregate_function="SUM",
            post_transform="NONE",
            **attributes,
        ),
        helper.make_node("Mul", ["path_length", "scale"], ["exponent"]),
        helper.make_node("Exp", ["exponent"], ["magnitude"]),
        helper.make_node("Neg", ["magnitude"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "isolation_forest",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", fitted.features])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 1])],
        [helper.make_tensor("scale", TensorProto.FLOAT, [], [scale])],
    )
    model = helper.make_model(
        graph,
        producer_name="driftdetector",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", OPSET_ML)],
    )
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def path_length(samples: NDArray[np.int64]) -> NDArray[np.float64]:
    """c(n): mean depth of an unsuccessful search in a binary tree of n rows (Liu et al., eq. 1)."""
    n = samples.astype(np.float64)
    large = np.maximum(n, 3.0)
    c = 2.0 * (np.log(large - 1.0) + np.euler_gamma) - 2.0 * (large - 1.0) / large
    return np.where(n <= 1.0, 0.0, np.where(n == 2.0, 1.0, c))


def _tree_attributes(fitted: FittedForest) -> tuple[dict[str, Any], float]:
    """Attributes of TreeEnsembleRegressor, and the largest sum of leaf weights possible."""
    columns: dict[str, Any] = {
        name: []
        for name in (
            "nodes_treeids",
            "nodes_nodeids",
            "nodes_featureids",
            "nodes_modes",
            "nodes_values",
            "nodes_truenodeids",
            "nodes_falsenodeids",
            "nodes_hitrates",
            "target_treeids",
            "target_nodeids",
            "target_ids",
            "target_weights",
        )
    }
    largest_sum = 0.0
    for tree_id, estimator in enumerate(fitted.forest.estimators_):
        tree = estimator.tree_
        leaf = tree.children_left < 0
        count = tree.node_count
        weights = leaf_weights(tree.children_left, tree.children_right, tree.n_node_samples)
        largest_sum += float(weights.max())
        columns["nodes_treeids"] += [tree_id] * count
        columns["nodes_nodeids"] += range(count)
        columns["nodes_featureids"] += np.where(leaf, 0, fitted.columns[tree.feature]).tolist()
        columns["nodes_modes"] += np.where(leaf, "LEAF", "BRANCH_LEQ").tolist()
        columns["nodes_values"] += np.where(leaf, 0.0, round_down(tree.threshold)).tolist()
        columns["nodes_truenodeids"] += np.where(leaf, 0, tree.children_left).tolist()
        columns["nodes_falsenodeids"] += np.where(leaf, 0, tree.children_right).tolist()
        columns["nodes_hitrates"] += tree.n_node_samples.astype(np.float32).tolist()
        leaves = np.flatnonzero(leaf)
        columns["target_treeids"] += [tree_id] * len(leaves)
        columns["target_nodeids"] += leaves.tolist()
        columns["target_ids"] += [0] * len(leaves)
        columns["target_weights"] += weights[leaves].tolist()
    return columns, largest_sum


def leaf_weights(
    left: NDArray[np.int64], right: NDArray[np.int64], samples: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Depth plus c(n) of each node of one tree, in multiples of ``WEIGHT_STEP``.

    Args:
        left, right: (nodes,) children, -1 at leaves; children follow their parent.
        samples: (nodes,) training rows in each node.
    """
    depth = np.zeros(len(left))
    for node in np.flatnonzero(left >= 0):
        depth[left[node]] = depth[right[node]] = depth[node] + 1
    return np.round((depth + path_length(samples)) / WEIGHT_STEP) * WEIGHT_STEP


def round_down(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """Largest float32 that is not above each threshold.

    A float32 value is <= the result exactly when it is <= the float64 threshold,
    so rows take the branches they take in scikit-learn.
    """
    nearest = thresholds.astype(np.float32)
    below = np.nextafter(nearest, np.float32(-np.inf))
    return np.where(nearest.astype(np.float64) > thresholds, below, nearest)
