"""What a drift probably is, and when retraining is asked for, on series that show it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.core.drift.series import SECOND_US, autoregressive
from worker.core.drift import (
    Collector,
    DriftEvent,
    DriftMonitor,
    Outputs,
    Settings,
    learn_reference,
)
from worker.core.drift.reference import SCORE

MINUTE_US, HOUR_US = 60 * SECOND_US, 3600 * SECOND_US
NAMES = ["temperature", "pressure", "flow", SCORE]
USUAL = autoregressive(np.random.default_rng(41), 12_000, 4, 0.5)
REFERENCE = learn_reference(
    NAMES,
    ["C", "bar", "l/min", ""],
    USUAL,
    np.arange(len(USUAL)) * MINUTE_US,
    np.zeros(len(USUAL), np.int64),
    MINUTE_US,
    owners=[*NAMES[:3], ""],
)
SETTINGS = Settings(
    windows_us=(HOUR_US,), grace_us=0, retrain_after_us=6 * HOUR_US, retrain_again_us=24 * HOUR_US
)
Rows = NDArray[np.float32]


def live(hours: int, seed: int) -> Rows:
    """A reading each minute."""
    return autoregressive(np.random.default_rng(seed), hours * 60, 4, 0.5)


def followed(rows: Rows, settings: Settings = SETTINGS) -> list[Outputs]:
    monitor = DriftMonitor(REFERENCE, "fleet", settings, "plant/1.0.0")
    collector = Collector(REFERENCE.layout, 0, HOUR_US)
    n = len(rows)
    times, machine = np.arange(n) * MINUTE_US, np.zeros(n, np.int64)
    collector.add(times, machine, [b"press-1"], rows, np.zeros(n, np.bool_), {})
    return [*(monitor.add(partial) for partial in collector.take(1)), monitor.flush()]


def events(outputs: list[Outputs]) -> list[DriftEvent]:
    return [event for out in outputs for event in out.events]


def test_one_channel_at_once_was_recalibrated() -> None:
    rows = live(20, 1)
    rows[600:, 1] += 1.5
    assert events(followed(rows))[0].advice == "recalibrated-sensor"


def test_several_channels_at_once_are_a_new_regime() -> None:
    rows = live(20, 2)
    rows[600:, :3] += np.float32([1.5, -1.5, 1.5])
    assert events(followed(rows))[0].advice == "new-regime"


def test_a_sensor_that_is_stuck_is_faulty() -> None:
    # In an hour of sixty readings chance may keep a sensor still; in six hours it does not.
    rows = live(48, 3)
    rows[720:, 2] = 0.1
    (first, *_) = events(followed(rows, replace(SETTINGS, windows_us=(6 * HOUR_US,))))
    assert first.advice == "sensor-fault"
    assert first.features[0].feature == "flow"


def test_what_grows_from_window_to_window_is_wear() -> None:
    rows = live(60, 4)
    rows[600:, 0] += np.linspace(0.0, 4.0, len(rows) - 600).astype(np.float32)
    told = events(followed(rows))
    assert told[0].features[0].feature == "temperature"
    assert "gradual-wear" in [event.advice for event in told]
    assert len({event.id for event in told}) == 1


def test_what_comes_back_each_day_is_seasonal() -> None:
    rows = live(96, 5)
    hour = np.arange(len(rows)) / 60.0
    rows[:, 1] += (3.0 * np.sin(hour / 24.0 * 2.0 * np.pi)).astype(np.float32)
    told = events(followed(rows))
    assert told[-1].advice == "seasonal"


@pytest.mark.parametrize(("column", "asked"), [(0, 0), (3, 2)])
def test_retraining_is_asked_for_when_drift_lasts_and_the_model_behaves_differently(
    column: int, asked: int
) -> None:
    rows = live(50, 6)
    rows[600:, column] += 1.5
    requests = [request for out in followed(rows) for request in out.requests]
    assert len(requests) == asked
    if asked:
        # Six hours after it began, and not again for a day.
        assert requests[0].at_us == pytest.approx(16 * HOUR_US, abs=HOUR_US)
        assert requests[1].at_us - requests[0].at_us == pytest.approx(24 * HOUR_US, abs=HOUR_US)
        assert SCORE in requests[0].reason


def test_machines_of_one_kind_that_drift_are_seen_in_their_own_group() -> None:
    rng = np.random.default_rng(7)
    machines, minutes = 8, 3_000
    number = np.tile(np.arange(machines), minutes)
    times = np.repeat(np.arange(minutes), machines) * MINUTE_US
    kinds = ["old" if m < 2 else "new" for m in number]
    rows = rng.normal(size=(len(number), 4)).astype(np.float32)
    first = times < 2_000 * MINUTE_US
    reference = learn_reference(
        NAMES,
        ["C", "bar", "l/min", ""],
        rows[first],
        times[first],
        number[first],
        MINUTE_US,
        categories={"kind": [k for k, own in zip(kinds, first, strict=True) if own]},
        values={"kind": ("old", "new")},
    )
    late = ~first
    rows[late & (number < 2) & (times >= 2_500 * MINUTE_US), 0] += 1.0
    collector = Collector(reference.layout, 0, HOUR_US)
    own = [k for k, later in zip(kinds, late, strict=True) if later]
    ids = [b"press-%d" % m for m in range(machines)]
    quiet = np.zeros(int(late.sum()), np.bool_)
    collector.add(times[late], number[late], ids, rows[late], quiet, {"kind": own})
    monitors = {
        name: DriftMonitor(reference, name, SETTINGS, "plant/1.0.0") for name in reference.groups
    }
    told = [event for p in collector.take(1) for event in monitors[p.group].add(p).events]
    opened = {event.group: event for event in told if event.status == "opened"}
    assert "kind=old" in opened
    assert "kind=new" not in opened
    assert opened["kind=old"].features[0].feature == "temperature"
    assert {m.machine_id for m in opened["kind=old"].machines} == {"press-0", "press-1"}
