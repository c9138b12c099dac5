from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.core.reference import Late, Reference
from tests.core.strategies import START_US, Event, events, make_spec, specs
from worker.core import windows
from worker.core.channels import ChannelSpec
from worker.core.state import PartitionState


def aggregate(
    spec: ChannelSpec, arrived: list[Event]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """All events in one call, on fresh state."""
    state = PartitionState(spec)
    return state.add(
        state.indices([event.machine.encode() for event in arrived]),
        np.array([event.time_us for event in arrived], np.int64),
        np.array([event.readings for event in arrived]).reshape(-1, len(spec.continuous)),
    )


def one_channel(
    pane_us: int, panes: int, grace_us: int, *arrived: tuple[float, float]
) -> list[float]:
    """Means of the window of each event `(seconds after START_US, reading)` of one machine."""
    spec = make_spec(1, pane_us, panes, grace_us)
    made = [Event("m", START_US + round(s * 1e6), [x]) for s, x in arrived]
    return [float(mean) for mean in aggregate(spec, made)[0][:, 0, windows.MEAN]]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_aggregates_equal_the_reference_for_any_window_channels_and_order(
    data: st.DataObject,
) -> None:
    spec = data.draw(specs())
    arrived = data.draw(events(spec))
    aggregates, watermarks_us = aggregate(spec, arrived)
    reference = Reference(spec)
    for i, event in enumerate(arrived):
        window = reference.window(event.machine, event.time_us, event.readings)
        if isinstance(window, Late):
            assert watermarks_us[i] == window.watermark_us
            continue
        assert watermarks_us[i] == windows.EMPTY
        for c, seen in enumerate(window):
            count, mean, std, low, high = aggregates[i, c].tolist()
            assert count == seen.count
            if seen.mean is None:
                continue
            assert mean == pytest.approx(seen.mean, rel=1e-9, abs=seen.tolerance)
            assert std == pytest.approx(seen.std, rel=1e-9, abs=seen.tolerance)
            assert (low, high) == (seen.min, seen.max)


@pytest.mark.parametrize("panes", [1, 24, 60])
def test_a_standard_deviation_of_a_thousandth_survives_a_mean_of_a_billion(panes: int) -> None:
    rng = np.random.default_rng(3)
    readings = 1e9 + 1e-3 * rng.standard_normal(1200)
    length_us = 1_200_000_000
    spec = make_spec(2, length_us // panes, panes, 1)
    start_us = START_US // length_us * length_us
    arrived = [
        Event("m", start_us + i * 1_000_000, [math.nan, x]) for i, x in enumerate(readings.tolist())
    ]
    last = aggregate(spec, arrived)[0][-1, 1]
    assert last[windows.COUNT] == 1200
    assert last[windows.MEAN] == pytest.approx(statistics.mean(readings.tolist()), abs=1e-6)
    assert last[windows.STD] == pytest.approx(statistics.pstdev(readings.tolist()), rel=1e-3)


def test_readings_that_are_all_equal_have_no_deviation_at_all() -> None:
    spec = make_spec(1, 1_000_000, 60, 1)
    arrived = [Event("m", START_US + i * 250_000, [0.1]) for i in range(500)]
    aggregates, _ = aggregate(spec, arrived)
    assert (aggregates[:, 0, windows.STD] == 0.0).all()
    assert (aggregates[:, 0, windows.MEAN] == 0.1).all()


def test_the_largest_readings_give_finite_aggregates() -> None:
    spec = make_spec(2, 1_000_000, 3, 1)
    arrived = [
        Event("m", START_US + i * 700_000, [0.0, x]) for i, x in enumerate([1e30, -1e30] * 9)
    ]
    assert np.isfinite(aggregate(spec, arrived)[0]).all()


def test_the_window_drops_whole_panes_and_ends_with_the_events_own() -> None:
    start_s = -(START_US % 60_000_000) / 1e6
    means = one_channel(
        60_000_000, 2, 1, (start_s, 1.0), (start_s + 59.9, 3.0), (start_s + 60, 5.0),
        (start_s + 119.9, 7.0), (start_s + 120, 9.0),
    )  # fmt: skip
    assert means == [1.0, 2.0, 3.0, 4.0, 7.0]


def test_a_gap_longer_than_the_window_leaves_nothing_behind() -> None:
    assert one_channel(60_000_000, 5, 1, (0, 1.0), (301, 2.0), (100_000, 3.0)) == [1.0, 2.0, 3.0]


def test_an_event_exactly_at_the_watermark_is_scored_and_one_before_is_late() -> None:
    spec = make_spec(1, grace_us=90_000_000)
    at = [START_US, START_US - 90_000_000, START_US - 90_000_001]
    _, watermarks_us = aggregate(spec, [Event("m", time_us, [1.0]) for time_us in at])
    assert watermarks_us.tolist() == [-1, -1, START_US - 90_000_000]


def test_a_late_event_leaves_no_trace() -> None:
    on_time = [Event("m", START_US + i * 40_000_000, [float(i)]) for i in range(9)]
    late = Event("m", START_US - 10**9, [500.0])
    spec = make_spec(1)
    with_late, _ = aggregate(spec, [*on_time[:5], late, *on_time[5:]])
    without, _ = aggregate(spec, on_time)
    assert np.array_equal(np.delete(with_late, 5, axis=0), without)


def test_an_out_of_order_event_sees_its_own_window_and_is_seen_by_later_events() -> None:
    base_s = -(START_US % 60_000_000) / 1e6
    means = one_channel(
        60_000_000, 2, 120_000_000,
        (base_s, 2.0), (base_s + 120, 20.0), (base_s + 60, 8.0), (base_s + 121, 32.0),
    )  # fmt: skip
    assert means == [2.0, 20.0, 5.0, 20.0]


def test_a_machines_clock_does_not_make_another_machines_events_late() -> None:
    spec = make_spec(1)
    arrived = [Event("ahead", START_US + 10**10, [1.0]), Event("honest", START_US, [1.0])]
    assert aggregate(spec, arrived)[1].tolist() == [-1, -1]
