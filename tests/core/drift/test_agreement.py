"""Statistics are Evidently's where both define the same thing, computed by Evidently itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from evidently.legacy.calculations import stattests
from evidently.legacy.core import ColumnType
from scipy import stats

from tests.core.drift.series import judged, learned
from worker.core.drift import statistics
from worker.core.drift.outputs import Test as Found

RNG = np.random.default_rng(29)
USUAL = RNG.normal(size=(20_000, 3)).astype("f4")
WINDOW = (RNG.normal(size=(600, 3)) * [1.0, 1.5, 1.0] + [0.25, 0.0, 0.0]).astype("f4")
REFERENCE = learned(USUAL)
REPORT = judged(REFERENCE, WINDOW)
KINDS = ("a", "b", "c", "d")


def ours(column: int, name: str) -> Found:
    (one,) = [f for f in REPORT.features if f.feature == f"f{column}"]
    (test,) = [t for t in one.tests if t.name == name]
    return test


def theirs(test: object, column: int) -> float:
    usual, now = pd.Series(USUAL[:, column]), pd.Series(WINDOW[:, column])
    return float(test(usual, now, ColumnType.Numerical, None).drift_score)  # type: ignore[operator]


def shares_of(seed: int) -> tuple[pd.Series, pd.Series, np.ndarray, np.ndarray]:
    """Categories of 2,000 and 500 rows, and their shares."""
    rng = np.random.default_rng(seed)
    usual = rng.choice(KINDS, 2_000, p=[0.4, 0.3, 0.2, 0.1])
    now = rng.choice(KINDS, 500, p=[0.3, 0.3, 0.25, 0.15])
    p, q = (np.array([(rows == kind).mean() for kind in KINDS]) for rows in (now, usual))
    return pd.Series(usual), pd.Series(now), p[None], q[None]


@pytest.mark.parametrize("column", [0, 1, 2])
def test_the_drift_score_is_evidentlys_wasserstein_within_a_twentieth(column: int) -> None:
    expected = theirs(stattests.wasserstein_stat_test, column)
    assert ours(column, "wasserstein").value == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("column", [0, 1, 2])
def test_the_chance_of_kolmogorov_smirnov_is_evidentlys_within_a_cell(column: int) -> None:
    expected = theirs(stattests.ks_stat_test, column)
    exact = stats.ks_2samp(USUAL[:, column], WINDOW[:, column])
    assert expected == pytest.approx(exact.pvalue)
    own = ours(column, "ks")
    assert exact.statistic - 1 / 62 <= own.value <= exact.statistic + 1e-6
    # The distance that is a cell smaller has the largest chance that ours may say.
    rows = np.array([600 * 20_000 / 20_600])
    most = statistics.kolmogorov_chance(np.array([max(exact.statistic - 1 / 62, 0.0)]), rows)[0]
    assert 0.8 * expected <= own.p_value <= 1.3 * most


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_stability_index_of_categories_is_evidentlys(seed: int) -> None:
    usual, now, p, q = shares_of(seed)
    expected = stattests.psi_stat_test(usual, now, ColumnType.Categorical, None).drift_score
    assert statistics.population_stability(p, q)[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_jensen_shannon_distance_of_categories_is_evidentlys_but_for_the_logarithm(
    seed: int,
) -> None:
    usual, now, p, q = shares_of(seed)
    test = stattests.jensenshannon_stat_test
    expected = test(usual, now, ColumnType.Categorical, None).drift_score
    own = statistics.jensen_shannon(p, q)[0]
    # Evidently's logarithms are natural.
    assert own * np.sqrt(np.log(2.0)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_chi_squared_of_categories_is_evidentlys(seed: int) -> None:
    usual, now, p, q = shares_of(seed)
    expected = stattests.chi_stat_test(usual, now, ColumnType.Categorical, None).drift_score
    _, chance = statistics.chi_squared(p, q, np.array([500.0]))
    assert chance[0] == pytest.approx(expected, rel=1e-6)
