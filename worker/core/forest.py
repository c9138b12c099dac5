"""Why the isolation forest finds a row abnormal: exact Shapley values of its features.

What is divided among the features is the row's mean path length over the trees: the
forest's score is a function of it alone, and the shorter it is, the more abnormal. A feature
that is left out counts as in path-dependent TreeSHAP (S. Lundberg et al., "From local
explanations to global understanding with explainable AI for trees", 2020): the row goes both
ways at its splits, in the ratio of the training rows that did.

For one leaf let z be the product of those ratios over the splits on a feature, and o whether
the row passes all of them (1) or not (0). The Shapley value of feature j is then the integral
over t from 0 to 1 of the leaf's value times (o_j - z_j) times the product over the path's
other features k of (t o_k + (1 - t) z_k) (G. Owen, "Multilinear extensions of games", 1972).
That is a polynomial in t, which Gauss-Legendre quadrature integrates exactly with half as
many points as the path has features. So one pass down a tree gathers the products, and
one pass up the sums over leaves. What depends on the tree alone is computed beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]

NONE = -1


@dataclass(frozen=True)
class Forest:
    """Trees as arrays over their N nodes; a node comes after its parent.

    The last axis but one of ``factor`` and ``gain`` is whether the row passes (1) the node's
    split or not (0); the last is the points of the quadrature.

    Attributes:
        feature: (N,) the feature that splits the node's parent, NONE at a root.
        threshold: (N,) where that feature is split.
        lower: (N,) whether the node takes rows at or below the threshold.
        parent: (N,) NONE at a root.
        previous: (N,) the nearest node above of the same feature, NONE without.
        share: (N,) of the training rows at the parent, those that went here.
        factor: (N, 2, Q) what the product gains on the way from the parent to the node.
        gain: (N, 2, Q) what the leaves below count for the feature, less what they would
            without the node's split, times the quadrature's weights.
        value: (N,) path length of a leaf divided by the number of trees, 0 elsewhere.
        features: F.
    """

    feature: Ints
    threshold: NDArray[np.float32]
    lower: NDArray[np.bool_]
    parent: Ints
    previous: Ints
    share: Floats
    factor: Floats
    gain: Floats
    value: Floats
    features: int

    @classmethod
    def of(
        cls,
        split: Ints,
        threshold: NDArray[np.float32],
        children: Ints,
        rows: Floats,
        value: Floats,
        features: int,
    ) -> Forest:
        """Arrange trees for the kernel.

        Args:
            split: (N,) the feature that a node splits on.
            threshold: (N,) rows at or below it go to the first child.
            children: (N, 2) NONE at leaves.
            rows: (N,) training rows in each node.
            value: (N,) path length of a leaf.
            features: F.

        Raises:
            ValueError: the nodes are no trees whose children follow their parent, a node has
                no training rows, or there is no such feature.
        """
        nodes = len(split)
        inner = np.flatnonzero(children[:, 0] != NONE)
        below = children[inner]
        if (
            (below <= inner[:, None]).any()
            or (below >= nodes).any()
            or len(np.unique(below)) < below.size
        ):
            raise ValueError("its nodes are no trees in which children follow their parent")
        if not (rows > 0).all():
            raise ValueError("it does not say how many training rows each node had")
        if ((split[inner] < 0) | (split[inner] >= features)).any():
            raise ValueError(f"it splits on a feature beyond the {features} that it takes")
        parent = np.full(nodes, NONE, np.int32)
        parent[below] = inner[:, None]
        lower = np.zeros(nodes, np.bool_)
        lower[below[:, 0]] = True
        feature = np.where(parent == NONE, NONE, split[parent]).astype(np.int32)
        share = np.where(parent == NONE, 1.0, rows / rows[parent])
        previous = np.full(nodes, NONE, np.int32)
        passing = np.ones(nodes)
        longest = _look_up(parent, feature, share, previous, passing)
        factor, gain = _tables(passing, np.where(previous == NONE, 1.0, passing[previous]), longest)
        return cls(
            feature=feature,
            threshold=threshold[parent],
            lower=lower,
            parent=parent,
            previous=previous,
            share=share,
            factor=factor,
            gain=gain,
            value=np.where(children[:, 0] == NONE, value, 0.0) / max((parent == NONE).sum(), 1),
            features=features,
        )

    def shapley(self, row: NDArray[np.float32]) -> Floats:
        """Shapley values (F,) of a row's features.

        Args:
            row: (F,) finite model inputs.

        Returns:
            By how much each feature changes the mean path length; negative ones make the row
            abnormal. They add up to the row's mean path length less that of the training rows.
        """
        values = np.zeros(self.features)
        _shapley(
            row,
            self.feature,
            self.threshold,
            self.lower,
            self.parent,
            self.previous,
            self.share,
            self.factor,
            self.gain,
            self.value,
            values,
        )
        return values


def _tables(z: Floats, z_above: Floats, longest: int) -> tuple[Floats, Floats]:
    """``Forest.factor`` and ``Forest.gain``.

    Args:
        z, z_above: (N,) share of the training rows that pass all splits on the node's feature
            on the way to the node, and to ``Forest.previous``.
        longest: most features on any path.
    """
    points, weights = np.polynomial.legendre.leggauss(max(longest + 1, 2) // 2)
    t, weights = (points + 1.0) / 2.0, weights / 2.0
    z, z_above = z[:, None], z_above[:, None]
    above = t + (1.0 - t) * z_above
    factors, gains = [], []
    for o in (0.0, 1.0):
        here = t * o + (1.0 - t) * z
        factors.append(here / above)
        gains.append(weights * ((o - z) / here - (1.0 - z_above) / above))
    return np.stack(factors, axis=1), np.stack(gains, axis=1)


@njit("i8(i4[::1], i4[::1], f8[::1], i4[::1], f8[::1])", cache=True, nogil=True)
def _look_up(parent, feature, share, previous, passing):  # type: ignore[no-untyped-def]
    """Fill in ``previous``, and z of each node; returns the most features on any path."""
    count = np.zeros(len(parent), np.int64)
    for node in range(len(parent)):
        if parent[node] == NONE:
            continue
        above = parent[node]
        count[node] = count[above]
        while above != NONE and feature[above] != feature[node]:
            above = parent[above]
        previous[node] = above
        passing[node] = share[node]
        if above == NONE:
            count[node] += 1
        else:
            passing[node] *= passing[above]
    return count.max()


@njit(
    "void(f4[::1], i4[::1], f4[::1], b1[::1], i4[::1], i4[::1], f8[::1], f8[:, :, ::1],"
    "f8[:, :, ::1], f8[::1], f8[::1])",
    cache=True,
    nogil=True,
)
def _shapley(  # type: ignore[no-untyped-def]
    row, feature, threshold, lower, parent, previous, share, factor, gain, value, values
):
    """Add the Shapley value of each feature to ``values`` (F,)."""
    nodes, points = factor.shape[0], factor.shape[2]
    passed = np.ones(nodes, np.bool_)
    product = np.ones((nodes, points))
    total = np.zeros((nodes, points))
    for node in range(nodes):
        above = parent[node]
        if above != NONE:
            before = previous[node]
            if before == NONE or passed[before]:
                passed[node] = (row[feature[node]] <= threshold[node]) == lower[node]
                o = np.int64(passed[node])
                for q in range(points):
                    product[node, q] = product[above, q] * factor[node, o, q]
            else:
                passed[node] = False
                for q in range(points):
                    product[node, q] = product[above, q] * share[node]
        if value[node] != 0.0:
            for q in range(points):
                total[node, q] = product[node, q] * value[node]
    for node in range(nodes - 1, -1, -1):
        above = parent[node]
        if above == NONE:
            continue
        for q in range(points):
            total[above, q] += total[node, q]
        before = previous[node]
        if before != NONE and not passed[before]:
            continue
        o = np.int64(passed[node])
        counted = 0.0
        for q in range(points):
            counted += total[node, q] * gain[node, o, q]
        values[feature[node]] += counted
