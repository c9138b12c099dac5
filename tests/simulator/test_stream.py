from __future__ import annotations

import time
from collections import Counter

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.channels import ChannelSpec, parse_spec
from worker.core.events import Chunk, EventDecoder
from worker.core.messages import event_type
from worker.simulator import FaultRates, Simulator
from worker.simulator.faults import Fault
from worker.simulator.models import usual_range

START_US = 1_767_225_600_000_000
HOUR_US = 3_600_000_000
BUSY = FaultRates(machine=6.0, sensor=10.0, drift=2.0)


def simulator(spec: ChannelSpec, **options: object) -> Simulator:
    arguments: dict[str, object] = {
        "start_us": START_US,
        "machines": 5,
        "interval_s": 30.0,
        "faults": BUSY,
    }
    return Simulator(spec, **{**arguments, **options})  # type: ignore[arg-type]


def chunk_of(events: list[tuple[bytes, bytes]]) -> Chunk:
    n = len(events)
    now_ms = (START_US + 365 * 24 * HOUR_US) // 1000
    return Chunk(
        "sensor-events",
        0,
        np.arange(n),
        np.full(n, now_ms),
        [key for key, _ in events],
        [value for _, value in events],
    )


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 12 * HOUR_US), max_size=30))
def test_the_stream_does_not_depend_on_how_it_is_fetched(
    spec: ChannelSpec, cuts: list[int]
) -> None:
    end_us = START_US + 12 * HOUR_US
    options = {"late_rate": 0.02, "garbage_rate": 0.02}
    whole = simulator(spec, **options)
    sliced = simulator(spec, **options)
    wanted = whole.advance(end_us)
    found = []
    for cut in [*sorted(cuts), 12 * HOUR_US]:
        found += sliced.advance(START_US + cut)
    assert found == wanted
    assert sliced.truth() == whole.truth()


def test_the_same_seed_gives_the_same_events_and_another_seed_others(spec: ChannelSpec) -> None:
    end_us = START_US + HOUR_US
    events = simulator(spec, seed=1).advance(end_us)
    assert simulator(spec, seed=1).advance(end_us) == events
    assert simulator(spec, seed=2).advance(end_us) != events


def test_fetching_an_earlier_time_gives_nothing_new(spec: ChannelSpec) -> None:
    source = simulator(spec)
    assert source.advance(START_US + HOUR_US)
    assert source.advance(START_US) == []


def test_events_come_in_order_of_event_time_and_of_each_machine_at_its_interval(
    spec: ChannelSpec,
) -> None:
    readings = simulator(spec, faults=FaultRates.none()).readings(START_US + 4 * HOUR_US)
    assert (np.diff(readings.times_us) >= 0).all()
    for machine in range(5):
        times_us = readings.times_us[readings.machines == machine]
        assert len(times_us) == 4 * 120
        assert np.abs(np.diff(times_us) - 30_000_000).max() <= 200_000


def test_every_event_is_valid_by_the_contract(spec: ChannelSpec) -> None:
    decode = msgspec.json.Decoder(event_type(spec)).decode
    events = simulator(spec, faults=FaultRates.none()).advance(START_US + HOUR_US)
    readings, rejects = EventDecoder(spec).decode(chunk_of(events))
    assert rejects == []
    assert not readings.impossible.any()
    assert len(readings.times_us) == len(events) == 600
    for key, value in events[:50]:
        assert decode(value).machine_id.encode() == key


def test_events_say_what_the_arrays_say(spec: ChannelSpec) -> None:
    end_us = START_US + 6 * HOUR_US
    source = simulator(spec)
    wanted = simulator(spec).readings(end_us)
    decode = msgspec.json.Decoder().decode
    events = [decode(value) for _, value in source.advance(end_us)]
    names = [c.name for c in spec.continuous]
    values = np.array([[e.get(n) for n in names] for e in events], dtype=float)
    np.testing.assert_array_equal(values, wanted.values)
    ids = [source.machine_ids[m] for m in wanted.machines]
    assert [e["machine_id"] for e in events] == ids


def test_an_event_is_about_150_bytes_of_flat_json(milling_spec: ChannelSpec) -> None:
    sizes = [len(value) for _, value in simulator(milling_spec).advance(START_US + HOUR_US)]
    assert 140 <= np.mean(sizes) <= 190


def test_healthy_readings_stay_in_the_physical_range_and_mostly_in_the_usual_one(
    spec: ChannelSpec,
) -> None:
    source = simulator(spec, machines=20, interval_s=300.0, faults=FaultRates.none())
    values = source.readings(START_US + 72 * HOUR_US).values
    for column, channel in zip(values.T, spec.continuous, strict=True):
        assert channel.min is None or column.min() >= channel.min
        assert channel.max is None or column.max() <= channel.max
        low, high = usual_range(channel)
        assert ((column >= low) & (column <= high)).mean() > 0.9, channel.name


def test_readings_are_autocorrelated_and_follow_the_day(milling_spec: ChannelSpec) -> None:
    source = simulator(milling_spec, machines=20, faults=FaultRates.none())
    readings = source.readings(START_US + 48 * HOUR_US)
    torque = readings.values[readings.machines == 0, 3]
    assert np.corrcoef(torque[:-1], torque[1:])[0, 1] > 0.5
    hour = (readings.times_us - START_US) // HOUR_US % 24
    temperature = readings.values[:, 1]
    assert temperature[hour == 15].mean() > temperature[hour == 3].mean() + 5.0


def test_channels_are_linked_as_in_a_real_machine(milling_spec: ChannelSpec) -> None:
    source = simulator(milling_spec, faults=FaultRates.none(), interval_s=10.0)
    readings = source.readings(START_US + 24 * HOUR_US)
    vibration, temperature, speed, torque, wear = readings.values[readings.machines == 1].T
    power = torque * speed
    lag = 120  # 20 minutes
    lagged = np.corrcoef(power[:-lag], temperature[lag:])[0, 1]
    assert lagged > 0.6
    assert lagged > np.corrcoef(power, temperature)[0, 1]
    slow_power = np.convolve(power, np.full(60, 1 / 60), "same")
    assert np.corrcoef(torque / slow_power, speed)[0, 1] < -0.3
    low_wear, high_wear = wear < 50, wear > 150
    assert vibration[high_wear].mean() > vibration[low_wear].mean() * 1.1
    changes = np.diff(wear) < 0
    assert changes.sum() >= 3
    assert (wear[1:][changes] == 0).all()
    assert (np.diff(wear)[~changes] >= 0).all()


def test_machine_types_differ_and_are_told(milling_spec: ChannelSpec) -> None:
    source = simulator(milling_spec, machines=60, faults=FaultRates.none())
    decode = msgspec.json.Decoder().decode
    events = [decode(value) for _, value in source.advance(START_US + 6 * HOUR_US)]
    speeds = {
        kind: np.mean([e["rotational_speed"] for e in events if e["machine_type"] == kind])
        for kind in "LMH"
    }
    assert speeds["L"] < speeds["M"] < speeds["H"]
    by_machine = {(e["machine_id"], e["machine_type"]) for e in events}
    assert len(by_machine) == 60


def find_fault(source: Simulator, kind: str) -> Fault:
    faults = [f for f in source.truth().faults if f.kind == kind]
    assert faults, f"no {kind} in {len(source.truth().faults)} faults"
    return faults[0]


def rows_during(source: Simulator, readings: object, fault: Fault) -> np.ndarray:
    machine = source.machine_ids.index(fault.machine_id)
    r = readings
    in_time = (r.times_us >= fault.start_us) & (r.times_us < fault.end_us)  # type: ignore[attr-defined]
    return np.flatnonzero(in_time & (r.machines == machine))  # type: ignore[attr-defined]


def test_sensor_faults_look_like_what_the_truth_says(spec: ChannelSpec) -> None:
    rates = FaultRates(machine=0.0, sensor=8.0, drift=0.0)
    source = simulator(spec, machines=20, faults=rates)
    readings = source.readings(START_US + 72 * HOUR_US)
    names = [c.name for c in spec.continuous]
    for kind in ("missing", "stuck", "glitch", "silent"):
        fault = find_fault(source, kind)
        # The fault begins between two ticks, so an event at its edge may be outside.
        rows = rows_during(source, readings, fault)[1:-1]
        if kind == "silent":
            assert len(rows) == 0
            continue
        assert len(rows) > 20
        values = readings.values[rows, names.index(fault.channels[0])]
        channel = spec.continuous[names.index(fault.channels[0])]
        if kind == "missing":
            assert np.isnan(values).all()
        elif kind == "stuck":
            assert len(set(values)) == 1
        else:
            outside = (values < channel.min) | (values > channel.max)
            assert 0.01 < outside.mean() < 0.25


def test_missing_readings_are_null_or_left_out(milling_spec: ChannelSpec) -> None:
    rates = FaultRates(machine=0.0, sensor=20.0, drift=0.0)
    events = simulator(milling_spec, faults=rates).advance(START_US + 72 * HOUR_US)
    decode = msgspec.json.Decoder().decode
    names = [c.name for c in milling_spec.continuous]
    forms: Counter[str] = Counter()
    for _, value in events:
        event = decode(value)
        forms["null"] += any(event.get(name, 0) is None for name in names)
        forms["left out"] += any(name not in event for name in names)
    assert forms["null"] > 0
    assert forms["left out"] > 0


MILLING_EFFECTS = {
    "heat-dissipation": ("temperature", 10.0),
    "overstrain": ("torque", 8.0),
    "tool-wear": ("tool_wear", 40.0),
    "bearing": ("vibration", 1.5),
}


@pytest.mark.parametrize(("kind", "effect"), MILLING_EFFECTS.items())
def test_a_machine_fault_moves_its_channel_by_a_realistic_amount(
    milling_spec: ChannelSpec, kind: str, effect: tuple[str, float]
) -> None:
    channel, least = effect
    faulty = simulator(milling_spec, machines=30, faults=FaultRates(2.0, 0.0, 0.0))
    healthy = simulator(milling_spec, machines=30, faults=FaultRates.none())
    end_us = START_US + 48 * HOUR_US
    with_faults, without = faulty.readings(end_us), healthy.readings(end_us)
    fault = find_fault(faulty, kind)
    assert channel in fault.channels
    rows = rows_during(faulty, with_faults, fault)
    rows = rows[2 * len(rows) // 3 :]
    column = [c.name for c in milling_spec.continuous].index(channel)
    moved = with_faults.values[rows, column] - without.values[rows, column]
    assert moved.mean() > least


def test_generic_faults_move_the_channels_that_the_truth_names(pump_spec: ChannelSpec) -> None:
    rates = FaultRates(1.0, 0.0, 0.0)
    faulty = simulator(pump_spec, machines=10, interval_s=600.0, faults=rates)
    healthy = simulator(pump_spec, machines=10, interval_s=600.0, faults=FaultRates.none())
    end_us = START_US + 10 * 24 * HOUR_US
    with_faults, without = faulty.readings(end_us), healthy.readings(end_us)
    names = [c.name for c in pump_spec.continuous]
    for kind in ("step", "ramp", "variance"):
        fault = find_fault(faulty, kind)
        rows = rows_during(faulty, with_faults, fault)[1:-1]
        moved = np.abs(with_faults.values[rows] - without.values[rows]).max(axis=0) > 0
        assert [n for n, m in zip(names, moved, strict=True) if m] == list(fault.channels)


def test_slow_drift_moves_one_channel_steadily(milling_spec: ChannelSpec) -> None:
    drifting = simulator(milling_spec, faults=FaultRates(0.0, 0.0, 2.0))
    healthy = simulator(milling_spec, faults=FaultRates.none())
    end_us = START_US + 72 * HOUR_US
    with_drift, without = drifting.readings(end_us), healthy.readings(end_us)
    fault = find_fault(drifting, "slow-drift")
    rows = rows_during(drifting, with_drift, fault)
    column = [c.name for c in milling_spec.continuous].index(fault.channels[0])
    moved = np.abs(with_drift.values[rows, column] - without.values[rows, column])
    thirds = [part.mean() for part in np.array_split(moved, 3)]
    assert thirds[0] < thirds[1] < thirds[2]


def test_late_events_are_later_than_the_grace(spec: ChannelSpec) -> None:
    source = simulator(spec, faults=FaultRates.none(), late_rate=0.05)
    readings = source.readings(START_US + 24 * HOUR_US)
    newest: dict[int, int] = {}
    late = 0
    for machine, time_us in zip(
        readings.machines.tolist(), readings.times_us.tolist(), strict=True
    ):
        behind = newest.get(machine, time_us) - time_us
        late += behind > spec.grace_us
        assert behind <= 0 or behind > spec.grace_us - 90_000_000
        newest[machine] = max(newest.get(machine, time_us), time_us)
    assert 0.03 < late / len(readings.times_us) < 0.06


def test_garbage_is_unusable_and_comes_in_addition_to_the_events(spec: ChannelSpec) -> None:
    end_us = START_US + 24 * HOUR_US
    clean = simulator(spec, faults=FaultRates.none()).advance(end_us)
    mixed = simulator(spec, faults=FaultRates.none(), garbage_rate=0.05).advance(end_us)
    _, rejects = EventDecoder(spec).decode(chunk_of(mixed))
    garbage = {reject.row for reject in rejects}
    assert [event for row, event in enumerate(mixed) if row not in garbage] == clean
    assert 0.03 < len(rejects) / len(clean) < 0.07
    assert len({reject.reason for reject in rejects}) >= 4


def test_channels_without_any_range_and_many_categories_work() -> None:
    text = """
name = "bare"
[[channel]]
name = "a"
[[channel]]
name = "state"
kind = "categorical"
values = ["on", "off"]
[[channel]]
name = "b"
min = 5.0
[[channel]]
name = "c"
max = -5.0
"""
    spec = parse_spec(text)
    events = simulator(spec, faults=FaultRates.none()).advance(START_US + HOUR_US)
    readings, rejects = EventDecoder(spec).decode(chunk_of(events))
    assert rejects == []
    assert not np.isnan(readings.values).any()
    assert set(readings.categories["state"]) <= {"on", "off"}


def test_one_process_makes_at_least_50000_events_a_second(milling_spec: ChannelSpec) -> None:
    source = Simulator(milling_spec, start_us=START_US, machines=1000)
    rates = []
    for part in range(1, 4):
        begun_s = time.perf_counter()
        events = source.advance(START_US + part * HOUR_US // 6)
        rates.append(len(events) / (time.perf_counter() - begun_s))
    assert max(rates) > 50_000
