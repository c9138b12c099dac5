"""A partition divided by machines, each with the answers that the whole partition gives.

Machines are judged each on its own but for the clock of the partition, the newest event time that
it has accepted: by it a machine is found silent, and is forgotten. Late events never move it,
because they are older than what their own machine sent before. So a first look at the times of
all events, stretch by stretch and in any order, tells the clock at each record; then a machine's
own records are enough. Only where it is forgotten between two of them, the clock at the record
that makes it so is told, and the clock just before. That is the first record of a pane, and of
those there are few.

That machines beyond a limit are refused depends on all of them, so that cannot be divided.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.core.errors import RecordingError
from worker.core.events import Chunk, EventDecoder
from worker.core.outgoing import Outputs
from worker.core.pipeline import Pipeline
from worker.core.state import PartitionState
from worker.core.windows import EMPTY

CHUNK_ROWS = 10_000


class Placed(NamedTuple):
    """What a first look at n consecutive records of a partition, a stretch, tells.

    Attributes:
        machine_ids: n; None for what is no event.
        before_us, clocks_us: (n,) newest time of the stretch's events before each record, and
            with it; EMPTY without any.
        marked: (n,) which of them :func:`clocks_of` has to see.
    """

    machine_ids: list[bytes | None]
    before_us: NDArray[np.int64]
    clocks_us: NDArray[np.int64]
    marked: NDArray[np.bool_]


def place(decoder: EventDecoder, chunk: Chunk, pane_us: int) -> Placed:
    """Take the first look at a stretch of at least one record."""
    readings, _ = decoder.decode(chunk)
    machine_ids: list[bytes | None] = [None] * len(chunk)
    for row, machine_id in zip(readings.rows.tolist(), readings.machine_ids, strict=True):
        machine_ids[row] = machine_id
    clocks_us = np.full(len(chunk) + 1, EMPTY, np.int64)
    clocks_us[readings.rows + 1] = readings.times_us
    np.maximum.accumulate(clocks_us, out=clocks_us)
    marked = clocks_us[1:] // pane_us > clocks_us[:-1] // pane_us
    marked[-1] = True
    return Placed(machine_ids, clocks_us[:-1], clocks_us[1:], marked)


class Mark(NamedTuple):
    """A record that was marked.

    Attributes:
        begin: first offset of its stretch.
    """

    partition: int
    begin: int
    offset: int
    before_us: int
    clock_us: int


@dataclass(frozen=True)
class Clock:
    """The clock of a partition over some of its records.

    Attributes:
        begins: (s,) first offsets of stretches, ascending.
        bases_us: (s,) the clock before each.
        entered_us: (p, 2) for each pane that the clock enters: the clock before, and at the
            record that moved it there.
        last: the last offset.
        end_us: the clock after it.
    """

    begins: NDArray[np.int64]
    bases_us: NDArray[np.int64]
    entered_us: NDArray[np.int64]
    last: int
    end_us: int

    def at(self, begins: NDArray[np.int64], clocks_us: NDArray[np.int64]) -> NDArray[np.int64]:
        """The clock (n,) at records.

        Args:
            begins, clocks_us: (n,) of their stretches; see :class:`Placed`.
        """
        return np.maximum(clocks_us, self.bases_us[np.searchsorted(self.begins, begins)])

    def entering(self, due_us: int) -> tuple[int, int]:
        """The clock before and at the first record by which it is ``due_us``, a pane's start."""
        before_us, clock_us = self.entered_us[np.searchsorted(self.entered_us[:, 1], due_us)]
        return int(before_us), int(clock_us)


def clocks_of(
    marks: Iterable[Mark], pane_us: int, earlier: Mapping[int, Clock]
) -> dict[int, Clock]:
    """The clock of each partition that has records.

    Args:
        marks: all of them, in any order.
        earlier: the latest of each partition, of the records before.

    Raises:
        RecordingError: offsets are there twice, or before those that were earlier.
    """
    clocks = {}
    for partition, own in groupby(sorted(marks), key=lambda mark: mark.partition):
        before = earlier.get(partition)
        last, clock_us = (-1, EMPTY) if before is None else (before.last, before.end_us)
        begins, bases_us, entered_us = [], [], []
        for begin, stretch in groupby(own, key=lambda mark: mark.begin):
            if begin <= last:
                raise RecordingError(
                    f"partition {partition} has offset {begin} behind offset {last}; its days are "
                    "not in the order of offsets, or files cover the same ones."
                )
            begins.append(begin)
            bases_us.append(clock_us)
            for mark in stretch:
                if mark.clock_us // pane_us > clock_us // pane_us:
                    entered_us.append((max(bases_us[-1], mark.before_us), mark.clock_us))
                clock_us = max(clock_us, mark.clock_us)
                last = mark.offset
        clocks[partition] = Clock(
            np.array(begins, np.int64),
            np.array(bases_us, np.int64),
            np.array(entered_us, np.int64).reshape(-1, 2),
            last,
            clock_us,
        )
    return clocks


def follow(
    pipeline: Pipeline, state: PartitionState, chunk: Chunk, clock: Clock
) -> Iterator[tuple[Chunk, Outputs]]:
    """Apply a machine's records, and all that the clock brings about until its end.

    Args:
        state: of the machine alone, up to the records before.
        chunk: its records, with ``clocks_us``.

    Yields:
        Consecutive parts of the records, some of them empty, and what they gave.
    """
    clocks_us, n = chunk.clocks_us, len(chunk)
    assert clocks_us is not None  # the clock is what machines have in common
    start = 0
    while True:
        upcoming_us = int(clocks_us[start]) if start < n else clock.end_us
        due_us = state.due_us
        if due_us <= upcoming_us:
            for moment_us in clock.entering(due_us):
                yield chunk.part(start, start), pipeline.tick(state, moment_us)
        elif start == n:
            break
        else:
            # A machine that is new may be forgotten so long after its first record.
            until_us = min(due_us, upcoming_us + state.limits.retention_us)
            end = start + int(np.searchsorted(clocks_us[start : start + CHUNK_ROWS], until_us))
            part = chunk.part(start, end)
            yield part, pipeline.step(state, part, tells_anomalies=False)
            start = end
    yield chunk.part(n, n), pipeline.tick(state, clock.end_us)
