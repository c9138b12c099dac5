from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from worker.core.errors import BundleError
from worker.models.trees import read_forest
from worker.training.export import to_onnx
from worker.training.forest import FittedForest

PATH = Path("bundle/model.onnx")


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float32]:
    """Rows of eight features, of which some repeat others and one never moves."""
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(2000, 8))
    rows[:, 3] = rows[:, 0] + 0.1 * rows[:, 3]
    rows[:, 5] = 1.0
    rows[:, 6] = np.round(rows[:, 6])
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def forest(rows: NDArray[np.float32]) -> FittedForest:
    return FittedForest.fit(rows, list("hgfedcba"), 3)


def test_values_equal_those_of_the_shap_package(
    forest: FittedForest, rows: NDArray[np.float32]
) -> None:
    import shap

    asked = np.concatenate([rows[:20], rows[:20] * 4]).astype(np.float32)
    wanted = np.zeros(asked.shape)
    explainer = shap.TreeExplainer(forest.forest)
    wanted[:, forest.columns] = explainer.shap_values(asked[:, forest.columns])
    own = read_forest(to_onnx(forest, {}), 8, PATH)
    found = np.array([own.shapley(row) for row in asked])
    # The exported leaves are rounded to 2**-12 of a step.
    np.testing.assert_allclose(found, wanted, atol=2.0**-12)
    assert np.abs(wanted).max() > 0.3


def test_values_add_up_to_the_exported_score(
    forest: FittedForest, rows: NDArray[np.float32]
) -> None:
    own = read_forest(to_onnx(forest, {}), 8, PATH)
    scores = forest.score_samples(rows[:50])
    lengths = np.array([own.shapley(row).sum() for row in rows[:50]])
    # score = -2 ** (-length / c), so that logarithms of scores differ as lengths do.
    slope = np.diff(np.log2(-scores)) / np.diff(lengths)
    np.testing.assert_allclose(slope, slope[0], rtol=1e-2)
    assert slope[0] < 0


def test_a_forest_whose_rows_were_all_alike_explains_nothing() -> None:
    forest = FittedForest.fit(np.zeros((40, 2), np.float32), ["a", "b"], 3)
    own = read_forest(to_onnx(forest, {}), 2, PATH)
    assert own.shapley(np.ones(2, np.float32)).tolist() == [0.0, 0.0]


def without(name: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        attributes = model.graph.node[0].attribute
        attributes.remove(next(a for a in attributes if a.name == name))

    return change


def shorter(name: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        attribute = next(a for a in model.graph.node[0].attribute if a.name == name)
        del (attribute.floats or attribute.ints)[5:]

    return change


def other_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "TreeEnsemble"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (other_operator, "it has no TreeEnsembleRegressor"),
        (without("nodes_hitrates"), "'nodes_hitrates' is missing"),
        (without("target_nodeids"), "'target_nodeids' is missing"),
        (shorter("nodes_hitrates"), "cannot be explained"),
        (shorter("nodes_featureids"), "cannot be explained"),
        (shorter("nodes_truenodeids"), "cannot be explained"),
        (shorter("target_weights"), "cannot be explained"),
        (shorter("nodes_nodeids"), "cannot be explained"),
    ],
)
def test_another_graph_is_refused_with_what_it_lacks(
    forest: FittedForest, change: Callable[[onnx.ModelProto], None], why: str
) -> None:
    model = onnx.load_from_string(to_onnx(forest, {}))
    change(model)
    with pytest.raises(BundleError, match=why) as error:
        read_forest(model.SerializeToString(), 8, PATH)
    assert str(error.value).startswith("bundle/model.onnx cannot be explained: ")
    assert str(error.value).endswith("; export it with driftdetector train.")


def test_bytes_that_are_no_model_and_a_forest_of_more_features_are_refused(
    forest: FittedForest,
) -> None:
    with pytest.raises(BundleError, match="cannot be explained"):
        read_forest(b"\xff\xff no model", 8, PATH)
    with pytest.raises(BundleError, match="beyond the 4"):
        read_forest(to_onnx(forest, {}), 4, PATH)
