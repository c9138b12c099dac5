"""The oracle: what the core must compute, written so plainly that it is obviously right.

Keeps every accepted event of a machine in a list and goes through the whole list for
each window, with exact rational sums from the standard library. No panes are kept, no
arrays, nothing is updated in place.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field

import numpy as np

from worker.core.channels import ChannelSpec, format_duration


@dataclass(frozen=True)
class Statistics:
    """Of the readings of one channel in one window; all but `count` are None without any.

    Extremes are in single precision, as they are kept.
    """

    count: int
    mean: float | None = None
    std: float | None = None
    min: float | None = None
    max: float | None = None
    largest: float = 0.0

    @classmethod
    def of(cls, readings: list[float]) -> Statistics:
        if not readings:
            return cls(0)
        return cls(
            count=len(readings),
            mean=float(statistics.mean(readings)),
            std=statistics.pstdev(readings),
            min=float(np.float32(min(readings))),
            max=float(np.float32(max(readings))),
            largest=max(map(abs, readings)),
        )

    @property
    def tolerance(self) -> float:
        """Rounding that Welford's update may show: a few units in the last place an event.

        Squares of deviations below 1e-154 are no float64.
        """
        return 8 * (self.count + 1) * math.ulp(1.0) * self.largest + 1e-150


@dataclass(frozen=True)
class Late:
    """An event older than its machine's watermark."""

    watermark_us: int


@dataclass
class Reference:
    """Judges events one by one, in order of arrival."""

    spec: ChannelSpec
    events: dict[str, list[tuple[int, list[float]]]] = field(default_factory=dict)

    def window(self, machine: str, time_us: int, readings: list[float]) -> list[Statistics] | Late:
        """Statistics by channel over the event's window, NaN being a missing reading."""
        seen = self.events.setdefault(machine, [])
        if seen:
            watermark_us = max(time for time, _ in seen) - self.spec.grace_us
            if time_us < watermark_us:
                return Late(watermark_us)
        seen.append((time_us, readings))
        last_pane = time_us // self.spec.pane_us
        panes = range(last_pane - self.spec.length_us // self.spec.pane_us + 1, last_pane + 1)
        inside = [values for time, values in seen if time // self.spec.pane_us in panes]
        return [
            Statistics.of([values[c] for values in inside if not math.isnan(values[c])])
            for c in range(len(self.spec.continuous))
        ]

    def possible(self, readings: list[float]) -> list[float]:
        """The readings, NaN in place of those outside their channel's physical range."""
        result = []
        for channel, reading in zip(self.spec.continuous, readings, strict=True):
            low = -1e30 if channel.min is None else channel.min
            high = 1e30 if channel.max is None else channel.max
            result.append(reading if low <= reading <= high else math.nan)
        return result

    def features(
        self, readings: list[float], window: list[Statistics], expected: dict[str, float]
    ) -> dict[str, float]:
        """The model inputs by name, of an event with these readings and this window."""
        raw: dict[str, float] = {}
        result: dict[str, float] = {}
        span = format_duration(self.spec.length_us)
        for channel, reading, seen in zip(self.spec.continuous, readings, window, strict=True):
            names = {s: f"{s}_{channel.name}_{span}" for s in ("mean", "std", "min", "max", "dev")}
            if seen.mean is None:
                raw[channel.name] = expected[channel.name]
                result |= {name: expected[name] for name in names.values()}
                continue
            assert seen.std is not None
            assert seen.min is not None
            assert seen.max is not None
            raw[channel.name] = seen.mean if math.isnan(reading) else reading
            result[names["mean"]] = seen.mean
            result[names["std"]] = seen.std
            result[names["min"]] = seen.min
            result[names["max"]] = seen.max
            result[names["dev"]] = raw[channel.name] - seen.mean
        for derived in self.spec.derived:
            if derived.product is not None:
                a, b = derived.product
                result[derived.name] = derived.factor * raw[a] * raw[b]
            else:
                assert derived.difference is not None
                a, b = derived.difference
                result[derived.name] = derived.factor * (raw[a] - raw[b])
        return raw | result
