"""When recorded records are played: speed, pauses, loops, and later times in their values."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from worker.core.channels import parse_duration_us
from worker.core.errors import ConfigError
from worker.core.messages import AwareTime, EpochTime, format_time_us, to_time_us

LONGEST_SLEEP_S = 0.2


@dataclass(frozen=True)
class Pace:
    """How fast records are played, and when they say that they were made.

    Attributes:
        speed: seconds of the recording a second; None: as fast as possible.
        shift_ms: added to the records' timestamps, and to ``timestamp`` in their values where
            that can be read; None: so much that the first record is of now. With 0 no byte of a
            value changes.
        loops: how many times; each time later by the recording's length. 0: without end.
    """

    speed: float | None = 1.0
    shift_ms: int | None = 0
    loops: int = 1


class Gate:
    """Lets playing pass, or holds it; may be set from a signal's handler."""

    def __init__(self) -> None:
        self.stopped = False
        self._paused = threading.Event()

    @property
    def paused(self) -> bool:
        """Whether playing is held."""
        return self._paused.is_set()

    def toggle(self) -> None:
        """Hold playing, or let it go on."""
        if self._paused.is_set():
            self._paused.clear()
        else:
            self._paused.set()

    def stop(self) -> None:
        """End playing after the record at hand."""
        self.stopped = True


class Clock:
    """When each record is due."""

    def __init__(self, speed: float | None, gate: Gate) -> None:
        self._speed, self._gate = speed, gate
        self._begun_s: float | None = None
        self._first_ms = 0

    def wait_until(self, time_ms: int, serve: Callable[[float], None]) -> None:
        """Return when a record of that time is due; the time of a pause does not count."""
        if self._begun_s is None:
            self._begun_s, self._first_ms = time.monotonic(), time_ms
        while not self._gate.stopped:
            if self._gate.paused:
                before_s = time.monotonic()
                serve(LONGEST_SLEEP_S)
                self._begun_s += time.monotonic() - before_s
                continue
            if self._speed is None:
                return
            due_s = self._begun_s + (time_ms - self._first_ms) / 1000 / self._speed
            left_s = due_s - time.monotonic()
            if left_s <= 0:
                return
            serve(min(left_s, LONGEST_SLEEP_S))


class _Event(msgspec.Struct):
    timestamp: AwareTime | EpochTime


def shifted(value: bytes | None, shift_ms: int) -> bytes | None:
    """An event as if it had been measured later; what is no event stays as it is.

    Only ``timestamp`` changes, every other byte of the event's fields stays.
    """
    if value is None:
        return None
    try:
        event = msgspec.json.decode(value, type=_Event)
        fields = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
        time_us = to_time_us(event.timestamp) + shift_ms * 1000
        moment = format_time_us(time_us)
    except (msgspec.DecodeError, UnicodeError, ValueError, OverflowError):
        return value
    fields["timestamp"] = msgspec.Raw(msgspec.json.encode(moment))
    return msgspec.json.encode(fields)


def parse_shift_ms(text: str) -> int | None:
    """Read ``--shift``: by how long, such as ``2h`` or ``-30m``; None for ``now``.

    Raises:
        ConfigError: it is neither.
    """
    if text.strip() == "now":
        return None
    sign = -1 if text.startswith("-") else 1
    return sign * (parse_duration_us(text.lstrip("+-"), "--shift") // 1000)


def parse_speed(text: str) -> float | None:
    """Read ``--speed``: how many seconds a second; None for ``max``.

    Raises:
        ConfigError: it is neither.
    """
    if text.strip() == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0.0 < speed < 1e9:
        raise ConfigError(
            f"--speed: {text!r} is no speed; write 1 for the recording's own, 60 for a minute a "
            "second, or max."
        )
    return speed
