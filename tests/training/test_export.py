from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import IsolationForest
from sklearn.ensemble._iforest import _average_path_length

from worker.models.bundle import OnnxModel
from worker.models.verify import open_session
from worker.training.export import WEIGHT_STEP, leaf_weights, path_length, round_down, to_onnx
from worker.training.forest import FittedForest

FEATURES = 32
ROWS = 30_000


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Rows on very different scales, with repeated values and some far outliers."""
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(ROWS, FEATURES)) * 10.0 ** rng.integers(-6, 7, FEATURES)
    rows[:, 3] = np.round(rng.normal(size=ROWS))
    rows[:, 4] = 1e8 + rng.normal(size=ROWS)
    rows[::100] *= 30.0
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def forest(rows: np.ndarray) -> FittedForest:
    """A forest whose columns are not in the order of the features."""
    return FittedForest.fit(rows, [f"f{-i}" for i in range(FEATURES)], 1)


@pytest.fixture(scope="module")
def content(forest: FittedForest) -> bytes:
    return to_onnx(forest, {"version": "1.0.0", "features": "[]"})


def model(content: bytes, threads: int = 1) -> OnnxModel:
    return OnnxModel(open_session(content, Path("model.onnx"), threads))


def test_scores_equal_those_of_scikit_learn(
    forest: FittedForest, content: bytes, rows: np.ndarray
) -> None:
    scores = model(content)(rows)
    np.testing.assert_allclose(scores, forest.score_samples(rows), rtol=1e-5, atol=0)


def test_rows_that_lie_exactly_on_a_split_take_the_branch_of_scikit_learn(
    forest: FittedForest, content: bytes
) -> None:
    rng = np.random.default_rng(6)
    rows = np.zeros((20_000, FEATURES), np.float32)
    splits: list[list[float]] = [[] for _ in range(FEATURES)]
    for estimator in forest.forest.estimators_:
        tree = estimator.tree_
        for feature, threshold in zip(tree.feature, tree.threshold, strict=True):
            if feature >= 0:
                splits[feature].append(threshold)
    for feature, thresholds in enumerate(splits):
        nearest = rng.choice(thresholds, len(rows)).astype(np.float32)
        steps = rng.choice(np.float32([-np.inf, np.inf]), len(rows))
        moved = np.nextafter(nearest, steps)
        rows[:, feature] = np.where(rng.random(len(rows)) < 0.5, nearest, moved)
    scores = model(content)(rows)
    np.testing.assert_allclose(scores, forest.score_samples(rows), rtol=1e-5, atol=0)


def test_scores_are_the_same_bits_for_any_batch_size_and_thread_count(
    content: bytes, rows: np.ndarray
) -> None:
    sample = np.concatenate([rows[:400], rows[::100][:200]])
    wanted = model(content, threads=1)(sample)
    for threads in (1, 2):
        score = model(content, threads=threads)
        for size in range(1, 301):
            start = size % 97
            found = score(sample[start : start + size])
            assert found.tobytes() == wanted[start : start + size].tobytes(), (threads, size)
        singles = np.concatenate([score(sample[i : i + 1]) for i in range(len(sample))])
        assert singles.tobytes() == wanted.tobytes()
        assert score(sample[::-1].copy())[::-1].tobytes() == wanted.tobytes()


def test_large_batches_give_the_same_bits_as_single_rows(content: bytes, rows: np.ndarray) -> None:
    one, two = model(content, threads=1), model(content, threads=2)
    wanted = one(rows)
    assert two(rows).tobytes() == wanted.tobytes()
    for i in range(0, ROWS, 1009):
        assert one(rows[i : i + 1]).tobytes() == wanted[i : i + 1].tobytes()


def test_the_graph_is_compact_and_of_the_promised_opset(content: bytes) -> None:
    graph = onnx.load_from_string(content)
    nodes = [node.op_type for node in graph.graph.node]
    assert nodes == ["TreeEnsembleRegressor", "Mul", "Exp", "Neg"]
    assert {o.domain: o.version for o in graph.opset_import} == {"": 12, "ai.onnx.ml": 3}
    assert {p.key: p.value for p in graph.metadata_props} == {"version": "1.0.0", "features": "[]"}
    assert len(content) < 500_000


def test_the_same_forest_gives_the_same_bytes(forest: FittedForest, content: bytes) -> None:
    assert to_onnx(forest, {"version": "1.0.0", "features": "[]"}) == content


def test_path_lengths_are_those_of_scikit_learn() -> None:
    samples = np.arange(0, 1000)
    np.testing.assert_allclose(path_length(samples), _average_path_length(samples), rtol=1e-14)


def test_leaf_weights_are_depth_plus_path_length_in_whole_steps() -> None:
    # A root, its leaf of 2 rows, and a node with leaves of 1 and 5.
    left = np.array([1, -1, 3, -1, -1])
    right = np.array([2, -1, 4, -1, -1])
    samples = np.array([8, 2, 6, 1, 5])
    weights = leaf_weights(left, right, samples)
    exact = np.array([1 + 1, 2 + 0, 2 + _average_path_length(np.array([5]))[0]])
    np.testing.assert_allclose(weights[[1, 3, 4]], exact, atol=WEIGHT_STEP / 2)
    assert (weights / WEIGHT_STEP == np.round(weights / WEIGHT_STEP)).all()


@given(
    threshold=st.floats(-(2.0**100), 2.0**100),
    near=st.integers(-3, 3),
    other=st.floats(-(2.0**100), 2.0**100, width=32),
)
def test_a_rounded_threshold_splits_float32_values_as_the_exact_one_does(
    threshold: float, near: int, other: float
) -> None:
    value = np.float32(threshold)
    for _ in range(abs(near)):
        value = np.nextafter(value, np.float32(np.sign(near) * np.inf))
    rounded = round_down(np.array([threshold]))[0]
    assert rounded.dtype == np.float32
    for x in (value, np.float32(other)):
        assert (x <= rounded) == (float(x) <= threshold)


def test_a_forest_too_large_for_exact_sums_is_refused() -> None:
    rng = np.random.default_rng(0)
    forest = IsolationForest(n_estimators=300, max_samples=256, random_state=0)
    forest.fit(rng.normal(size=(1000, 2)))
    with pytest.raises(ValueError, match="train fewer trees"):
        to_onnx(FittedForest(forest, np.arange(2), 2), {})
