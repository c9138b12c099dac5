from __future__ import annotations

import dataclasses

import numpy as np

from load.detection.simulated import Plant, plant_case, plants


def small(plant: Plant) -> Plant:
    return dataclasses.replace(plant, machines=4, interval_s=600.0)


def test_labels_are_the_machine_faults_in_force() -> None:
    case = plant_case(small(plants()[0]), 1, training_days=1, test_days=3)
    machine_faults = [e for e in case.events if e.category == "machine"]
    assert machine_faults
    expected = np.zeros(len(case.labels), np.bool_)
    for event in machine_faults:
        for row in np.flatnonzero(case.test.machine_ids == event.machine_id):
            expected[row] |= event.start_us <= case.test.times_us[row] < event.end_us
    assert np.array_equal(case.labels, expected)
    assert set(case.slices) <= {"L", "M", "H"}


def test_healthy_training_is_the_same_past_without_its_faults() -> None:
    healthy, unlabelled, *_ = map(small, plants())
    clean = plant_case(healthy, 2, training_days=3, test_days=1)
    dirty = plant_case(unlabelled, 2, training_days=3, test_days=1)
    assert np.array_equal(clean.test.values, dirty.test.values, equal_nan=True)
    assert not np.isnan(clean.train.values).any()
    known = dict(zip(clean.train.times_us.tolist(), clean.train.values, strict=True))
    same = [
        np.array_equal(known[t], v)
        for t, v in zip(dirty.train.times_us.tolist(), dirty.train.values, strict=True)
    ]
    assert 0.5 < np.mean(same) < 1.0


def test_newcomers_are_other_machines_than_those_that_are_learned() -> None:
    plant = small(next(plant for plant in plants() if plant.newcomers))
    case = plant_case(plant, 0, training_days=1, test_days=3)
    learned, judged = set(case.train.machine_ids), set(case.test.machine_ids)
    assert learned
    assert judged
    assert not learned & judged
    assert {event.machine_id for event in case.events} <= judged
