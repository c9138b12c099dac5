from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from worker.core.drift.distances import wasserstein_chance


@pytest.mark.parametrize("rows", [100, 800])
def test_the_chance_of_a_distance_is_how_often_samples_of_normal_rows_are_so_far(rows: int) -> None:
    rng = np.random.default_rng(rows)
    normal = stats.norm.ppf((np.arange(rows) + 0.5) / rows)
    samples = np.sort(rng.normal(size=(3000, rows)), axis=1)
    chances = wasserstein_chance(np.abs(samples - normal).mean(axis=1), np.full(3000, float(rows)))
    assert np.mean(chances < 0.5) == pytest.approx(0.5, abs=0.05)
    assert 0.08 < np.mean(chances < 0.1) < 0.125
    assert 0.008 < np.mean(chances < 0.01) < 0.025
