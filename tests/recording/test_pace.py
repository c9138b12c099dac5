from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.errors import ConfigError
from worker.recording.pace import Clock, Gate, parse_shift_ms, parse_speed, shifted


def test_only_the_timestamp_of_an_event_moves() -> None:
    value = (
        b'{"machine_id": "a\\u00e9", "timestamp":"2026-01-31T06:00:00Z","torque":4.50,"x":[1, 2]}'
    )
    event = json.loads(shifted(value, 3_600_000) or b"")
    assert event == json.loads(value) | {"timestamp": "2026-01-31T07:00:00.000000Z"}
    # Numbers stand as the gateway wrote them.
    assert b'"torque":4.50' in (shifted(value, 1) or b"")


def test_epoch_milliseconds_are_understood() -> None:
    event = json.loads(shifted(b'{"timestamp": 1769839200000}', 1_500) or b"")
    assert event["timestamp"] == "2026-01-31T06:00:01.500000Z"


@given(st.binary(max_size=40))
def test_what_is_no_event_stays_as_it_is(value: bytes) -> None:
    assert shifted(value, 1000) == value


@pytest.mark.parametrize(
    "value", [None, b"", b"[]", b'{"timestamp": null}', b'{"timestamp": "yesterday"}']
)
def test_without_a_readable_time_no_byte_changes(value: bytes | None) -> None:
    assert shifted(value, 1000) == value


def test_a_time_beyond_the_calendar_stays() -> None:
    value = b'{"timestamp": "9999-12-31T23:59:59Z"}'
    assert shifted(value, 10**12) == value


class Watch:
    """A watch whose time passes only while somebody waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr("worker.recording.pace.time.monotonic", lambda: self.now_s)

    def wait(self, timeout_s: float) -> None:
        self.now_s += timeout_s


def test_records_wait_for_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, clock = Watch(monkeypatch), Clock(10.0, Gate())
    seen_s = []
    for time_ms in (5_000, 5_500, 5_400, 26_000):
        clock.wait_until(time_ms, watch.wait)
        seen_s.append(watch.now_s - 100.0)
    assert seen_s == pytest.approx([0.0, 0.05, 0.05, 2.1])


def test_the_time_of_a_pause_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, gate = Watch(monkeypatch), Gate()
    clock = Clock(100.0, gate)
    clock.wait_until(0, watch.wait)
    gate.toggle()

    def wait(timeout_s: float) -> None:
        watch.wait(timeout_s)
        if gate.paused and watch.now_s > 107.0:
            gate.toggle()

    clock.wait_until(10_000, wait)
    assert 107.1 <= watch.now_s < 107.4


def test_a_stopped_gate_lets_nobody_wait() -> None:
    gate = Gate()
    clock = Clock(1e-6, gate)
    clock.wait_until(0, time.sleep)
    gate.stop()
    clock.wait_until(10**9, time.sleep)
    assert gate.stopped


def test_speeds_and_shifts_are_read() -> None:
    assert parse_speed("max") is None
    assert parse_speed("2.5") == 2.5
    assert parse_shift_ms("now") is None
    assert parse_shift_ms("2h") == 7_200_000
    assert parse_shift_ms("-30m") == -1_800_000


@pytest.mark.parametrize("text", ["fast", "0", "-1", "nan", "inf"])
def test_what_is_no_speed_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--speed"):
        parse_speed(text)


def test_what_is_no_shift_is_refused() -> None:
    with pytest.raises(ConfigError, match="--shift"):
        parse_shift_ms("soon")
