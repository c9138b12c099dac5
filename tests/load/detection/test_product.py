from __future__ import annotations

import numpy as np

from load.detection.cases import make_spec
from load.detection.fleets import Fleet, fleet_case
from load.detection.metrics import event_measures, judge
from load.detection.product import DriftDetector
from worker.core.channels import US_PER_S


def test_most_faults_of_a_calm_fleet_are_caught_and_named() -> None:
    case = fleet_case(Fleet("iid"), seed=0, machines=6)
    detector = DriftDetector()
    detector.fit(case.spec, case.train, seed=1)
    measures = event_measures([judge(case, detector.detect(case.test, 0.01))], 0.01)
    assert measures["events"] == 9
    assert measures["caught"] >= 8
    assert measures["right_channel_1"] >= 0.6
    assert measures["precision"] >= 0.5


def test_a_derived_signal_speaks_for_its_channels() -> None:
    derived = [{"name": "ab", "product": ["a", "b"]}]
    detector = DriftDetector()
    case = fleet_case(Fleet("iid"), seed=0, machines=1)
    spec = make_spec("test", ["a", "b", "c"], 60 * US_PER_S, derived)
    train = case.train._replace(values=case.train.values[:, :3])
    detector.fit(spec, train, seed=1)
    values = case.test.values[:, :3].copy()
    values[100:120, :2] *= 1.5
    found = detector.detect(case.test._replace(values=values), 0.1)
    assert found.is_anomaly[101]
    assert set(found.top_channels[101]) == {"a", "b", "c"}
    assert found.top_channels[101][2] == "c"
    assert np.isfinite(found.anomaly_score).all()


def test_a_series_that_never_moves_in_training_is_not_judged() -> None:
    case = fleet_case(Fleet("iid"), seed=0, machines=1)
    detector = DriftDetector()
    detector.fit(case.spec, case.train._replace(values=np.ones_like(case.train.values)), seed=1)
    found = detector.detect(case.test, 0.1)
    assert not found.episodes
    assert not found.is_anomaly.any()
