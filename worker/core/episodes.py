"""Episodes: one for each event in a machine's life, opened and closed exactly once.

Owns when an episode opens, changes and closes, and how severe it is. What is anomalous is
decided elsewhere; why it is comes from elsewhere too (``worker/core/explanation.py``).

All times are event times, and each machine is on its own::

    none     ── anomalous reading ──────────────────────────────────────────> pending
    pending  ── anomalous for the minimum duration, after the cool-down ────> open (opened)
    open     ── more severe, another channel first, or twice as long ───────> open (updated)
    open     ── seen normal for the merge gap, maintenance, forgotten ──────> none (closed)
    pending  ── seen normal for the merge gap, maintenance, forgotten ──────> none

What is published cannot be taken back, so episodes are merged by closing late: whatever is
anomalous again before the machine was seen normal for the merge gap belongs to the same episode,
and a machine that says nothing is not seen normal. A reading that is not newer than the
last close belongs to what was closed then, however late it arrives; so the next episode opens later
than the last one closed, and an id, made of machine and opening, is never used twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.core import episode_kernel as kernel
from worker.core.channels import ChannelSpec
from worker.core.messages import (
    Cause,
    CloseReason,
    Episode,
    EpisodeStatus,
    Severity,
    format_time_us,
)
from worker.core.table import Field, Fields, MachineTable

LEVELS: tuple[Severity, ...] = ("low", "medium", "high")

FIELDS: Fields = {
    "episode_state": Field("<u1"),
    "episode_severity": Field("<u1"),
    "episode_top": Field("<i2"),
    "episode_sequence": Field("<u4"),
    "episode_anomalies": Field("<u4"),
    "episode_depth": Field("<f4"),
    "episode_score": Field("<f8"),
    "episode_times_us": Field("<i8", (kernel.TIMES,), kernel.NEVER),
    "episode_contributions": Field("<f4", ("signal",)),
    "episode_values": Field("<f4", ("signal",)),
    "episode_expected": Field("<f4", ("signal",)),
    "episode_deviation": Field("<f4", ("signal",)),
}
"""What is kept of each machine's episode, or of its last one: 80 + 16 D bytes."""


@dataclass(frozen=True)
class EpisodeRules:
    """When readings make an episode; None: from the machine's long scale.

    Attributes:
        merge_gap_us: for how long a machine has to be seen normal until its episode closes;
            default a quarter of the long scale.
        cool_down_us: for how long after a close none opens; what is still anomalous then
            opens one. Default: the merge gap.
        minimum_us: how long readings have to be anomalous until an episode opens.
    """

    merge_gap_us: int | None = None
    cool_down_us: int | None = None
    minimum_us: int = 0


DEFAULT_RULES = EpisodeRules()


class Transition(NamedTuple):
    """An episode that was opened, updated or closed.

    Attributes:
        row: position, in the call, of the event that did it; -1 without an event.
        machine: row of the table.
        sequence: 1 for ``opened``, then counting on.
        opened_us: time of the reading that opened it.
        began_us: time of its first anomalous reading.
        last_us, worst_us: time of its latest anomalous reading, and of that with the
            lowest score.
        closed_us: None while it is open.
        score: the lowest anomaly score.
        anomalies: number of anomalous readings.
        contributions: (D,) of each signal, mean over the anomalous readings.
        values, expected, deviation: (D,) of the reading with the lowest score.
    """

    row: int
    machine: int
    status: EpisodeStatus
    sequence: int
    opened_us: int
    began_us: int
    last_us: int
    worst_us: int
    closed_us: int | None
    close_reason: CloseReason | None
    severity: Severity
    score: float
    anomalies: int
    contributions: NDArray[np.float32]
    values: NDArray[np.float32]
    expected: NDArray[np.float32]
    deviation: NDArray[np.float32]


class Evidence(NamedTuple):
    """What scoring says of n events, in arrival order.

    Attributes:
        scores, thresholds: (n,); a reading is anomalous below its threshold.
        contributions: (n, D) of each signal to the anomaly.
        values, expected, deviation: (n, D) reading, what was expected, and their distance
            in standard deviations; NaN where missing.
    """

    scores: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    contributions: NDArray[np.float32]
    values: NDArray[np.float64]
    expected: NDArray[np.float64]
    deviation: NDArray[np.float32]


class Episodes:
    """Follows the episodes of machines; holds no state of its own.

    Args:
        spec: its derived signals do not count as channels in the severity.
        rules: when readings make an episode.
    """

    def __init__(self, spec: ChannelSpec, rules: EpisodeRules) -> None:
        first = len(spec.continuous)
        self._derived = (first, first + len(spec.derived))
        self._rules = (
            kernel.NEVER if rules.merge_gap_us is None else rules.merge_gap_us,
            kernel.NEVER if rules.cool_down_us is None else rules.cool_down_us,
            rules.minimum_us,
        )

    def severity(
        self, score: float, threshold: float, contributions: NDArray[np.float32]
    ) -> Severity:
        """How severe a reading is by itself; its ``contributions`` are (D,)."""
        depth = (threshold - score) / (1.0 + threshold)
        return LEVELS[int(kernel.severity_level(depth, 0.0, contributions, *self._derived))]

    def follow(
        self,
        table: MachineTable,
        machines: NDArray[np.int64],
        times_us: NDArray[np.int64],
        scales_us: NDArray[np.int64],
        maintained: NDArray[np.bool_],
        evidence: Evidence,
    ) -> list[Transition]:
        """Apply events, in arrival order.

        Args:
            table: has :data:`FIELDS`; changed in place.
            machines: (n,) row of each event's machine.
            times_us: (n,) event times.
            scales_us: (n,) long scale of each event's machine.
            maintained: (n,) whether the machine is under planned maintenance.
            evidence: of these events.

        Returns:
            At most one transition an event, in the order of events.
        """
        fields = [table[name] for name in FIELDS]
        transitions: list[Transition] = []
        # Up to the next transition, which is read from the table before what follows changes it.
        row, code = -1, 0
        while True:
            row, code = kernel.follow(
                row + 1,
                machines,
                times_us,
                scales_us,
                maintained,
                *evidence,
                *self._rules,
                *self._derived,
                *fields,
            )
            if code == kernel.NOTHING:
                return transitions
            transitions.append(_transition(table, row, int(machines[row]), *_CODES[code]))


class Opened:
    """Which episode each event of a call belongs to.

    Made before :meth:`Episodes.follow`, and told afterwards what that found.
    """

    def __init__(self, table: MachineTable, machines: NDArray[np.int64]) -> None:
        is_open = table["episode_state"][machines] == kernel.OPEN
        opened_us = table["episode_times_us"][machines, kernel.OPENED]
        self._before = np.where(is_open, opened_us, kernel.NEVER)
        self._changes: dict[int, list[Transition]] = {}

    def note(self, transitions: Sequence[Transition]) -> None:
        """Take the transitions of the call."""
        for transition in transitions:
            self._changes.setdefault(transition.machine, []).append(transition)

    def at(self, row: int, machine: int) -> int | None:
        """When the episode that the event at ``row`` belongs to was opened; None: no episode."""
        opened_us = int(self._before[row])
        for transition in self._changes.get(machine, ()):
            if transition.row > row:
                break
            is_closed = transition.closed_us is not None
            opened_us = kernel.NEVER if is_closed else transition.opened_us
        return None if opened_us == kernel.NEVER else opened_us


def close_forgotten(
    table: MachineTable, machines: NDArray[np.int64], times_us: NDArray[np.int64]
) -> list[Transition]:
    """Close the open episodes of machines that are about to be forgotten.

    Args:
        table: their rows are still there, and may be reset afterwards.
        machines: (k,) rows, each once.
        times_us: (k,) newest event time of each.
    """
    transitions = []
    times = table["episode_times_us"]
    for machine, time_us in zip(machines.tolist(), times_us.tolist(), strict=True):
        was_open = table["episode_state"][machine] == kernel.OPEN
        table["episode_state"][machine] = kernel.NONE
        if was_open:
            times[machine, kernel.CLOSED] = max(time_us, times[machine, kernel.LAST])
            table["episode_sequence"][machine] += 1
            transitions.append(_transition(table, -1, machine, "closed", "forgotten"))
    return transitions


def episode_id(machine_id: str, opened_us: int) -> str:
    """The name of an episode: ``machine_id@opened-at``."""
    return f"{machine_id}@{format_time_us(opened_us)}"


def episode_message(
    transition: Transition, machine_id: str, reason: str, causes: list[Cause], model_version: str
) -> Episode:
    """Tell of a transition.

    Args:
        reason: the causes in one sentence.
        causes: the channels, those that contributed most first.
        model_version: of the bundle that was in force.
    """
    closed_us = transition.closed_us
    return Episode(
        id=episode_id(machine_id, transition.opened_us),
        machine_id=machine_id,
        status=transition.status,
        sequence=transition.sequence,
        opened_at=format_time_us(transition.opened_us),
        began_at=format_time_us(transition.began_us),
        last_anomalous_at=format_time_us(transition.last_us),
        closed_at=None if closed_us is None else format_time_us(closed_us),
        close_reason=transition.close_reason,
        severity=transition.severity,
        anomalies=transition.anomalies,
        anomaly_score=transition.score,
        worst_at=format_time_us(transition.worst_us),
        reason=reason,
        causes=causes,
        model_version=model_version,
    )


_CODES: dict[int, tuple[EpisodeStatus, CloseReason | None]] = {
    kernel.WAS_OPENED: ("opened", None),
    kernel.WAS_UPDATED: ("updated", None),
    kernel.WAS_RECOVERED: ("closed", "recovered"),
    kernel.WAS_MAINTAINED: ("closed", "maintenance"),
}


def _transition(
    table: MachineTable,
    row: int,
    machine: int,
    status: EpisodeStatus,
    close_reason: CloseReason | None,
) -> Transition:
    of = {name.removeprefix("episode_"): table[name][machine] for name in FIELDS}
    times = of["times_us"].tolist()
    return Transition(
        row=row,
        machine=machine,
        status=status,
        sequence=int(of["sequence"]),
        opened_us=times[kernel.OPENED],
        began_us=times[kernel.BEGAN],
        last_us=times[kernel.LAST],
        worst_us=times[kernel.WORST],
        closed_us=times[kernel.CLOSED] if status == "closed" else None,
        close_reason=close_reason,
        severity=LEVELS[of["severity"]],
        score=float(of["score"]),
        anomalies=int(of["anomalies"]),
        contributions=of["contributions"].copy(),
        values=of["values"].copy(),
        expected=of["expected"].copy(),
        deviation=of["deviation"].copy(),
    )
