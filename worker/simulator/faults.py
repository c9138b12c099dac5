"""Which faults happen to which machine and when.

Owns the schedule: for each machine a renewal process of its own, so that faults
neither overlap nor depend on how far ahead the schedule was drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

US_PER_HOUR = 3_600_000_000
US_PER_DAY = 24 * US_PER_HOUR

Category = Literal["machine", "sensor", "drift"]

SENSOR_KINDS = ("missing", "stuck", "glitch", "silent")
DRIFT_KIND = "slow-drift"

DURATION_IN_WINDOWS = (0.75, 2.5)
LONGEST_FAULT_US = 12 * US_PER_HOUR
DRIFT_IN_FAULTS = 8.0
SEVERITY = (0.85, 1.15)


class FaultRates(msgspec.Struct, frozen=True):
    """How often faults begin, per machine and day."""

    machine: float = 0.4
    sensor: float = 0.2
    drift: float = 0.04

    @classmethod
    def none(cls) -> FaultRates:
        """No faults at all, as for training."""
        return cls(machine=0.0, sensor=0.0, drift=0.0)


class Fault(msgspec.Struct, frozen=True):
    """One injected fault, as the truth file records it.

    Attributes:
        kind: such as ``heat-dissipation`` or ``stuck``.
        channels: the channels that it shows in.
        start_us, end_us: event time; the fault is in force in [start, end).
        severity: size relative to the usual one of its kind; negative: downwards.
    """

    machine_id: str
    kind: str
    category: Category
    channels: tuple[str, ...]
    start_us: int
    end_us: int
    severity: float


class MachineFaultKind(NamedTuple):
    """A fault that a machine model can show.

    Attributes:
        channels: what it shows in; empty: chosen at random for each fault.
        ramp: share of its duration until it has full size.
        both_ways: whether it may go downwards as well.
    """

    channels: tuple[str, ...]
    ramp: float
    both_ways: bool = False


@dataclass
class _Machine:
    rng: np.random.Generator
    free_us: int
    faults: list[Fault] = field(default_factory=list)


class FaultSchedule:
    """Draws faults as far as they are needed; see the module's first lines.

    Args:
        kinds: the machine faults that can happen, by name.
        channels: names that sensor faults and random machine faults can hit.
        start_us: nothing begins within one window of it, so that aggregates can fill.
        window_us: faults last a few windows, at most half a day.
    """

    def __init__(
        self,
        kinds: Mapping[str, MachineFaultKind],
        channels: Sequence[str],
        machine_ids: Sequence[str],
        rates: FaultRates,
        *,
        start_us: int,
        window_us: int,
        seed: int,
    ) -> None:
        self._kinds = dict(kinds)
        self._channels = list(channels)
        self._rates = rates
        self._window_us = window_us
        self._ids = list(machine_ids)
        self._machines = [
            _Machine(np.random.default_rng([seed, 1, m]), start_us + window_us)
            for m in range(len(machine_ids))
        ]

    @property
    def kinds(self) -> dict[str, MachineFaultKind]:
        """The machine faults that can happen, by name."""
        return self._kinds

    def between(self, start_us: int, end_us: int) -> list[tuple[int, Fault]]:
        """Faults in force at some time of [start, end), each with its machine's index."""
        self._extend(end_us)
        found = []
        for m, machine in enumerate(self._machines):
            for fault in reversed(machine.faults):
                if fault.end_us <= start_us:
                    break
                if fault.start_us < end_us:
                    found.append((m, fault))
        return found

    def _extend(self, until_us: int) -> None:
        total = self._rates.machine + self._rates.sensor + self._rates.drift
        if total <= 0:
            return
        for m, machine in enumerate(self._machines):
            while not machine.faults or machine.faults[-1].end_us < until_us:
                gap_us = machine.rng.exponential(US_PER_DAY / total)
                start_us = machine.free_us + int(gap_us)
                machine.faults.append(self._draw(machine.rng, self._ids[m], start_us))
                machine.free_us = machine.faults[-1].end_us

    def _draw(self, rng: np.random.Generator, machine_id: str, start_us: int) -> Fault:
        rates = self._rates
        u = rng.random() * (rates.machine + rates.sensor + rates.drift)
        longest = min(DURATION_IN_WINDOWS[1] * self._window_us, LONGEST_FAULT_US)
        shortest = longest * DURATION_IN_WINDOWS[0] / DURATION_IN_WINDOWS[1]
        duration = rng.uniform(shortest, longest)
        severity = rng.uniform(*SEVERITY)
        hit = 1
        if u < rates.machine:
            category: Category = "machine"
            kind = list(self._kinds)[rng.integers(len(self._kinds))]
            hit = int(rng.integers(1, 2 + len(self._channels) // 2))
            if self._kinds[kind].both_ways and rng.random() < 0.5:
                severity = -severity
        elif u < rates.machine + rates.sensor:
            category = "sensor"
            kind = SENSOR_KINDS[rng.integers(len(SENSOR_KINDS))]
            hit = len(self._channels) if kind == "silent" else 1
        else:
            category, kind = "drift", DRIFT_KIND
            duration *= DRIFT_IN_FAULTS
            severity = severity if rng.random() < 0.5 else -severity
        picked = rng.permutation(len(self._channels))[:hit]
        channels = tuple(self._channels[c] for c in sorted(picked))
        if category == "machine":
            channels = self._kinds[kind].channels or channels
        return Fault(
            machine_id, kind, category, channels, start_us, start_us + int(duration), severity
        )


class Effects:
    """The faults in force during one block of ticks, as arrays.

    Args:
        times_us: (B,) tick times.
        machines: number of machines M.
        channels: names in the order of the third axis.
    """

    def __init__(
        self,
        faults: Sequence[tuple[int, Fault]],
        kinds: Mapping[str, MachineFaultKind],
        times_us: NDArray[np.int64],
        machines: int,
        channels: Sequence[str],
    ) -> None:
        self.faults = list(faults)
        self.times_us = times_us
        self._ramps = {name: kind.ramp for name, kind in kinds.items()} | {DRIFT_KIND: 1.0}
        self._shape = (len(times_us), machines)
        self._channels = list(channels)

    def intensity(self, kind: str) -> NDArray[np.float64]:
        """(B, M): 0 without the fault, rising to its severity with it."""
        total = np.zeros(self._shape)
        for m, fault in self.faults:
            if fault.kind == kind:
                total[:, m] += self._course(fault)
        return total

    def by_channel(self, kind: str) -> NDArray[np.float64]:
        """(B, M, C): like :meth:`intensity`, in the channels that each fault hits."""
        total = np.zeros((*self._shape, len(self._channels)))
        for m, fault in self.faults:
            if fault.kind == kind:
                hit = [self._channels.index(name) for name in fault.channels]
                total[:, m, hit] += self._course(fault)[:, None]
        return total

    def in_force(self, fault: Fault) -> NDArray[np.bool_]:
        """(B,): at which ticks the fault is in force."""
        return (self.times_us >= fault.start_us) & (self.times_us < fault.end_us)

    def _course(self, fault: Fault) -> NDArray[np.float64]:
        ramp_us = max(self._ramps[fault.kind] * (fault.end_us - fault.start_us), 1.0)
        grown = np.clip((self.times_us - fault.start_us) / ramp_us, 0.0, 1.0)
        return np.where(self.in_force(fault), fault.severity * grown, 0.0)
