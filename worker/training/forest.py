"""The isolation forest of a bundle, fitted so that only what matters decides how it turns out.

A forest draws features and thresholds by chance. Features are therefore offered to it in the
order of their names, and those that never moved not at all: the order of channels in a
specification, and channels that never change, leave the forest as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest

TREES = 100
MAX_SAMPLES = 256


@dataclass(frozen=True)
class FittedForest:
    """An isolation forest on some of F features.

    Attributes:
        forest: fitted on ``columns`` only.
        columns: positions of its features among all.
        features: F.
    """

    forest: IsolationForest
    columns: NDArray[np.int64]
    features: int

    @classmethod
    def fit(cls, rows: NDArray[np.float32], names: Sequence[str], seed: int) -> FittedForest:
        """Fit a forest; same arguments, same forest.

        Args:
            rows: (n, F) finite, n >= 1.
            names: F different names.
        """
        order = np.argsort(np.array(names), kind="stable")
        moving = order[np.ptp(rows, axis=0)[order] > 0.0]
        columns = moving if len(moving) else order
        samples = min(MAX_SAMPLES, len(rows))
        forest = IsolationForest(n_estimators=TREES, max_samples=samples, random_state=seed)
        return cls(forest.fit(rows[:, columns]), columns, len(names))

    def score_samples(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores (n,) of rows (n, F) in [-1, 0], lower is worse."""
        scores: NDArray[np.float64] = self.forest.score_samples(rows[:, self.columns])
        return scores
