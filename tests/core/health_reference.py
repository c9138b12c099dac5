"""Sensor health as docs/sensor-health.md tells it: slow, one machine and channel at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worker.core.health import HealthProfile

Told = tuple[int, int, int | None, str, int, int | None]
"""Row, machine, channel, kind, opened, closed."""


@dataclass
class Channel:
    condition: str | None = None
    opened_us: int = 0
    last: float = math.nan
    pending: float = 0.0
    repeats: int = 0
    absent: int = 0
    bad: int = 0
    good: int = 0


@dataclass
class Machine:
    channels: list[Channel]
    heard_us: int | None = None
    patience_us: int | None = None
    newest_us: int = 0
    pace_s: np.float32 = field(default_factory=lambda: np.float32(0.0))
    is_silent: bool = False
    returned: int = 0
    silent_since_us: int = 0
    block: list[float] = field(default_factory=list)
    block_start_us: int = 0
    earlier_error_s: float = 0.0
    is_skewed: bool = False
    skewed_since_us: int = 0

    @property
    def deadline_us(self) -> float:
        if self.heard_us is None or self.patience_us is None:
            return math.inf
        return self.heard_us + self.patience_us


class Reference:
    def __init__(
        self,
        profile: HealthProfile,
        rows: list[int],
        bounds: list[tuple[float, float]],
        grace_us: int,
        skew_limit_s: float,
    ) -> None:
        self.bounds = bounds
        self.profile = profile
        self.rows = rows
        self.grace_us = grace_us
        self.skew_limit_s = skew_limit_s
        self.clock_us = 0
        channels = profile.ranges.shape[1]
        self.machines = [Machine([Channel() for _ in range(channels)]) for _ in rows]
        self.told: list[Told] = []

    def event(
        self, row: int, m: int, t: int, record_us: int, values: Any, impossible: Any
    ) -> list[float]:
        self.clock_us = max(self.clock_us, t)
        for other, machine in enumerate(self.machines):
            if machine.deadline_us < self.clock_us:
                machine.returned = 0
                if not machine.is_silent and machine.deadline_us > machine.silent_since_us:
                    machine.is_silent = True
                    machine.silent_since_us = int(machine.deadline_us)
                    self.tell(row, other, None, "silent", machine.silent_since_us, None)
        machine = self.machines[m]
        often = self.keep_pace(machine, self.rows[m], t)
        if machine.is_silent:
            machine.returned += 1
            if machine.returned == 3:
                machine.is_silent, machine.returned = False, 0
                self.tell(row, m, None, "silent", machine.silent_since_us, t)
        self.compare_clocks(row, m, t, record_us)
        usable = []
        for c, channel in enumerate(machine.channels):
            is_bad = self.follow(row, m, c, t, values[c], impossible[c], often)
            masked = channel.condition in ("stuck", "out-of-range")
            usable.append(math.nan if is_bad or masked else values[c])
        return usable

    def tell(
        self, row: int, m: int, c: int | None, kind: str, opened: int, closed: int | None
    ) -> None:
        closed = None if closed is None else max(closed, opened)
        self.told.append((row, m, c, kind, opened, closed))

    def keep_pace(self, machine: Machine, p: int, t: int) -> float:
        interval_us, silence_us = self.profile.usual_us[p].tolist()
        base = max(silence_us, self.grace_us) if silence_us else None
        heard, patience = machine.heard_us, machine.patience_us
        machine.heard_us, machine.patience_us = self.clock_us, base
        if heard is None:
            machine.newest_us, machine.pace_s = t, np.float32(interval_us / 1e6)
            return 0.0
        gap = self.clock_us - heard
        if base is not None:
            assert patience is not None
            decayed = patience - (patience - base) // 1024
            machine.patience_us = max(base, decayed, 3 * min(gap, patience) // 2)
        pace_s = float(machine.pace_s)
        apart_us = t - machine.newest_us
        if apart_us >= 0:
            pace_s += (min(apart_us / 1e6, 8.0 * pace_s) - pace_s) / 32.0
            machine.pace_s = np.float32(pace_s)
            machine.newest_us = t
        if base is not None and apart_us > base:
            return 0.0
        return interval_us / 1e6 / pace_s if 0.0 < pace_s < interval_us / 1e6 else 1.0

    def compare_clocks(self, row: int, m: int, t: int, record_us: int) -> None:
        machine = self.machines[m]
        limit_s = max(self.skew_limit_s, 2e-6 * int(self.profile.usual_us[self.rows[m], 0]))
        if not machine.block or record_us < machine.block_start_us:
            machine.block = []
            machine.block_start_us = record_us
        machine.block.append(float(np.float32((t - record_us) / 1e6)))
        if len(machine.block) < 5 or record_us < machine.block_start_us + 600_000_000:
            return
        error_s, machine.block = max(machine.block), []
        is_steady = abs(error_s - machine.earlier_error_s) <= limit_s
        machine.earlier_error_s = error_s
        if not machine.is_skewed and abs(error_s) > limit_s and is_steady:
            if t > machine.skewed_since_us:
                machine.is_skewed, machine.skewed_since_us = True, t
                self.tell(row, m, None, "clock-skew", t, None)
        elif machine.is_skewed and (abs(error_s) <= limit_s / 2 or not is_steady):
            machine.is_skewed = False
            self.tell(row, m, None, "clock-skew", machine.skewed_since_us, t)

    def follow(
        self, row: int, m: int, c: int, t: int, x: float, impossible: bool, often: float
    ) -> bool:
        p, channel = self.rows[m], self.machines[m].channels[c]
        stuck, missing = (int(limit * max(often, 1.0)) for limit in self.profile.limits[p, c])
        if p == 0 and math.isnan(channel.last):
            missing = 0
        evidence, is_bad = self.judge(p, c, channel, x, impossible, often > 0, stuck, missing)
        if evidence == "glitch" and channel.condition is not None:
            channel.good, evidence = 0, None
        elif evidence is not None or is_bad:
            channel.good = 0
        elif channel.condition is not None and channel.absent == 0:
            channel.good += 1
            needed = {"glitch": 60, "missing": 60, "stuck": min(2 * stuck, 60), "out-of-range": 10}
            if channel.good >= needed[channel.condition]:
                self.tell(row, m, c, channel.condition, channel.opened_us, t)
                channel.condition = None
        if evidence is not None and evidence != channel.condition:
            if channel.condition is not None:
                self.tell(row, m, c, channel.condition, channel.opened_us, t)
                channel.condition = None
            if t > channel.opened_us:
                channel.condition, channel.opened_us = evidence, t
                self.tell(row, m, c, evidence, t, None)
        return is_bad

    def judge(
        self,
        p: int,
        c: int,
        channel: Channel,
        x: float,
        impossible: bool,
        is_calm: bool,
        stuck: int,
        missing: int,
    ) -> tuple[str | None, bool]:
        low, high, reach = self.profile.ranges[p, c].tolist()
        if math.isnan(x) and not impossible:
            channel.absent += 1
            return ("missing" if 0 < missing <= channel.absent else None), False
        channel.absent = 0
        if impossible:
            channel.bad = min(channel.bad + 1, 3)
            channel.pending = x
            return ("out-of-range" if channel.bad == 3 else None), True
        is_outside = not (low - reach <= x <= high + reach)
        if is_calm and is_outside and abs(x - channel.last) > reach:
            if stuck and channel.bad and np.float32(x) == np.float32(channel.pending):
                channel.repeats += 1
                return ("stuck" if channel.repeats >= stuck else None), True
            agrees = abs(x - float(np.float32(channel.pending))) <= reach
            channel.repeats, channel.pending = 0, x
            if channel.bad and not agrees:
                channel.bad = 1
                return "glitch", True
            channel.bad += 1
            if channel.bad < 3:
                return None, True
            channel.bad, channel.last = 0, x
            return None, False
        returned, channel.bad = channel.bad > 0, 0
        channel.repeats = channel.repeats + 1 if x == channel.last else 0
        channel.last = x
        ordinary = low < np.float32(x) < high
        near = low - (high - low) / 4 <= x <= high + (high - low) / 4
        may_rest = not ordinary and (not near or x == 0.0 or np.float32(x) in (low, high))
        if 0 < stuck <= channel.repeats and not may_rest and x not in self.bounds[c]:
            return "stuck", False
        return ("glitch" if returned else None), False
