from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.core.channels import US_PER_S, WindowSpec, parse_spec
from worker.training.readings import MachineReadings, machine_readings, recording_of
from worker.training.window import interval_us, window_for

SPEC = parse_spec('name = "x"\n[[channel]]\nname = "a"\n')
START = datetime(2026, 1, 31, tzinfo=UTC)


def readings_at(*machines: list[float]) -> MachineReadings:
    """Readings of machines at seconds after the start."""
    frame = pl.DataFrame(
        {
            "machine_id": [f"m{k}" for k, seconds in enumerate(machines) for _ in seconds],
            "timestamp": [START + timedelta(seconds=s) for seconds in machines for s in seconds],
            "a": 1.0,
        }
    )
    return machine_readings(recording_of(frame, SPEC, "test"), SPEC)


@pytest.mark.parametrize(
    ("interval_s", "length", "pane", "grace"),
    [
        (0.1, "12s", "1s", "12s"),
        (1, "1m", "5s", "1m"),
        (60, "1h", "5m", "5m"),
        (59.9, "1h", "5m", "5m"),
        (600, "10h", "50m", "50m"),
        (3600, "1d", "2h", "2h"),
        (86400, "12d", "1d", "1d"),
    ],
)
def test_the_window_follows_from_how_often_machines_report(
    interval_s: float, length: str, pane: str, grace: str
) -> None:
    window = window_for(readings_at([i * interval_s for i in range(20)]))
    assert (window.length, window.pane, window.grace) == (length, pane, grace)


@example(0.3125)
@given(st.floats(0.001, 30 * 86400))
def test_every_interval_gives_a_window_that_a_specification_takes(interval_s: float) -> None:
    spec = SPEC.with_window(window_for(readings_at([0.0, interval_s, 2 * interval_s])))
    assert spec.panes == 12
    assert spec.slots <= 24
    samples = spec.length_us / (interval_s * US_PER_S)
    assert samples >= 11
    # Panes are whole seconds: one of 1.5 becomes one of 2, a third longer.
    assert samples <= 80 or spec.length_us == 12 * US_PER_S


def test_the_interval_is_that_of_the_median_machine_and_gaps_and_repeats_do_not_matter() -> None:
    machine = [0.0, 10.0, 20.0, 20.0, 20.0, 30.0, 90000.0]
    assert interval_us(readings_at(machine)) == 10 * US_PER_S
    slow, single = [0.0, 60.0, 120.0], [5.0]
    assert interval_us(readings_at(machine, machine, slow, single)) == 10 * US_PER_S


def test_without_two_moments_of_a_machine_the_default_window_stays() -> None:
    readings = readings_at([0.0, 0.0], [1.0])
    assert interval_us(readings) is None
    assert window_for(readings) == WindowSpec()
