from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.detection import readings_of, score, spec_of
from worker.core.detection.baselines import PRIOR, SD
from worker.training.fit import Fitted, fit

Floats = NDArray[np.float64]


def machine(rng: np.random.Generator, rows: int, level: float = 0.0) -> Floats:
    return level + rng.normal(size=(rows, 3))


def state_of(fitted: Fitted, machine_id: str, values: Floats) -> Floats:
    """A, from the scores."""
    scores = score(spec_of(3), fitted, machine_id, values).anomaly_score
    return 4.0 * (1.0 - scores) / (1.0 + scores)


@pytest.fixture(scope="module")
def fleet() -> Fitted:
    rng = np.random.default_rng(21)
    return fit(spec_of(3), readings_of([machine(rng, 3000, rng.normal()) for _ in range(6)]))


@pytest.mark.parametrize("tail", [0.1, 0.01])
def test_the_state_is_as_rare_in_new_readings_as_it_says(fleet: Fitted, tail: float) -> None:
    # The machines' levels are unknown here, so that each is compared with its own.
    levels = fleet.baselines.location[1:]
    rng = np.random.default_rng(22)
    found = np.concatenate(
        [state_of(fleet, f"m{k}", levels[k] + rng.normal(size=(4000, 3))) for k in range(6)]
    )
    share = float(np.mean(found >= -np.log10(tail)))
    assert tail / 3.0 < share < 1.5 * tail


def test_a_newcomer_is_ordinary_once_it_has_warmed_up(fleet: Fitted) -> None:
    rng = np.random.default_rng(23)
    found = state_of(fleet, "new", machine(rng, 5000, 0.7))[1000:]
    assert np.mean(found >= 2.0) < 0.015


def test_the_prior_bears_more_than_a_machine_of_the_training(fleet: Fitted) -> None:
    deviations = fleet.baselines.signals[:, SD]
    assert (deviations[PRIOR] >= np.median(deviations[1:], axis=0) * 0.999).all()


def test_machines_with_few_rows_are_judged_by_what_machines_alike_have_in_common() -> None:
    rng = np.random.default_rng(25)
    values = [machine(rng, 3000) for _ in range(6)] + [machine(rng, 45) for _ in range(4)]
    fitted = fit(spec_of(3), readings_of(values))
    # By their own 45 rows alone scales are from 0.8 to 1.4.
    assert fitted.baselines.scale[7:] == pytest.approx(1.0, abs=0.12)
    assert fitted.baselines.location[7:] == pytest.approx(0.0, abs=0.06)
    found = [score(spec_of(3), fitted, f"m{k}", machine(rng, 2000)) for k in range(6, 10)]
    assert np.mean([s.anomaly_score < s.threshold for s in found]) < 0.002


def test_what_machines_do_not_have_in_common_is_each_ones_own() -> None:
    rng = np.random.default_rng(26)
    spreads = np.array([1.0, 4.0, 0.3, 2.0, 9.0])
    levels = np.array([0.0, 50.0, -20.0, 90.0, 400.0])
    fitted = fit(
        spec_of(3),
        readings_of([a + s * machine(rng, 1000) for a, s in zip(levels, spreads, strict=True)]),
    )
    assert fitted.baselines.scale[1:, 0] == pytest.approx(spreads, rel=0.3)
    assert fitted.baselines.location[1:, 0] == pytest.approx(levels, abs=1.0)
