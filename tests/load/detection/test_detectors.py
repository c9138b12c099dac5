from __future__ import annotations

import numpy as np
import pytest

from load.detection.cases import Case
from load.detection.detectors import SIMPLE, Detections, bridged
from load.detection.fleets import Fleet, fleet_case


@pytest.fixture(scope="module")
def case() -> Case:
    return fleet_case(Fleet("iid"), seed=0, machines=2)


def detect(name: str, case: Case, budget: float) -> Detections:
    detector = SIMPLE[name]()
    detector.fit(case.spec, case.train, seed=1)
    return detector.detect(case.test, budget)


@pytest.mark.parametrize("name", SIMPLE)
def test_a_reading_is_anomalous_exactly_below_the_threshold(name: str, case: Case) -> None:
    found = detect(name, case, 1.0)
    assert np.array_equal(found.is_anomaly, found.anomaly_score < found.threshold)
    assert len(found.top_channels) == len(case.test.times_us)


@pytest.mark.parametrize("name", ["random", "rolling z-score", "isolation forest"])
def test_a_larger_budget_flags_more(name: str, case: Case) -> None:
    assert detect(name, case, 0.1).is_anomaly.sum() < detect(name, case, 10.0).is_anomaly.sum()


def test_guessing_keeps_the_budget(case: Case) -> None:
    assert len(detect("random", case, 0.2).episodes) == pytest.approx(0.2 * 2 * 80, abs=15)


def test_a_spike_is_first_for_the_rolling_z_score(case: Case) -> None:
    values = case.test.values.copy()
    values[500, 2] += 100.0
    detector = SIMPLE["rolling z-score"]()
    detector.fit(case.spec, case.train, seed=1)
    found = detector.detect(case.test._replace(values=values), 0.1)
    assert np.argmin(found.anomaly_score) == 500
    assert found.top_channels[500][0] == "channel_2"


def test_short_gaps_are_bridged_and_longer_ones_are_not() -> None:
    flags = np.array([1, 0, 0, 1, 0, 0, 0, 1, 0, 0], np.bool_)
    assert bridged(flags, 2).tolist() == [1, 1, 1, 1, 0, 0, 0, 1, 0, 0]
