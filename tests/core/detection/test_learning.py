"""What detection learns while it runs: a newcomer's place, and a level that is to be new."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.detection import readings_of, score, spec_of
from worker.core.detection.streams import WARM_UP_WINDOWS
from worker.training.crossfit import WINDOW_ROWS
from worker.training.fit import Fitted, fit

Floats = NDArray[np.float64]

WARM_UP_ROWS = WARM_UP_WINDOWS * WINDOW_ROWS
SPEC = spec_of(3)


def machine(rng: np.random.Generator, rows: int, level: float = 0.0) -> Floats:
    return level + rng.normal(size=(rows, 3))


@pytest.fixture(scope="module")
def fleet() -> Fitted:
    """Machines at levels of their own."""
    rng = np.random.default_rng(31)
    return fit(SPEC, readings_of([machine(rng, 2000, 5.0 * rng.normal()) for _ in range(5)]))


def test_experience_grows_to_one_over_the_warm_up_and_is_one_for_known_machines(
    fleet: Fitted,
) -> None:
    rng = np.random.default_rng(32)
    experience = score(SPEC, fleet, "new", machine(rng, 400, 20.0)).experience
    assert (np.diff(experience) >= 0.0).all()
    assert experience[WARM_UP_ROWS // 2] == pytest.approx(0.5, abs=0.01)
    assert (experience[:WARM_UP_ROWS] < 1.0).all()
    assert (experience[WARM_UP_ROWS:] == 1.0).all()
    known = score(SPEC, fleet, "m0", machine(rng, 10)).experience
    assert (known == 1.0).all()


def test_a_newcomer_is_less_certain_while_it_warms_up(fleet: Fitted) -> None:
    rng = np.random.default_rng(33)
    found = score(SPEC, fleet, "new", machine(rng, 400, 20.0))
    assert (found.confidence <= found.experience).all()
    assert (found.threshold[:10] < found.threshold[-1]).all()


def test_a_newcomer_comes_to_expect_its_own_level(fleet: Fitted) -> None:
    rng = np.random.default_rng(34)
    values = machine(rng, 1200, 20.0)
    found = score(SPEC, fleet, "new", values)
    assert found.expected[-100:] == pytest.approx(20.0, abs=1.0)
    assert not (found.anomaly_score < found.threshold).any()


def test_nothing_is_learned_of_readings_under_maintenance(fleet: Fitted) -> None:
    rng = np.random.default_rng(35)
    values = machine(rng, 400, 20.0)
    found = score(SPEC, fleet, "new", values, maintained=slice(100, 200))
    assert (found.threshold[100:200] == -1.0).all()
    assert found.experience[199] == found.experience[100]
    values[100:200] = 1e6
    again = score(SPEC, fleet, "new", values, maintained=slice(100, 200))
    # Until then they are in the aggregates of the window, which are what they are.
    after = slice(200 + WINDOW_ROWS, None)
    assert (again.expected[200:] == found.expected[200:]).all()
    assert (again.anomaly_score[after] == found.anomaly_score[after]).all()


def test_a_level_that_is_learned_anew_is_ordinary_and_without_that_it_is_not(
    fleet: Fitted,
) -> None:
    rng = np.random.default_rng(36)
    values = fleet.baselines.location[1] + rng.normal(size=(1500, 3))
    values[500:] += 8.0
    before = score(SPEC, fleet, "m0", values)
    assert (before.anomaly_score < before.threshold)[510:].mean() > 0.9
    after = score(SPEC, fleet, "m0", values, relearn=500)
    assert not (after.anomaly_score < after.threshold)[500:].any()
    assert after.experience[500] < 0.1
    assert after.expected[-100:, 0] == pytest.approx(values[500:, 0].mean(), abs=1.0)
