"""The last scored event of each machine of a partition, until it is taken.

Owns columns with a row for each machine, at its position in the state's arrays: a later event
replaces an earlier one, so that memory goes by machines and nothing has to be queued.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.core.channels import ChannelSpec
from worker.core.outgoing import Scored
from worker.core.state import PartitionState
from worker.core.table import Field, MachineTable
from worker.core.windows import STATS

SCORE, THRESHOLD, CONFIDENCE, EXPERIENCE = range(4)
"""Columns of ``scores``."""


class Latest(NamedTuple):
    """The last scored events of k machines, and their rows after them.

    Attributes:
        positions: (k,) in the state's arrays.
        machine_ids: k ids.
        rows: k machines' own rows as in the changelog.
        times_us: (k,) event times.
        scores: (k, 4) see ``SCORE``.
        maintained: (k,) whether the event is under planned maintenance.
        values: (k, C) readings that were used, NaN where missing or masked.
        inputs: (k, F) of the model.
        aggregates: (k, C, 5) of the window; see :func:`worker.core.windows.aggregate`.
    """

    positions: NDArray[np.int64]
    machine_ids: list[bytes]
    rows: list[bytes]
    times_us: NDArray[np.int64]
    scores: NDArray[np.float64]
    maintained: NDArray[np.bool_]
    values: NDArray[np.float64]
    inputs: NDArray[np.float32]
    aggregates: NDArray[np.float64]

    def part(self, start: int, end: int | None = None) -> Latest:
        """Those from ``start`` to before ``end``."""
        part = slice(start, end)
        return Latest(
            self.positions[part],
            self.machine_ids[part],
            self.rows[part],
            self.times_us[part],
            self.scores[part],
            self.maintained[part],
            self.values[part],
            self.inputs[part],
            self.aggregates[part],
        )


class LatestEvents:
    """Of one partition; not thread-safe."""

    def __init__(self, spec: ChannelSpec) -> None:
        self._columns = MachineTable(
            {
                "times_us": Field("<i8"),
                "scores": Field("<f8", (4,)),
                "maintained": Field("?"),
                "values": Field("<f8", ("channel",)),
                "inputs": Field("<f4", (len(spec.features),)),
                "aggregates": Field("<f8", ("channel", STATS)),
                "waiting": Field("?"),
                "last": Field("<i8"),
            },
            {"channel": len(spec.continuous)},
        )
        self._machine_ids: list[bytes] = []
        self._next = 0

    def __len__(self) -> int:
        """How many machines have an event that was not taken."""
        return int(self._columns["waiting"].sum())

    def note(self, scored: Scored) -> None:
        """Take further events, in arrival order."""
        machines, scores, columns = scored.machines, scored.scores, self._columns
        highest = int(machines.max(initial=-1))
        if highest >= len(columns):
            columns.grow(highest + highest // 2 + 1)
            self._machine_ids += [b""] * (len(columns) - len(self._machine_ids))
        order = np.arange(len(machines))
        columns["last"][machines] = order
        at = np.flatnonzero(columns["last"][machines] == order)
        rows = machines[at]
        for row, i in zip(rows.tolist(), at.tolist(), strict=True):
            self._machine_ids[row] = scored.readings.machine_ids[i]
        columns["scores"][rows, SCORE] = scores.anomaly_score[at]
        columns["scores"][rows, THRESHOLD] = scores.threshold[at]
        columns["scores"][rows, CONFIDENCE] = scores.confidence[at]
        columns["scores"][rows, EXPERIENCE] = scores.experience[at]
        columns["times_us"][rows] = scored.readings.times_us[at]
        columns["maintained"][rows] = scored.maintained[at]
        columns["values"][rows] = scored.values[at]
        columns["inputs"][rows] = scores.inputs[at]
        columns["aggregates"][rows] = scored.aggregates[at]
        columns["waiting"][rows] = True

    def take(self, state: PartitionState, most: int) -> Latest:
        """The events of at most so many machines, which then count as taken.

        Args:
            state: of the partition, after these events. A machine that it has forgotten is
                left out.
        """
        columns = self._columns
        waiting = np.flatnonzero(columns["waiting"])
        # Each in its turn: with more machines than can be taken none is always left behind.
        chosen = np.roll(waiting, -int(np.searchsorted(waiting, self._next)))[:most]
        self._next = int(chosen[-1]) + 1 if len(chosen) else 0
        columns["waiting"][chosen] = False
        names = state.names(chosen)
        there = [self._machine_ids[p] == n for p, n in zip(chosen.tolist(), names, strict=True)]
        positions = chosen[np.array(there, np.bool_)]
        return Latest(
            positions,
            state.names(positions),
            [value for _, value in state.machine_rows(positions)],
            *(
                columns[name][positions]
                for name in ("times_us", "scores", "maintained", "values", "inputs", "aggregates")
            ),
        )

    def give_back(self, positions: NDArray[np.int64]) -> None:
        """Let events count as not taken, because nothing came of it."""
        self._columns["waiting"][positions] = True
