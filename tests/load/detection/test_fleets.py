from __future__ import annotations

import numpy as np
import pytest

from load.detection.fleets import FLEETS, Fleet, fleet_case

NAMES = ("channel_0", "channel_1", "channel_2", "channel_3")


def test_a_fleet_follows_from_its_name_and_seed() -> None:
    first, again = (fleet_case(FLEETS[0], 3, machines=2) for _ in range(2))
    other = fleet_case(FLEETS[0], 4, machines=2)
    assert np.array_equal(first.test.values, again.test.values)
    assert not np.array_equal(first.test.values, other.test.values)


def test_faults_move_the_channels_that_the_truth_names() -> None:
    case = fleet_case(Fleet("iid"), 0, machines=4)
    assert len(case.events) == 6
    for event in case.events:
        own = case.test.machine_ids == event.machine_id
        during = own & (case.test.times_us >= event.start_us) & (case.test.times_us <= event.end_us)
        assert case.labels[during].all()
        quiet = own & ~case.labels
        spread = case.test.values[quiet].std(axis=0)
        moved = case.test.values[during].mean(axis=0) - case.test.values[quiet].mean(axis=0)
        size_sd = dict(zip(NAMES, abs(moved / spread), strict=True))
        assert all((size > 0.5) == (name in event.channels) for name, size in size_sd.items())


@pytest.mark.parametrize("phi", [0.0, 0.8])
def test_readings_are_as_autocorrelated_as_the_fleet_says(phi: float) -> None:
    case = fleet_case(Fleet("check", phi=phi), 0, machines=6)
    for rows in case.train.by_machine().values():
        x = case.train.values[rows]
        x = (x - x.mean(axis=0)) / x.std(axis=0)
        assert (x[1:] * x[:-1]).mean() == pytest.approx(phi, abs=0.12)


def test_the_learned_days_come_before_the_judged_ones() -> None:
    case = fleet_case(FLEETS[-1], 1, machines=2)
    assert case.train.times_us.max() < case.test.times_us.min()
    assert all(e.start_us >= case.test.times_us.min() for e in case.events)
