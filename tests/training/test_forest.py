from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worker.training.forest import FittedForest


def rows(features: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(5).normal(size=(400, features)).astype(np.float32)


def test_the_order_of_features_does_not_matter() -> None:
    given = rows()
    one = FittedForest.fit(given, ["a", "b", "c"], 7).score_samples(given)
    order = [2, 0, 1]
    other = FittedForest.fit(given[:, order], ["c", "a", "b"], 7).score_samples(given[:, order])
    assert one.tolist() == other.tolist()


def test_features_that_never_moved_do_not_matter() -> None:
    given = rows()
    one = FittedForest.fit(given, ["a", "b", "d"], 7).score_samples(given)
    still = np.insert(given, 1, 4.0, axis=1)
    fitted = FittedForest.fit(still, ["a", "c", "b", "d"], 7)
    assert fitted.columns.tolist() == [0, 2, 3]
    assert fitted.score_samples(still).tolist() == one.tolist()


def test_where_nothing_ever_moved_all_rows_score_alike() -> None:
    fitted = FittedForest.fit(np.ones((50, 2), np.float32), ["a", "b"], 7)
    assert len(set(fitted.score_samples(rows(2)).tolist())) == 1
