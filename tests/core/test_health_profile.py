from __future__ import annotations

import io
import math
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.core.test_health import Events, run
from worker.assets import asset_dir
from worker.core.channels import ChannelSpec, parse_spec
from worker.core.features import mask_impossible
from worker.core.health import Health, HealthProfile, Transition, learn_profile
from worker.simulator import Fault, FaultRates, Simulator

START_US = 1_767_225_600_000_000
DAY_US = 86_400_000_000
STUCK, MISSING = 0, 1
NEVER = 0
NAN = math.nan


def learned(
    *machines: NDArray[np.float64], interval_s: float = 10.0, gaps_s: dict[int, float] | None = None
) -> HealthProfile:
    """The profile of machines with these readings (n,) or (n, C), an event each ``interval_s``."""
    columns = [values if values.ndim == 2 else values[:, None] for values in machines]
    times = []
    for values in columns:
        steps = np.full(len(values), interval_s)
        for row, gap_s in (gaps_s or {}).items():
            steps[row] = gap_s
        times.append(START_US + np.round(steps.cumsum() * 1e6).astype(np.int64))
    starts = np.cumsum([0, *map(len, columns)])
    ids = [f"m{k}" for k in range(len(columns))]
    return learn_profile(ids, starts, np.concatenate(times), np.concatenate(columns))


def noise(n: int = 20_000, digits: int = 3, seed: int = 1) -> NDArray[np.float64]:
    return np.round(np.random.default_rng(seed).normal(50.0, 2.0, n), digits)


def wander(n: int, digits: int, steps: float = 500.0) -> NDArray[np.float64]:
    """A slow temperature, read with few digits."""
    rng = np.random.default_rng(2)
    path = np.empty(n)
    level = 0.0
    for i, shock in enumerate(rng.standard_normal(n) * math.sqrt(2.0 / steps)):
        level += shock - level / steps
        path[i] = level
    return np.round(22.0 + 3.0 * path, digits)


def test_what_never_repeats_is_stuck_after_few_readings() -> None:
    assert learned(noise()).limits[1, 0].tolist() == [9, 5]


def test_the_fewer_the_digits_the_longer_a_reading_may_repeat() -> None:
    limits = [int(learned(wander(20_000, digits)).limits[1, 0, STUCK]) for digits in (3, 2, 1, 0)]
    assert limits == sorted(limits)
    assert limits[0] < 15 < limits[2] < 100 < limits[3]


def test_states_and_constants_are_never_stuck() -> None:
    rng = np.random.default_rng(3)
    on_off = np.repeat(rng.integers(0, 2, 400), 50).astype(float)
    gear = np.repeat(rng.integers(0, 6, 400), 50).astype(float)
    constant = np.full(20_000, 7.5)
    profile = learned(np.stack([on_off, gear, constant], axis=1))
    assert profile.limits[1, :, STUCK].tolist() == [NEVER] * 3
    assert np.isinf(profile.ranges[1, :, 2]).all()


def test_set_points_that_training_shows_too_seldom_are_never_stuck() -> None:
    held = np.repeat(np.random.default_rng(4).permutation(12) * 2.5, 2000)
    assert learned(held).limits[1, 0, STUCK] == NEVER


def test_runs_at_the_end_of_a_range_do_not_make_the_limit_long() -> None:
    night = np.where(np.arange(20_000) % 8640 < 3000, 0.0, noise())
    assert learned(night).limits[1, 0, STUCK] == 9


def test_an_end_of_the_range_is_a_place_to_rest_only_where_training_shows_it_often() -> None:
    readings = noise()
    assert learned(readings).ranges[1, 0, 1] > np.float32(readings.max())
    touched = np.maximum(readings, 45.0) - 45.0
    touched[touched == 0.0] = 1.0
    touched[7] = 0.0
    assert learned(touched).ranges[1, 0, 0] == 0.0
    clipped = np.minimum(readings, 53.0)
    assert learned(clipped).ranges[1, 0, 1] == 53.0


def test_a_sensor_that_was_stuck_or_missing_once_in_training_is_not_usual() -> None:
    readings = noise(40_000)
    readings[7000:7150] = readings[7000]
    readings[9000:9300] = NAN
    assert learned(readings).limits[1, 0].tolist() == [9, 5]


def test_a_channel_that_is_sent_every_tenth_event_is_not_missing_in_between() -> None:
    every_tenth = np.where(np.arange(20_000) % 10 == 3, noise(), NAN)
    limit = learned(every_tenth).limits[1, 0, MISSING]
    assert 2 * 9 < limit < 5 * 9


def test_rare_glitches_in_training_widen_nothing() -> None:
    readings = noise()
    clean = learned(readings).ranges[1, 0].tolist()
    readings[[100, 9000]] = [9999.0, -9999.0]
    assert learned(readings).ranges[1, 0].tolist() == pytest.approx(clean, rel=1e-6)


def test_the_reach_is_at_least_the_range_and_at_most_twenty_times_it() -> None:
    slow, fast = learned(wander(20_000, 3)), learned(noise())
    low, high, reach = slow.ranges[1, 0].tolist()
    assert high - low <= reach < 5 * (high - low)
    low, high, reach = fast.ranges[1, 0].tolist()
    assert reach == pytest.approx(20 * (high - low))


def test_silence_is_longer_than_twenty_intervals_and_than_gaps_that_happen_often() -> None:
    assert learned(noise()).usual_us[1].tolist() == [10_000_000, 200_000_000]
    once = learned(noise(), gaps_s={500: 7200.0})
    assert once.usual_us[1].tolist() == [10_000_000, 200_000_000]
    nightly = learned(noise(), gaps_s={k * 4000: 36_000.0 for k in range(1, 5)})
    assert nightly.usual_us[1].tolist() == [10_000_000, 54_000_000_000]


def test_several_messages_of_one_moment_have_their_mean_interval() -> None:
    times_us = START_US + np.repeat(np.arange(1000, dtype=np.int64), 5) * 10_000_000
    profile = learn_profile(["m0"], np.array([0, 5000]), times_us, noise(5000)[:, None])
    assert profile.usual_us[1, 0] == pytest.approx(2_000_000, rel=0.01)


def test_machines_without_training_take_the_limits_of_the_widest_machines() -> None:
    fine, coarse = wander(20_000, 2), wander(20_000, 0) + 40.0
    profile = learned(fine, coarse)
    assert profile.limits[0, 0, STUCK] == profile.limits[2, 0, STUCK]
    low, high, reach = profile.ranges[0, 0].tolist()
    assert (low, high) == pytest.approx((fine.min(), coarse.max()), rel=1e-6)
    assert reach >= profile.ranges[1:, 0, 2].max()


def test_a_machine_with_few_readings_is_judged_no_stricter_than_the_fleet() -> None:
    long, short = wander(20_000, 1), wander(20_000, 1)[:200]
    profile = learned(long, short)
    assert profile.limits[2, 0, STUCK] >= profile.limits[1, 0, STUCK]
    assert profile.ranges[2, 0, 1] == profile.ranges[1, 0, 1]


@pytest.mark.parametrize("rows", [0, 1, 2, 40])
def test_training_that_is_too_short_calls_nothing_faulty(rows: int) -> None:
    profile = learned(noise(rows))
    assert profile.limits[1].tolist() == profile.limits[0].tolist() == [[NEVER, NEVER]]
    assert np.isinf(profile.ranges[:, :, 2]).all()


def test_a_channel_that_no_machine_sends_is_not_missed() -> None:
    profile = learned(np.full(5000, NAN), np.full(5000, NAN))
    assert profile.limits[:, 0].tolist() == [[NEVER, NEVER]] * 3


def test_a_profile_survives_an_archive_of_arrays() -> None:
    profile = learned(noise(), wander(5000, 1))
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **profile.to_arrays())
    buffer.seek(0)
    with np.load(buffer, allow_pickle=False) as archive:
        copy = HealthProfile.from_arrays(dict(archive))
    assert copy.machine_ids == ("m0", "m1")
    for name, array in profile.to_arrays().items():
        np.testing.assert_array_equal(copy.to_arrays()[name], array)


def zoo(seed: int, days: float, start_us: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """What other machines send: states, counters, set points, coarse and clipped readings."""
    rng = np.random.default_rng(seed)
    n = int(days * 2880)
    day = np.arange(n) / 2880 % 1
    slow = wander(n, 6, steps=240.0) - 22.0 + rng.normal()
    fast = np.zeros(n)
    for i, shock in enumerate(rng.standard_normal(n)):
        fast[i] = 0.7 * fast[i - 1] + 0.7 * shock
    on = np.repeat(np.arange(n) % 2, rng.integers(10, 150, n))[:n].astype(float)
    held = np.repeat(np.round(rng.uniform(50, 80, n)), rng.lognormal(5.5, 0.8, n).astype(int))[:n]
    warm = 22.0 + 3.0 * np.cos(2 * np.pi * day)
    columns = [
        np.round(5 + 0.5 * fast, 3),
        np.round(warm + slow, 1),
        np.round(warm + slow),
        on,
        1e6 + np.cumsum(on * (rng.random(n) < 0.4)),
        np.round(5000 + np.cumsum(on) / 120, 2),
        held,
        np.clip(np.round(60 + 40 * slow), 0, 100),
        rng.poisson(0.3, n).astype(float),
        np.where(np.arange(n) % 10 == seed % 10, np.round(100 + 3 * slow, 2), NAN),
        np.where(rng.random(n) < 0.3, NAN, np.round(1 + 0.1 * fast, 3)),
        np.where((day > 0.25) & (day < 0.85), np.round(1500 + 30 * fast, 1), 0.0),
        np.cumsum(rng.standard_normal(n)),
    ]
    times_us = start_us + np.arange(n, dtype=np.int64) * 30_000_000
    return times_us + rng.integers(0, 200_000, n), np.stack(columns, axis=1)


def test_no_ordinary_signal_of_any_kind_is_called_faulty() -> None:
    trained = [zoo(seed, 5.0, START_US) for seed in range(4)]
    channels = trained[0][1].shape[1]
    text = 'name = "zoo"\n' + "".join(f'[[channel]]\nname = "c{c}"\n' for c in range(channels))
    profile = learn_profile(
        [f"m{k}" for k in range(4)],
        np.cumsum([0, *(len(times_us) for times_us, _ in trained)]),
        np.concatenate([times_us for times_us, _ in trained]),
        np.concatenate([values for _, values in trained]),
    )
    health = Health(parse_spec(text, "zoo.toml"), profile)
    for seed in range(4):
        times_us, values = zoo(100 + seed, 5.0, START_US + 5 * DAY_US)
        events = Events(
            np.zeros(len(times_us), np.int64),
            times_us,
            times_us,
            values,
            np.zeros(values.shape, np.bool_),
        )
        for machine_id in (f"m{seed}", "new"):
            assert run(events, health, ids=(machine_id,)).transitions == []


GENERIC = """
name = "pump"
[[channel]]
name = "flow"
unit = "m3/h"
min = 0.0
typical = [80.0, 120.0]
[[channel]]
name = "pressure"
unit = "bar"
min = 0.0
max = 60.0
[[channel]]
name = "level"
unit = "m"
"""


def simulated(
    spec: ChannelSpec, days: float, interval_s: float, rates: FaultRates
) -> tuple[Simulator, Events]:
    simulator = Simulator(
        spec, start_us=START_US, machines=10, interval_s=interval_s, seed=11, faults=rates
    )
    readings = simulator.readings(START_US + int(days * DAY_US))
    with np.errstate(invalid="ignore"):
        masked = mask_impossible(spec, readings.values)
    impossible = np.isnan(masked) & ~np.isnan(readings.values)
    times_us = readings.times_us
    return simulator, Events(readings.machines, times_us, times_us, readings.values, impossible)


def trained_on(spec: ChannelSpec, interval_s: float) -> Health:
    simulator, events = simulated(spec, 2.0, interval_s, FaultRates.none())
    order = np.lexsort((events.times_us, events.machines))
    machines = events.machines[order]
    starts = np.searchsorted(machines, np.arange(len(simulator.machine_ids) + 1))
    times_us, values = events.times_us[order], events.values[order]
    return Health(spec, learn_profile(simulator.machine_ids, starts, times_us, values))


def default_spec() -> ChannelSpec:
    path = asset_dir("models") / "machine-health" / "channels.toml"
    return parse_spec(path.read_text("utf-8"), str(path))


SPECS = [default_spec(), parse_spec(GENERIC, "pump.toml")]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("interval_s", [10.0, 60.0])
def test_healthy_simulated_machines_have_no_faulty_sensors(
    spec: ChannelSpec, interval_s: float
) -> None:
    health = trained_on(spec, 60.0)
    simulator, events = simulated(spec, 4.0, interval_s, FaultRates.none())
    assert run(events, health, tuple(simulator.machine_ids)).transitions == []


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_every_sensor_fault_is_told_within_a_window_and_no_machine_fault_is(
    spec: ChannelSpec,
) -> None:
    health = trained_on(spec, 60.0)
    rates = FaultRates(machine=0.5, sensor=1.5, drift=0.04)
    simulator, events = simulated(spec, 8.0, 60.0, rates)
    transitions = run(events, health, tuple(simulator.machine_ids)).transitions
    faults = [
        fault
        for fault in simulator.truth().faults
        if fault.category == "sensor" and fault.end_us - fault.start_us >= spec.length_us // 2
    ]
    counts = Counter(fault.kind for fault in faults)
    assert min(counts[kind] for kind in ("missing", "stuck", "glitch", "silent")) >= 5
    for fault in faults:
        told = [t for t in transitions if tells(t, fault, simulator, spec)]
        assert told, fault
        assert min(t.opened_us for t in told) < fault.start_us + spec.length_us
    for transition in transitions:
        assert transition.closed_us is not None or any(
            tells(transition, fault, simulator, spec)
            for fault in simulator.truth().faults
            if fault.category == "sensor"
        ), transition


KINDS = {
    "missing": {"missing"},
    "stuck": {"stuck"},
    "silent": {"silent"},
    "glitch": {"glitch", "out-of-range"},
}


def tells(transition: Transition, fault: Fault, simulator: Simulator, spec: ChannelSpec) -> bool:
    """Whether a condition that opened is that of the fault."""
    channel = None if transition.channel is None else spec.continuous[transition.channel].name
    return (
        transition.kind in KINDS[fault.kind]
        and transition.closed_us is None
        and simulator.machine_ids[transition.machine] == fault.machine_id
        and (channel is None or channel in fault.channels)
        and fault.start_us <= transition.opened_us <= fault.end_us + 60_000_000
    )
