"""The truth about a simulation, and how well episodes match it.

Owns the truth's JSON form and the definition of a detected fault.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from worker.core.messages import format_time_us
from worker.simulator.changes import FleetChange
from worker.simulator.faults import Fault

MIN_VISIBLE_US = 15 * 60_000_000
"""A fault counts once it was in force this long; the run's end may cut it off earlier."""


class Truth(msgspec.Struct, frozen=True):
    """What was simulated.

    Attributes:
        spec: name of the channel specification.
        window_us: length of its window.
        start_us, end_us: event time that was covered.
        machines: all ids.
        faults: by start.
        changes: of the whole fleet.
    """

    spec: str
    seed: int
    window_us: int
    start_us: int
    end_us: int
    machines: tuple[str, ...]
    faults: tuple[Fault, ...]
    changes: tuple[FleetChange, ...] = ()

    def to_json(self) -> bytes:
        """The truth file: one JSON document, times as RFC 3339 text."""
        document = {
            "spec": self.spec,
            "seed": self.seed,
            "start": format_time_us(self.start_us),
            "end": format_time_us(self.end_us),
            "machines": self.machines,
            "faults": [
                {
                    "machine_id": fault.machine_id,
                    "kind": fault.kind,
                    "category": fault.category,
                    "channels": fault.channels,
                    "start": format_time_us(fault.start_us),
                    "end": format_time_us(fault.end_us),
                    "severity": round(fault.severity, 3),
                }
                for fault in self.faults
            ],
            **({"changes": self._changes()} if self.changes else {}),
        }
        return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"

    def _changes(self) -> list[dict[str, object]]:
        return [
            {
                "kind": change.kind,
                "channels": change.channels,
                "start": format_time_us(change.start_us),
                "full_at": format_time_us(change.start_us + change.ramp_us),
                "size": change.size,
            }
            for change in self.changes
        ]


class OpenedEpisode(NamedTuple):
    """What detection made of a machine's readings.

    Attributes:
        opened_us: event time.
        channels: those that contributed most, first of all.
    """

    machine_id: str
    opened_us: int
    channels: tuple[str, ...]


class FaultReport(msgspec.Struct, frozen=True):
    """How episodes match the faults of a truth.

    Attributes:
        injected, detected: machine faults, all kinds together.
        injected_by_kind, detected_by_kind: the same for each kind.
        first_channel_right: of the faults detected, those whose episode names first a channel
            that the fault shows in.
        chance_level: share of fault-free stretches, as long as the faults, that the same
            criterion calls detected; what guessing would reach.
        false_episodes: opened in fault-free time.
        fault_free_machine_days: how much of it there is.
        sensor_faults, sensor_alarms: faults of sensors, and how many of them opened an
            episode of the machine, though it was well.
    """

    injected: int
    detected: int
    injected_by_kind: dict[str, int]
    detected_by_kind: dict[str, int]
    first_channel_right: int
    chance_level: float
    false_episodes: int
    fault_free_machine_days: float
    sensor_faults: int
    sensor_alarms: int

    @property
    def false_episodes_per_machine_day(self) -> float:
        """False episodes per machine and fault-free day."""
        days = self.fault_free_machine_days
        return self.false_episodes / days if days else 0.0


def match_faults(truth: Truth, episodes: Iterable[OpenedEpisode]) -> FaultReport:
    """Hold episodes against what was injected.

    A fault is detected when an episode of its machine opens while it is in force; one that is open
    already does not count. Faults in force for less than ``MIN_VISIBLE_US`` before the end of the
    simulation are not counted.

    Fault-free time begins one window after the start and leaves out every fault (also of
    sensors and drift) with the window after it, in which aggregates still show it.

    Args:
        episodes: in any order; those of machines that were not simulated are ignored.
    """
    by_machine = _by_machine(truth, episodes)
    times = {m: np.array([e.opened_us for e in own], np.int64) for m, own in by_machine.items()}
    quiet = fault_free_intervals(truth)
    injected: Counter[str] = Counter()
    detected: Counter[str] = Counter()
    right = sensor_faults = sensor_alarms = 0
    chances = []
    for fault in truth.faults:
        first, last = np.searchsorted(times[fault.machine_id], [fault.start_us, fault.end_us])
        if fault.category == "sensor":
            sensor_faults += 1
            sensor_alarms += int(last > first)
        if fault.category != "machine" or fault.end_us - fault.start_us < MIN_VISIBLE_US:
            continue
        injected[fault.kind] += 1
        chances.append(_chance(times, quiet, fault.end_us - fault.start_us))
        if last > first:
            detected[fault.kind] += 1
            channels = by_machine[fault.machine_id][first].channels
            right += int(bool(channels) and channels[0] in fault.channels)
    known = [chance for chance in chances if chance is not None]
    return FaultReport(
        injected=injected.total(),
        detected=detected.total(),
        injected_by_kind=dict(sorted(injected.items())),
        detected_by_kind={kind: detected[kind] for kind in sorted(injected)},
        first_channel_right=right,
        chance_level=round(float(np.mean(known)), 4) if known else 0.0,
        false_episodes=sum(
            int(np.diff(np.searchsorted(times[machine], interval))[0])
            for machine, intervals in quiet.items()
            for interval in intervals
        ),
        fault_free_machine_days=sum(end - start for i in quiet.values() for start, end in i)
        / 86_400e6,
        sensor_faults=sensor_faults,
        sensor_alarms=sensor_alarms,
    )


def fault_free_intervals(truth: Truth) -> dict[str, list[tuple[int, int]]]:
    """Fault-free time of each machine as [start, end) pairs; see :func:`match_faults`."""
    busy: dict[str, list[tuple[int, int]]] = {machine: [] for machine in truth.machines}
    for fault in truth.faults:
        busy[fault.machine_id].append((fault.start_us, fault.end_us + truth.window_us))
    quiet: dict[str, list[tuple[int, int]]] = {}
    for machine, spans in busy.items():
        quiet[machine] = []
        free_from = truth.start_us + truth.window_us
        for start, end in [*sorted(spans), (truth.end_us, truth.end_us)]:
            if start > free_from:
                quiet[machine].append((free_from, start))
            free_from = max(free_from, end)
    return quiet


def _by_machine(truth: Truth, episodes: Iterable[OpenedEpisode]) -> dict[str, list[OpenedEpisode]]:
    """The episodes of each machine, by opening."""
    found: dict[str, list[OpenedEpisode]] = {machine: [] for machine in truth.machines}
    for episode in sorted(episodes, key=lambda episode: episode.opened_us):
        if episode.machine_id in found:
            found[episode.machine_id].append(episode)
    return found


def _chance(
    times: Mapping[str, NDArray[np.int64]],
    quiet: Mapping[str, list[tuple[int, int]]],
    length_us: int,
) -> float | None:
    """Share of consecutive fault-free stretches of ``length_us`` that look like a fault."""
    flagged = stretches = 0
    for machine, intervals in quiet.items():
        for start, end in intervals:
            edges = np.arange(start, end + 1, length_us)
            counts = np.diff(np.searchsorted(times[machine], edges))
            flagged += int((counts > 0).sum())
            stretches += len(counts)
    return flagged / stretches if stretches else None
