"""Distances and chances: as SciPy defines them, within stated bounds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import distance

from tests.core.drift.series import autoregressive, judged, learned
from worker.core.drift import statistics
from worker.core.drift.calibration import LongRun, adjust, limit_of, two_sided
from worker.core.drift.outputs import Test as Found

RNG = np.random.default_rng(17)
USUAL = RNG.normal(size=(20_000, 2)).astype("f4")
REFERENCE = learned(USUAL)
WINDOW = (RNG.normal(size=(600, 2)) * 1.2 + [0.4, 0.0]).astype("f4")
REPORT = judged(REFERENCE, WINDOW)


def found(feature: str, name: str) -> Found:
    (one,) = [f for f in REPORT.features if f.feature == feature]
    (test,) = [t for t in one.tests if t.name == name]
    return test


@pytest.mark.parametrize("column", [0, 1])
def test_kolmogorov_smirnov_is_scipys_within_a_cell(column: int) -> None:
    exact = stats.ks_2samp(WINDOW[:, column], USUAL[:, column])
    test = found(f"f{column}", "ks")
    assert exact.statistic - 1 / 62 <= test.value <= exact.statistic + 1e-9


@pytest.mark.parametrize("column", [0, 1])
def test_wasserstein_is_scipys_within_five_percent_of_a_standard_deviation(column: int) -> None:
    exact = stats.wasserstein_distance(WINDOW[:, column], USUAL[:, column])
    assert found(f"f{column}", "wasserstein").effect == pytest.approx(exact, abs=0.05)


def test_the_drift_score_does_not_depend_on_the_unit() -> None:
    small = learned(USUAL * np.float32(1e-6))
    report = judged(small, WINDOW * np.float32(1e-6))
    scores = {one.feature: one.score for one in report.features}
    assert scores == pytest.approx({one.feature: one.score for one in REPORT.features}, rel=1e-3)


def test_jensen_shannon_and_chi_squared_are_scipys() -> None:
    p, q = RNG.dirichlet(np.ones(8), 2)
    ours = statistics.jensen_shannon(p[None], q[None])[0]
    assert ours == pytest.approx(distance.jensenshannon(p, q, base=2))
    value, chance = statistics.chi_squared(p[None], q[None], np.array([250.0]))
    exact = stats.chisquare(p * 250.0, q * 250.0)
    assert (value[0], chance[0]) == pytest.approx((exact.statistic, exact.pvalue))


def test_the_stability_index_is_the_sum_of_both_relative_entropies() -> None:
    p, q = RNG.dirichlet(np.ones(8), 2)
    both = stats.entropy(p, q) + stats.entropy(q, p)
    assert statistics.population_stability(p[None], q[None])[0] == pytest.approx(both)


def test_chances_of_kolmogorov_smirnov_are_scipys_for_independent_rows() -> None:
    for n, d in ((40, 0.2), (300, 0.08), (2000, 0.03)):
        ours = statistics.kolmogorov_chance(np.array([d]), np.array([float(n)]))[0]
        assert ours == pytest.approx(stats.kstwo.sf(d, n), rel=0.05)


def test_students_t_is_scipys() -> None:
    t, freedom = np.array([0.5, 2.0, 6.0]), np.array([3.0, 30.0, 300.0])
    assert two_sided(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom))
    assert limit_of(0.01, freedom) == pytest.approx(stats.t.isf(0.005, freedom))


def test_equal_weights_adjust_as_benjamini_and_hochberg_do() -> None:
    p = RNG.random(40) ** 3
    ours = adjust(p, np.full(40, 1 / 40))
    assert ours == pytest.approx(stats.false_discovery_control(p, method="bh"))


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_the_variance_of_a_mean_is_that_of_an_autoregressive_series(phi: float) -> None:
    series = autoregressive(np.random.default_rng(5), 50_000, 4, phi).astype(np.float64)
    variance, freedom = LongRun.learn(series).of_mean(np.full(4, 600.0))
    exact = (1 + phi) / (1 - phi) / 600
    assert np.all((variance > 0.9 * exact) & (variance < 1.3 * exact))
    assert np.all(freedom > 1000)


def test_slow_parts_that_the_next_row_does_not_tell_of_widen_the_variance() -> None:
    rng = np.random.default_rng(9)
    cycle = np.sin(np.arange(40_000) / 40_000 * 2 * np.pi * 20)[:, None]
    series = rng.normal(size=(40_000, 3)) + cycle
    plain, _ = LongRun.learn(rng.normal(size=(40_000, 3)) * np.sqrt(1.5)).of_mean(np.full(3, 300.0))
    widened, _ = LongRun.learn(series).of_mean(np.full(3, 300.0))
    assert np.all(widened > 20 * plain)
    assert np.all(widened < 2.0)


def test_a_window_of_mostly_zero_chance_is_still_told_apart_by_range() -> None:
    chance = statistics.outside_chance(
        np.array([0.0, 0.01, 0.5]), np.array([100.0] * 3), np.array([10_000.0] * 3)
    )
    assert chance[0] == 1.0
    assert chance[1] == pytest.approx(2 * 100 / 10_100, rel=0.01)
    assert chance[2] < 1e-60
