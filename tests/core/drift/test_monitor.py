"""The monitor: one event for one drift, the same after a restart, nothing counted twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.core.drift.series import SECOND_US, autoregressive, gathered, learned
from worker.core.drift import DriftMonitor, Outputs, Partial, Settings
from worker.core.errors import PartialError, StateError

MINUTE_US = 60 * SECOND_US
SETTINGS = Settings(windows_us=(5 * MINUTE_US,), grace_us=0)
COLUMNS = 5
RNG = np.random.default_rng(11)
SERIES = autoregressive(RNG, 20_000 + 2 * 3600, COLUMNS, 0.5)
REFERENCE = learned(SERIES[:20_000])


def live() -> NDArray[np.float32]:
    """Two hours without drift, a row each second."""
    return SERIES[20_000:].copy()


def run(monitor: DriftMonitor, partials: list[Partial]) -> list[Outputs]:
    return [monitor.add(partial) for partial in partials] + [monitor.flush()]


def events(outputs: list[Outputs]) -> list[tuple[str, str]]:
    return [(event.kind, event.status) for out in outputs for event in out.events]


def monitor() -> DriftMonitor:
    return DriftMonitor(REFERENCE, "fleet", SETTINGS, "plant/1.0.0")


def test_without_drift_there_is_no_event() -> None:
    outputs = run(monitor(), gathered(REFERENCE, live(), MINUTE_US))
    assert events(outputs) == []
    assert sum(len(out.windows) for out in outputs) == 24


def test_a_step_is_told_once_with_its_column_and_begin() -> None:
    rows = live()
    rows[3000:5400, 2] += 1.0
    outputs = run(monitor(), gathered(REFERENCE, rows, MINUTE_US))
    told = [event for out in outputs for event in out.events]
    assert events(outputs)[0] == ("drift", "opened")
    assert events(outputs)[-1] == ("drift", "closed")
    assert len({event.id for event in told}) == 1
    assert [event.sequence for event in told] == list(range(1, len(told) + 1))
    opened = told[0]
    assert opened.features[0].feature == "f2"
    assert opened.features[0].direction == "up"
    assert opened.features[0].effect == pytest.approx(1.0, abs=0.3)
    assert abs(opened.began_us - 3000 * SECOND_US) <= 5 * MINUTE_US
    assert opened.advice == "recalibrated-sensor"
    assert opened.machines[0].machine_id == "press-1"


def test_a_single_glitch_is_no_drift() -> None:
    rows = live()
    rows[3000, 1], rows[4000, 3] = 1e4, -1e30
    assert events(run(monitor(), gathered(REFERENCE, rows, MINUTE_US))) == []


def test_missing_readings_are_told_as_health_not_drift() -> None:
    rows = live()
    gone = RNG.random(len(rows)) < 0.95
    gone[:3000] = False
    rows[gone, 1] = np.nan
    told = [
        event
        for out in run(monitor(), gathered(REFERENCE, rows, MINUTE_US))
        for event in out.events
    ]
    assert told[0].status == "opened"
    assert {event.kind for event in told} == {"health"}
    assert len({event.id for event in told}) == 1
    assert "f1" in told[0].reason


def test_a_partial_that_comes_again_adds_nothing() -> None:
    partials = gathered(REFERENCE, live(), MINUTE_US)
    once, twice = monitor(), monitor()
    first = run(once, partials)
    second = [twice.add(p) for p in partials for _ in range(2)]
    assert sum(out.repeated for out in second) == len(partials)
    windows = [w for out in [*second, twice.flush()] for w in out.windows]
    assert windows == [w for out in first for w in out.windows]


def test_after_a_restart_it_goes_on_as_if_nothing_had_happened() -> None:
    rows = live()
    rows[3000:, 2] += 1.0
    partials = gathered(REFERENCE, rows, MINUTE_US)
    expected = run(monitor(), partials)
    saved: dict[str, bytes] = {}
    found = []
    for partial in partials:
        again = DriftMonitor.restore(REFERENCE, "fleet", SETTINGS, "plant/1.0.0", saved)
        found.append(again.add(partial))
        for key, row in again.changes().items():
            if row is None:
                saved.pop(key, None)
            else:
                saved[key] = row
    again = DriftMonitor.restore(REFERENCE, "fleet", SETTINGS, "plant/1.0.0", saved)
    found.append(again.flush())
    assert found == expected


def test_an_accepted_change_is_usual_from_then_on() -> None:
    rows = live()
    rows[1800:, 2] += 1.0
    partials = gathered(REFERENCE, rows, MINUTE_US)
    one = monitor()
    before = [one.add(p) for p in partials[:60]]
    assert events(before)[0] == ("drift", "opened")
    (closed,) = one.accept(3600 * SECOND_US).events
    assert (closed.status, closed.close_reason) == ("closed", "accepted")
    assert events([one.add(p) for p in partials[60:]]) == []


def test_of_an_accepted_feature_nothing_is_told_and_of_others_everything() -> None:
    rows = live()
    rows[1800:, 2] += 1.0
    rows[1800:, 4] += 1.0
    partials = gathered(REFERENCE, rows, MINUTE_US)
    one = monitor()
    before = [event for p in partials[:60] for event in one.add(p).events]
    assert {feature.feature for feature in before[0].features} >= {"f2", "f4"}
    (closed,) = one.accept(3600 * SECOND_US, ["f2"]).events
    assert closed.close_reason == "accepted"
    after = [event for p in partials[60:] for event in one.add(p).events]
    assert after[0].status == "opened"
    first, *others = after[0].features
    assert first.feature == "f4"
    assert first.p_value < 1e-9
    # Beside one that is certain, the false discovery rate lets others through sooner.
    assert all(one.p_value > 1e-4 for one in others)
    with pytest.raises(PartialError, match="no such feature"):
        one.accept(7200 * SECOND_US, ["f9"])


def test_late_partials_are_counted_and_change_nothing() -> None:
    partials = gathered(REFERENCE, live(), MINUTE_US)
    one = monitor()
    for partial in partials[:30]:
        one.add(partial)
    late = one.add(replace(partials[2], partition=1))
    assert late.late == 1
    assert late.windows == ()


def test_a_reference_that_is_too_short_says_so_and_raises_no_alarm() -> None:
    settings = Settings(windows_us=(120 * MINUTE_US,), grace_us=0)
    one = DriftMonitor(REFERENCE, "fleet", settings, "plant/1.0.0")
    outputs = run(one, gathered(REFERENCE, live() + 5.0, MINUTE_US))
    (report,) = [w for out in outputs for w in out.windows]
    assert report.verdict == "blind"
    assert "times as long" in report.sentence
    assert events(outputs) == []


def test_foreign_partials_and_rows_are_refused() -> None:
    (partial, *_) = gathered(REFERENCE, live()[:60], MINUTE_US)
    with pytest.raises(PartialError, match="another reference or group"):
        monitor().add(replace(partial, fingerprint=1))
    one = monitor()
    one.add(partial)
    rows = {k: v for k, v in one.changes().items() if v is not None}
    rows["head"] = rows["head"][:-1] + b"?"
    with pytest.raises(StateError, match="cannot be read"):
        DriftMonitor.restore(REFERENCE, "fleet", SETTINGS, "plant/1.0.0", rows)
