"""The truth about a simulation, and how well anomalies match it.

Owns the truth's JSON form and the definition of a detected fault.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from worker.core.messages import format_time_us
from worker.simulator.faults import Fault

MIN_ANOMALIES = 3
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
    """

    spec: str
    seed: int
    window_us: int
    start_us: int
    end_us: int
    machines: tuple[str, ...]
    faults: tuple[Fault, ...]

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
        }
        return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


class FaultReport(msgspec.Struct, frozen=True):
    """How anomalies match the machine faults of a truth.

    Attributes:
        injected, detected: machine faults, all kinds together.
        injected_by_kind, detected_by_kind: the same for each kind.
        chance_level: share of fault-free stretches, as long as the faults, that the same
            criterion calls detected; what guessing would reach.
        false_alarms: anomalies in fault-free time.
        fault_free_machine_days: how much of it there is.
    """

    injected: int
    detected: int
    injected_by_kind: dict[str, int]
    detected_by_kind: dict[str, int]
    chance_level: float
    false_alarms: int
    fault_free_machine_days: float

    @property
    def false_alarms_per_machine_day(self) -> float:
        """Anomalies per machine and fault-free day."""
        days = self.fault_free_machine_days
        return self.false_alarms / days if days else 0.0


def match_faults(truth: Truth, anomalies: Iterable[tuple[str, int]]) -> FaultReport:
    """Count the machine faults that were detected.

    A fault is detected when its machine has at least ``MIN_ANOMALIES`` anomalies while it
    is in force. Faults in force for less than ``MIN_VISIBLE_US`` before the end of the
    simulation are not counted.

    Fault-free time begins one window after the start and leaves out every fault (also of
    sensors and drift) with the window after it, in which aggregates still show it.

    Args:
        anomalies: (machine_id, event time in microseconds) each, in any order; those of
            machines that were not simulated are ignored.
    """
    times: Mapping[str, NDArray[np.int64]] = _sorted_times(truth, anomalies)
    quiet = fault_free_intervals(truth)
    injected: dict[str, int] = defaultdict(int)
    detected: dict[str, int] = defaultdict(int)
    chances = []
    for fault in truth.faults:
        if fault.category != "machine" or fault.end_us - fault.start_us < MIN_VISIBLE_US:
            continue
        injected[fault.kind] += 1
        count = _count(times[fault.machine_id], fault.start_us, fault.end_us)
        detected[fault.kind] += int(count >= MIN_ANOMALIES)
        chances.append(_chance(times, quiet, fault.end_us - fault.start_us))
    known = [chance for chance in chances if chance is not None]
    return FaultReport(
        injected=sum(injected.values()),
        detected=sum(detected.values()),
        injected_by_kind=dict(sorted(injected.items())),
        detected_by_kind=dict(sorted(detected.items())),
        chance_level=round(float(np.mean(known)), 4) if known else 0.0,
        false_alarms=sum(
            int(_count(times[machine], start, end))
            for machine, intervals in quiet.items()
            for start, end in intervals
        ),
        fault_free_machine_days=sum(end - start for i in quiet.values() for start, end in i)
        / 86_400e6,
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


def _sorted_times(
    truth: Truth, anomalies: Iterable[tuple[str, int]]
) -> dict[str, NDArray[np.int64]]:
    found: dict[str, list[int]] = {machine: [] for machine in truth.machines}
    for machine, time_us in anomalies:
        if machine in found:
            found[machine].append(time_us)
    return {machine: np.sort(np.array(t, np.int64)) for machine, t in found.items()}


def _count(times_us: NDArray[np.int64], start_us: int, end_us: int) -> int:
    first, last = np.searchsorted(times_us, [start_us, end_us])
    return int(last - first)


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
            flagged += int((counts >= MIN_ANOMALIES).sum())
            stretches += len(counts)
    return flagged / stretches if stretches else None
