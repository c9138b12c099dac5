"""What detectors are measured on: readings to learn from, readings to judge, and the truth.

A :class:`Case` is learned and judged by itself; cases of one set are reported together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.core.channels import US_PER_S, ChannelSpec, Kind, format_duration, spec_from_dict

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Times = NDArray[np.int64]

US_PER_DAY = 86_400 * US_PER_S
LONG_SCALE_ROWS = 60

Role = Literal["learn", "confirm"]
"""Design choices were made on the cases to learn from only; the others confirm them."""


class Frame(NamedTuple):
    """Readings in order of time.

    Attributes:
        machine_ids: (n,) text.
        times_us: (n,) event times.
        values: (n, C) readings of the continuous channels, NaN where missing.
    """

    machine_ids: NDArray[np.str_]
    times_us: Times
    values: Floats

    def where(self, rows: Any) -> Frame:
        """The rows that an index or mask (n,) picks."""
        return Frame(self.machine_ids[rows], self.times_us[rows], self.values[rows])

    def by_machine(self) -> dict[str, NDArray[np.intp]]:
        """Rows of each machine, in order."""
        return {str(m): np.flatnonzero(self.machine_ids == m) for m in np.unique(self.machine_ids)}


class Event(NamedTuple):
    """Something that truly happened, in force in [start, end].

    Attributes:
        category: ``machine`` events are to be found; while others are in force, episodes
            are neither right nor false.
        channels: where it shows; empty: not known.
    """

    machine_id: str
    kind: str
    start_us: int
    end_us: int
    channels: tuple[str, ...] = ()
    category: Literal["machine", "sensor", "drift"] = "machine"


@dataclass(frozen=True)
class Case:
    """One training and one test.

    Attributes:
        group: the set it is reported with.
        labels: (n,) which rows of the test are truly abnormal.
        slices: (n,) which part of the set each row of the test belongs to, for gaps between
            them; empty: no slices.
        unit: whether truth is one row each (``row``) or events that last (``event``).
        extra: what only this set's own scorer needs.
    """

    name: str
    group: str
    role: Role
    spec: ChannelSpec
    train: Frame
    test: Frame
    labels: Flags
    events: tuple[Event, ...]
    slices: NDArray[np.str_]
    unit: Literal["row", "event"] = "event"
    extra: Any = None

    @property
    def interval_us(self) -> int:
        """Median time between two readings of a machine in training."""
        return median_interval_us(self.train)

    @property
    def recovery_us(self) -> int:
        """How long after an event its traces may still be seen: the long scale."""
        return min(LONG_SCALE_ROWS * self.interval_us, US_PER_DAY)


def median_interval_us(frame: Frame) -> int:
    """Median time between two readings of a machine; a minute where no machine has two."""
    steps = [np.diff(frame.times_us[rows]) for rows in frame.by_machine().values()]
    positive = [step[step > 0] for step in steps]
    joined = np.concatenate(positive) if positive else np.empty(0, np.int64)
    return int(np.median(joined)) if len(joined) else 60 * US_PER_S


def make_spec(
    name: str,
    channels: Sequence[str],
    interval_us: int,
    derived: Sequence[Mapping[str, Any]] = (),
) -> ChannelSpec:
    """A specification whose window is the long scale: sixty readings, at most a day."""
    interval_s = max(round(interval_us / US_PER_S), 1)
    panes = min(LONG_SCALE_ROWS, max(86_400 // interval_s, 1))
    pane = format_duration(interval_s * US_PER_S)
    return spec_from_dict(
        {
            "name": name,
            "window": {
                "length": format_duration(panes * interval_s * US_PER_S),
                "pane": pane,
                "grace": format_duration(5 * interval_s * US_PER_S),
            },
            "channel": [{"name": channel} for channel in channels],
            "derived": list(derived),
        },
        name,
    )


def signals(spec: ChannelSpec, values: Floats) -> Floats:
    """Readings (n, C) and what is derived from them, side by side."""
    position = {channel.name: c for c, channel in enumerate(spec.continuous)}
    columns = [values]
    for derived in spec.derived:
        a, b = (values[:, position[name]] for name in derived.operands)
        combined = a * b if derived.kind is Kind.PRODUCT else a - b
        columns.append((derived.factor * combined)[:, None])
    return np.concatenate(columns, axis=1)


def runs(flags: Flags) -> list[tuple[int, int]]:
    """First and last index of each run of true values."""
    edges = np.diff(np.concatenate([[0], flags.astype(np.int8), [0]]))
    return list(
        zip(
            np.flatnonzero(edges == 1).tolist(),
            (np.flatnonzero(edges == -1) - 1).tolist(),
            strict=True,
        )
    )
