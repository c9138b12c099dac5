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

from worker.core.channels import ChannelSpec
from worker.core.vocabulary import Feature


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
        self,
        readings: list[float],
        window: list[Statistics],
        streams: dict[str, list[float]],
        expected: list[float],
    ) -> list[float]:
        """The model inputs of an event with these readings, this window and these streams.

        `streams` are by kind, a number for each signal.
        """
        used = [
            seen.mean if math.isnan(reading) else reading
            for reading, seen in zip(readings, window, strict=True)
        ]
        return [
            usual if (value := self._feature(feature, used, window, streams)) is None else value
            for feature, usual in zip(self.spec.features, expected, strict=True)
        ]

    def _feature(
        self,
        feature: Feature,
        used: list[float | None],
        window: list[Statistics],
        streams: dict[str, list[float]],
    ) -> float | None:
        if feature.kind in streams:
            return max(-8.0, min(8.0, streams[feature.kind][feature.position]))
        if feature.kind == "derived":
            derived = self.spec.derived[feature.position]
            names = [c.name for c in self.spec.continuous]
            a, b = (used[names.index(name)] for name in derived.operands)
            if a is None or b is None:
                return None
            return derived.factor * (a * b if derived.product else a - b)
        seen = window[feature.position]
        reading = used[feature.position]
        if reading is None or seen.mean is None:
            return None
        if feature.kind == "raw":
            return reading
        if feature.kind == "rolling_deviation":
            return reading - seen.mean
        return float(getattr(seen, feature.kind.removeprefix("rolling_")))
