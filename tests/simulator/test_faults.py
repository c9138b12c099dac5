from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.simulator.faults import (
    LONGEST_FAULT_US,
    US_PER_DAY,
    US_PER_HOUR,
    FaultRates,
    FaultSchedule,
)
from worker.simulator.models import GenericModel, MillingModel

START_US = 1_767_225_600_000_000
CHANNELS = ["vibration", "temperature", "torque"]


def schedule(
    rates: FaultRates, machines: int = 20, seed: int = 3, window_us: int = US_PER_HOUR
) -> FaultSchedule:
    return FaultSchedule(
        MillingModel.kinds,
        CHANNELS,
        [f"m-{m}" for m in range(machines)],
        rates,
        start_us=START_US,
        window_us=window_us,
        seed=seed,
    )


@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 5 * US_PER_DAY), min_size=1, max_size=10), seed=st.integers(0, 99)
)
def test_faults_do_not_depend_on_how_far_ahead_they_were_drawn(cuts: list[int], seed: int) -> None:
    stepwise = schedule(FaultRates(), seed=seed)
    for cut in sorted(cuts):
        stepwise.between(START_US, START_US + cut)
    end_us = START_US + 5 * US_PER_DAY
    whole = schedule(FaultRates(), seed=seed)
    assert set(stepwise.between(START_US, end_us)) == set(whole.between(START_US, end_us))


def test_faults_of_a_machine_never_overlap_and_begin_after_the_first_window() -> None:
    faults = schedule(FaultRates(5.0, 5.0, 1.0)).between(START_US, START_US + 20 * US_PER_DAY)
    assert len(faults) > 100
    for machine in range(20):
        own = sorted((f.start_us, f.end_us) for m, f in faults if m == machine)
        assert own[0][0] >= START_US + US_PER_HOUR
        for (_, end_us), (start_us, _) in pairwise(own):
            assert end_us <= start_us


def test_faults_come_about_as_often_as_their_rates_say() -> None:
    rates = FaultRates(machine=0.4, sensor=0.2, drift=0.1)
    days = 60
    faults = schedule(rates, machines=100).between(START_US, START_US + days * US_PER_DAY)
    for category in ("machine", "sensor", "drift"):
        count = sum(f.category == category for _, f in faults)
        rate = count / (100 * days)
        # Lower than asked for, because none begins during another one.
        assert 0.7 * getattr(rates, category) < rate < 1.05 * getattr(rates, category)


def test_all_kinds_happen_and_each_shows_in_known_channels() -> None:
    faults = [f for _, f in schedule(FaultRates()).between(START_US, START_US + 90 * US_PER_DAY)]
    kinds = {f.kind for f in faults}
    assert kinds == {*MillingModel.kinds, "missing", "stuck", "glitch", "silent", "slow-drift"}
    for fault in faults:
        assert fault.channels
        if fault.category == "machine":
            assert fault.channels == MillingModel.kinds[fault.kind].channels
        elif fault.kind == "silent":
            assert list(fault.channels) == CHANNELS
        else:
            assert len(fault.channels) == 1


def test_longer_windows_have_longer_faults_but_none_beyond_half_a_day() -> None:
    for window_us in (US_PER_HOUR, 24 * US_PER_HOUR):
        faults = schedule(FaultRates(drift=0.0), window_us=window_us)
        for _, fault in faults.between(START_US, START_US + 90 * US_PER_DAY):
            duration_us = fault.end_us - fault.start_us
            longest_us = min(2.5 * window_us, LONGEST_FAULT_US)
            assert 0.29 * longest_us < duration_us <= longest_us


def test_no_rates_mean_no_faults() -> None:
    assert schedule(FaultRates.none()).between(START_US, START_US + 90 * US_PER_DAY) == []


def test_only_faults_in_force_during_the_span_are_given() -> None:
    plan = schedule(FaultRates(5.0, 5.0, 1.0))
    start_us, end_us = START_US + 3 * US_PER_DAY, START_US + 3 * US_PER_DAY + US_PER_HOUR
    every = plan.between(START_US, START_US + 10 * US_PER_DAY)
    wanted = {(m, f) for m, f in every if f.start_us < end_us and f.end_us > start_us}
    assert wanted
    assert set(plan.between(start_us, end_us)) == wanted


def test_the_generic_faults_are_step_ramp_and_variance() -> None:
    assert list(GenericModel.kinds) == ["step", "ramp", "variance"]
