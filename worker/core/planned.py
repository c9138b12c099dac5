"""Windows of planned maintenance that configuration names: which machines, and when.

Owns their form and their arithmetic on whole columns of events. What a machine announces
itself is :mod:`worker.core.maintenance`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import cached_property
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from worker.core.messages import AwareTime, to_time_us

DAY_US = 86_400_000_000
WEEK_US = 7 * DAY_US
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MONDAY_US = 4 * DAY_US
"""1970-01-05, the first Monday after the epoch."""
_WEEKLY = re.compile(
    rf"^({'|'.join(DAYS)})\s+([01]\d|2[0-3]):([0-5]\d)\s*-\s*([01]\d|2[0-3]):([0-5]\d)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class PlannedWindow:
    """Maintenance of some machines in [from_us, until_us), by event time.

    Attributes:
        machines: pattern of machine ids, ``*``, ``?`` and ``[...]`` as in a shell.
        relearn: the machine is another one afterwards: its level is learned anew.
        every_us: repeated at this distance, before and after; 0: once.
    """

    machines: str
    from_us: int
    until_us: int
    relearn: bool = False
    every_us: int = 0

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(translate(self.machines))

    def matches(self, machine_id: bytes) -> bool:
        """Whether it concerns a machine."""
        return self._pattern.match(machine_id.decode()) is not None

    def contains(self, times_us: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which times (n,) are in it."""
        if self.every_us:
            return (times_us - self.from_us) % self.every_us < self.until_us - self.from_us
        return (times_us >= self.from_us) & (times_us < self.until_us)

    def ended_us(self, times_us: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) when it was last over by each time; 0: never yet."""
        if self.every_us:
            return times_us - (times_us - self.until_us) % self.every_us
        return np.where(times_us >= self.until_us, self.until_us, 0)


class _Entry(msgspec.Struct, forbid_unknown_fields=True, rename={"from_": "from"}):
    """One window as it is written in the settings."""

    machines: Annotated[str, msgspec.Meta(min_length=1)] = "*"
    from_: AwareTime | None = None
    until: AwareTime | None = None
    weekly: str | None = None
    relearn: bool = False


def parse_window(entry: Mapping[str, Any]) -> PlannedWindow:
    """Read a window as it is written in the settings.

    Raises:
        ValueError: saying what is wrong and what to write.
    """
    try:
        read = msgspec.convert(entry, _Entry)
    except msgspec.ValidationError as error:
        raise ValueError(
            f"{str(error).replace('`$.', '`')}; write machines, from and until or weekly, and "
            "relearn"
        ) from error
    if read.weekly is not None:
        if read.from_ is not None or read.until is not None:
            raise ValueError("weekly stands for from and until; remove them, or it")
        span_us = parse_weekly(read.weekly)
        if span_us is None:
            raise ValueError(
                f"weekly {read.weekly!r} is not readable; write a day and times in UTC, such as "
                '"sun 02:00-06:00"'
            )
        return PlannedWindow(read.machines, *span_us, read.relearn, WEEK_US)
    if read.from_ is None or read.until is None:
        raise ValueError("it has no time; write from and until, or weekly")
    if read.until <= read.from_:
        raise ValueError(f"it ends at {read.until}, before it begins; write a later until")
    return PlannedWindow(
        read.machines, to_time_us(read.from_), to_time_us(read.until), read.relearn
    )


def parse_weekly(text: str) -> tuple[int, int] | None:
    """The first window, in epoch microseconds, of ``"sun 02:00-06:00"`` (UTC); None: unreadable.

    One that ends at or before the time it begins at goes on into the next day.
    """
    match = _WEEKLY.match(text.strip())
    if match is None:
        return None
    day = _MONDAY_US + DAYS.index(match[1].lower()) * DAY_US
    begin, end = (
        (int(hour) * 60 + int(minute)) * 60_000_000
        for hour, minute in ((match[2], match[3]), (match[4], match[5]))
    )
    return day + begin, day + end + (DAY_US if end <= begin else 0)


def planned(
    windows: Sequence[PlannedWindow],
    machines: NDArray[np.int64],
    machine_ids: Sequence[bytes],
    times_us: NDArray[np.int64],
    worked_us: NDArray[np.int64],
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Hold events against windows.

    Args:
        windows: from configuration.
        machines: (n,) a number for each machine.
        machine_ids: n ids.
        times_us: (n,) event times.
        worked_us: (n,) a time before which nothing has to be learned anew; any if negative.

    Returns:
        Which events (n,) are within a window; and (n,) for each event when the last
        window with ``relearn`` was over that ended after ``worked_us``, 0 without one.
    """
    inside = np.zeros(len(machines), np.bool_)
    ended_us = np.zeros(len(machines), np.int64)
    for window in windows:
        rows = np.flatnonzero(window.contains(times_us))
        inside[rows[_concerned(window, rows, machines, machine_ids)]] = True
        if window.relearn:
            ends_us = window.ended_us(times_us)
            rows = np.flatnonzero(ends_us > np.maximum(worked_us, 0))
            rows = rows[_concerned(window, rows, machines, machine_ids)]
            ended_us[rows] = np.maximum(ended_us[rows], ends_us[rows])
    return inside, ended_us


def _concerned(
    window: PlannedWindow,
    rows: NDArray[np.int64],
    machines: NDArray[np.int64],
    machine_ids: Sequence[bytes],
) -> NDArray[np.bool_]:
    """Which of the events at ``rows`` (k,) are of machines that the window concerns."""
    if window.machines == "*":
        return np.ones(len(rows), np.bool_)
    _, first, inverse = np.unique(machines[rows], return_index=True, return_inverse=True)
    matching = [window.matches(machine_ids[row]) for row in rows[first].tolist()]
    return np.array(matching, np.bool_)[inverse]
