from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from worker.core.forest import NONE, Forest

Arrays = dict[str, Any]


@st.composite
def forests(draw: st.DrawFn, features: int = 5) -> Arrays:
    """One to four trees of any shape, in which a path may split on a feature more than once."""
    columns: Arrays = {name: [] for name in ("split", "threshold", "children", "rows", "value")}
    for _ in range(draw(st.integers(1, 4))):
        waiting = [(draw(st.integers(1, 60)), None, 0)]
        while waiting:
            rows, parent, side = waiting.pop()
            node = len(columns["rows"])
            if parent is not None:
                columns["children"][parent][side] = node
            splits = rows > 1 and draw(st.integers(0, 5)) > 0
            columns["rows"].append(float(rows))
            columns["children"].append([NONE, NONE])
            columns["split"].append(draw(st.integers(0, features - 1)) if splits else NONE)
            columns["threshold"].append(draw(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0])))
            columns["value"].append(draw(st.floats(-8.0, 8.0)))
            if splits:
                first = draw(st.integers(1, rows - 1))
                waiting += [(rows - first, node, 1), (first, node, 0)]
    return {
        "split": np.array(columns["split"], np.int32),
        "threshold": np.array(columns["threshold"], np.float32),
        "children": np.array(columns["children"], np.int32),
        "rows": np.array(columns["rows"]),
        "value": np.array(columns["value"]),
        "features": features,
    }


def chain(depth: int) -> Arrays:
    """A tree that asks for one feature after the other, twice each."""
    inner = list(range(depth * 2))
    nodes = 2 * len(inner) + 1
    children = np.full((nodes, 2), NONE, np.int32)
    for i in inner:
        children[2 * i] = (2 * i + 1, 2 * i + 2)
    rows = np.ones(nodes)
    rows[::2] = np.arange(len(inner) + 1, 0, -1)
    split = np.full(nodes, NONE, np.int32)
    split[: 2 * len(inner) : 2] = [i % depth for i in inner]
    return {
        "split": split,
        "threshold": np.linspace(-1.0, 1.0, nodes).astype(np.float32),
        "children": children,
        "rows": rows,
        "value": np.sqrt(np.arange(nodes)),
        "features": depth,
    }


def value_with(known: set[int], row: NDArray[np.float32], arrays: Arrays) -> float:
    """The trees' mean value when only some features of the row are known."""

    def below(node: int) -> float:
        left, right = arrays["children"][node].tolist()
        if left == NONE:
            return float(arrays["value"][node])
        feature = int(arrays["split"][node])
        if feature in known:
            return below(left if row[feature] <= arrays["threshold"][node] else right)
        share = arrays["rows"][left] / arrays["rows"][node]
        return float(share * below(left) + (1 - share) * below(right))

    roots = sorted(set(range(len(arrays["rows"]))) - set(arrays["children"].ravel().tolist()))
    return sum(map(below, roots)) / len(roots)


def shapley_by_definition(row: NDArray[np.float32], arrays: Arrays) -> list[float]:
    """Mean over all orders of what knowing a feature changes (L. S. Shapley, 1953)."""
    features = arrays["features"]
    result = []
    for j in range(features):
        others = [k for k in range(features) if k != j]
        total = 0.0
        for size in range(features):
            weight = math.factorial(size) * math.factorial(features - size - 1)
            for subset in combinations(others, size):
                changed = value_with({*subset, j}, row, arrays) - value_with(
                    set(subset), row, arrays
                )
                total += weight * changed
        result.append(total / math.factorial(features))
    return result


ROWS = st.lists(st.sampled_from([-2.0, -1.0, -0.7, 0.0, 0.2, 0.5, 3.0]), min_size=5, max_size=5)


@settings(max_examples=40, deadline=None)
@given(forests(), ROWS)
def test_values_are_shapleys_for_any_trees_and_row(arrays: Arrays, row: list[float]) -> None:
    x = np.array(row, np.float32)
    found = Forest.of(**arrays).shapley(x)
    np.testing.assert_allclose(found, shapley_by_definition(x, arrays), atol=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 7, 8, 9])
def test_values_are_exact_however_many_features_a_path_has(depth: int) -> None:
    arrays = chain(depth)
    x = np.linspace(0.9, -0.2, depth).astype(np.float32)
    found = Forest.of(**arrays).shapley(x)
    np.testing.assert_allclose(found, shapley_by_definition(x, arrays), rtol=1e-9, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(forests(), ROWS)
def test_values_add_up_to_what_the_row_changes(arrays: Arrays, row: list[float]) -> None:
    x = np.array(row, np.float32)
    changed = value_with(set(range(5)), x, arrays) - value_with(set(), x, arrays)
    assert Forest.of(**arrays).shapley(x).sum() == pytest.approx(changed, abs=1e-9)


def test_a_feature_that_no_tree_asks_for_has_no_part_in_the_score() -> None:
    arrays = chain(3) | {"features": 5}
    found = Forest.of(**arrays).shapley(np.array([0.9, -0.9, 0.1, 8.0, -8.0], np.float32))
    assert found[:3].all()
    assert found[3:].tolist() == [0.0, 0.0]


def broken(**changes: Any) -> Arrays:
    arrays = chain(2)
    for name, value in changes.items():
        if isinstance(value, tuple):
            arrays[name][value[0]] = value[1]
        else:
            arrays[name] = value
    return arrays


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        (broken(children=(4, [0, 5])), "no trees"),
        (broken(children=(4, [5, 99])), "no trees"),
        (broken(children=(4, [5, 5])), "no trees"),
        (broken(children=(4, [5, NONE])), "no trees"),
        (broken(rows=(3, 0.0)), "training rows"),
        (broken(rows=(3, math.nan)), "training rows"),
        (broken(split=(0, 2)), "beyond the 2"),
        (broken(split=(0, NONE)), "beyond the 2"),
    ],
)
def test_nodes_that_are_no_trees_are_refused(arrays: Arrays, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Forest.of(**arrays)
