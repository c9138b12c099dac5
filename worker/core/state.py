"""State of one partition: every machine's panes and all else that is kept of it, as arrays.

Owns which machine sits where, growth, when machines are forgotten, and which rows changed
since they were saved. How state is read back from a changelog is
:mod:`worker.core.changelog`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.core import windows
from worker.core.arrays import zeros_on_demand
from worker.core.channels import ChannelSpec
from worker.core.followed import machine_table
from worker.core.rows import LAYOUT_KEY, Layout, Row, machine_keys, pane_keys, values

_INITIAL_MACHINES = 64


@dataclass(frozen=True)
class StateLimits:
    """What bounds the state of a partition.

    Attributes:
        retention_us: a machine of which nothing was accepted while the partition's newest
            event time moved on by this is forgotten, to the pane.
        max_machines: events of a further machine are refused while there are so many.
    """

    retention_us: int = 2**61
    max_machines: int = 2**31


UNLIMITED = StateLimits()


class Stretch(NamedTuple):
    """Events that can be dealt with in one go.

    Attributes:
        accepted: (k,) positions of those that were accepted.
        clock_us: the partition's clock before the first of them.
        previous_us: (k,) the machine's newest event time before each of them; EMPTY: none.
    """

    accepted: NDArray[np.int64]
    clock_us: int
    previous_us: NDArray[np.int64]


class PartitionState:
    """The rolling state of all machines of one partition.

    Not thread-safe. Two states that hold the same rows are interchangeable bit for bit.

    Attributes:
        next_offset: the first input offset whose event is not in the state yet.
        table: what is kept of each machine beside its panes, by array position.
    """

    # M rows each; see windows.aggregate and windows.accept. A row whose newest_us is EMPTY is
    # nobody's, or that of a machine that was forgotten and has rows to delete.
    _newest_us: NDArray[np.int64]
    _heard_us: NDArray[np.int64]
    _panes: NDArray[np.uint32]
    _counts: NDArray[np.uint32]
    _moments: NDArray[np.float64]
    _extremes: NDArray[np.float32]
    _closed_before: NDArray[np.int64]
    _closed: NDArray[np.float64]
    _dirty: NDArray[np.bool_]
    _machine_dirty: NDArray[np.bool_]

    def __init__(
        self, spec: ChannelSpec, next_offset: int = 0, limits: StateLimits = UNLIMITED
    ) -> None:
        self.spec = spec
        self.limits = limits
        self.next_offset = next_offset
        self.table = machine_table(spec)
        self._layout = Layout.of(spec)
        self._totals = np.array([windows.EMPTY, windows.NEVER, 0], np.int64)
        self._keys: list[bytes] = []
        self._index: dict[bytes, int] = {}
        self._free: list[int] = []
        self._capacity = 0
        self._unsaved: list[Row] = [(LAYOUT_KEY, self._layout.encode())]
        self._grow(_INITIAL_MACHINES)

    def __len__(self) -> int:
        """Number of machines."""
        return int(self._totals[windows.MACHINES])

    @property
    def clock_us(self) -> int:
        """The newest event time that was accepted; -1 without any."""
        return int(self._totals[windows.CLOCK])

    def indices(self, machine_ids: Sequence[bytes]) -> NDArray[np.int64]:
        """Array positions (n,) of machines, making room for those never seen."""
        try:
            found = list(map(self._index.__getitem__, machine_ids))
        except KeyError:
            new = [machine_id for machine_id in machine_ids if machine_id not in self._index]
            found = [self._index_of(machine_id) for machine_id in machine_ids]
            self.table.reset(np.array([self._index[machine_id] for machine_id in new]))
        return np.array(found, np.int64)

    def admit(
        self,
        machines: NDArray[np.int64],
        times_us: NDArray[np.int64],
        watermarks_us: NDArray[np.int64],
        when_due: Callable[[int, int], None],
    ) -> Iterator[Stretch]:
        """Judge events and hand them over in stretches during which nothing is due.

        A stretch must be dealt with before the next is asked for: in between, machines may
        be forgotten.

        Args:
            machines: (n,) array position of each event's machine.
            times_us: (n,) event times in arrival order.
            watermarks_us: (n,) out: EMPTY, or the watermark that a late event missed, or
                REFUSED for an event of a machine beyond the limit.
            when_due: called with the clock at which machines are to be forgotten, and the
                position of the event that moves it there; calls :meth:`forget_silent`.

        Yields:
            Consecutive parts of the events.
        """
        previous_us = np.empty(len(machines), np.int64)
        start = 0
        while start < len(machines):
            clock_us = self.clock_us
            end = windows.accept(
                machines,
                times_us,
                start,
                self.spec.grace_us,
                self.limits.retention_us,
                self.limits.max_machines,
                self._totals,
                self._newest_us,
                self._heard_us,
                watermarks_us,
                previous_us,
            )
            if end > start:
                accepted = start + np.flatnonzero(watermarks_us[start:end] == windows.EMPTY)
                self._machine_dirty[machines[accepted]] = True
                yield Stretch(accepted, clock_us, previous_us[accepted])
            if end < len(machines):
                when_due(max(int(times_us[end]), self.clock_us), end)
            start = end
        refused = watermarks_us == windows.REFUSED
        if refused.any():
            self._release(np.unique(machines[refused]))

    def add(
        self,
        machines: NDArray[np.int64],
        times_us: NDArray[np.int64],
        values: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Admit events and aggregate those accepted, where nothing else is to be done with them.

        Returns:
            Window aggregates (n, C, 5), zero for events that were not accepted, and (n,) the
            watermarks of :meth:`admit`.
        """
        aggregates = np.zeros((*values.shape, windows.STATS))
        watermarks_us = np.empty(len(machines), np.int64)
        forget = self.forget_silent
        for stretch in self.admit(machines, times_us, watermarks_us, lambda us, _: forget(us)):
            at = stretch.accepted
            aggregates[at] = self.aggregate(machines[at], times_us[at], values[at])
        return aggregates, watermarks_us

    def aggregate(
        self,
        machines: NDArray[np.int64],
        times_us: NDArray[np.int64],
        values: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Add accepted events to the panes; see :func:`worker.core.windows.aggregate`.

        Returns:
            Window aggregates (n, C, 5).
        """
        aggregates = np.empty((*values.shape, windows.STATS))
        windows.aggregate(
            machines,
            times_us,
            np.ascontiguousarray(values),
            self.spec.pane_us,
            self.spec.panes,
            self._panes,
            self._counts,
            self._moments,
            self._extremes,
            self._closed_before,
            self._closed,
            self._dirty,
            aggregates,
        )
        return aggregates

    def names(self, machines: NDArray[np.int64]) -> list[bytes]:
        """The machines (n,) at array positions."""
        return [self._keys[machine] for machine in machines.tolist()]

    def touch(self, machine: int) -> None:
        """Let the machine's row count as changed, though it had no event."""
        self._machine_dirty[machine] = True

    def silent_since(self, clock_us: int) -> NDArray[np.int64]:
        """Array positions of the machines to be forgotten at that time of the clock."""
        horizon_us = clock_us // self.spec.pane_us * self.spec.pane_us - self.limits.retention_us
        known = self._newest_us != windows.EMPTY
        return np.flatnonzero(known & (self._heard_us < horizon_us))

    def newest_us(self, machines: NDArray[np.int64]) -> NDArray[np.int64]:
        """Newest event time (n,) of machines, EMPTY without."""
        return self._newest_us[machines]

    def forget_silent(self, clock_us: int) -> None:
        """Forget these machines; their rows will be deleted from the changelog."""
        gone = self.silent_since(clock_us)
        self._dirty[gone] |= self._panes[gone] != windows.NO_PANE
        self._machine_dirty[gone] = True
        self._panes[gone] = windows.NO_PANE
        self._newest_us[gone] = windows.EMPTY
        self._closed_before[gone] = windows.EMPTY
        self.table.reset(gone)
        self._totals[windows.MACHINES] -= len(gone)
        self._set_due()

    def take_changes(self) -> list[Row]:
        """Rows changed since the last call, in a fixed order; they then count as saved.

        The first call of a process also says what the rows mean (``LAYOUT_KEY``), even if
        none changed.
        """
        known = len(self._keys)
        machines, slots = np.nonzero(self._dirty[:known])
        gone = self._panes[machines, slots] == windows.NO_PANE
        changed = np.flatnonzero(self._machine_dirty[:known])
        forgotten = self._newest_us[changed] == windows.EMPTY
        deleted = pane_keys(self._keys, machines[gone], slots[gone])
        deleted += machine_keys(self._keys, changed[forgotten])
        changes = [*self._unsaved, *((key, None) for key in deleted)]
        changes += self._pane_rows(machines[~gone], slots[~gone])
        changes += self.machine_rows(changed[~forgotten])
        self._unsaved.clear()
        self._dirty[:known] = False
        self._machine_dirty[:known] = False
        self._release(np.unique(np.concatenate([machines[gone], changed[forgotten]])))
        return changes

    def snapshot(self) -> list[tuple[bytes, bytes]]:
        """All rows, sorted by key: equal states give equal snapshots."""
        known = len(self._keys)
        rows = self._pane_rows(*np.nonzero(self._panes[:known] != windows.NO_PANE))
        rows += self.machine_rows(np.flatnonzero(self._newest_us[:known] != windows.EMPTY))
        return sorted(rows)

    def machine_rows(self, machines: NDArray[np.int64]) -> list[tuple[bytes, bytes]]:
        """Rows of all that is kept of machines (n,) beside their panes: keys and values."""
        records = self._layout.empty_machines(len(machines))
        records["fields"] = self.table.records(machines)
        keys = machine_keys(self._keys, machines)
        return list(zip(keys, values(records), strict=True))

    def load(
        self, machine_ids: Sequence[bytes], panes: NDArray[np.void], machines: NDArray[np.void]
    ) -> None:
        """Fill a fresh state with what was saved, so that none of it counts as changed.

        Args:
            machine_ids: n machines, each once.
            panes: (n, S) of :attr:`worker.core.rows.Layout.pane_dtype`, each in its slot; all
                zero where there is none. Each machine has at least one.
            machines: (n,) of :attr:`worker.core.rows.Layout.machine_dtype`; all zero where
                there is none.
        """
        places = self.indices(machine_ids)
        used = panes["version"] != 0
        self._panes[places] = np.where(used, panes["pane"] + 1, windows.NO_PANE)
        self._counts[places] = panes["counts"]
        self._moments[places] = panes["moments"]
        self._extremes[places] = panes["extremes"]
        # Every row was written with what was the newest then: the latest row has the truth.
        self._newest_us[places] = panes["newest_us"].max(axis=1)
        self._heard_us[places] = heard_us = panes["heard_us"].max(axis=1)
        saved = machines["version"] != 0
        self.table.load(places[saved], machines["fields"][saved])
        self._totals[windows.MACHINES] = len(places)
        self._totals[windows.CLOCK] = heard_us.max(initial=windows.EMPTY)
        self._set_due()

    def save_again(self, superseded: Sequence[bytes]) -> None:
        """Count everything as changed, and rows under the ``superseded`` keys as given up."""
        self._dirty[:] = self._panes != windows.NO_PANE
        self._machine_dirty[:] = self._newest_us != windows.EMPTY
        self._unsaved = [(key, None) for key in superseded]
        self._unsaved.append((LAYOUT_KEY, self._layout.encode()))

    def _pane_rows(
        self, machines: NDArray[np.int64], slots: NDArray[np.int64]
    ) -> list[tuple[bytes, bytes]]:
        records = self._layout.empty_panes(len(machines))
        records["pane"] = self._panes[machines, slots].astype(np.int64) - 1
        records["newest_us"] = self._newest_us[machines]
        records["heard_us"] = self._heard_us[machines]
        records["counts"] = self._counts[machines, slots]
        records["moments"] = self._moments[machines, slots]
        records["extremes"] = self._extremes[machines, slots]
        keys = pane_keys(self._keys, machines, slots)
        return list(zip(keys, values(records), strict=True))

    def _set_due(self) -> None:
        """Let the clock stop at the first event at which a machine is to be forgotten."""
        heard_us = self._heard_us[self._newest_us != windows.EMPTY]
        due_us = windows.NEVER
        if len(heard_us):
            # The first pane whose start is more than the retention after the machine was heard.
            horizon_us = int(heard_us.min()) + self.limits.retention_us + 1
            due_us = min(-(-horizon_us // self.spec.pane_us) * self.spec.pane_us, windows.NEVER)
        self._totals[windows.DUE] = due_us

    def _index_of(self, machine_id: bytes) -> int:
        index = self._index.get(machine_id)
        if index is None:
            if self._free:
                index = self._free.pop()
                self._keys[index] = machine_id
            else:
                index = len(self._keys)
                self._keys.append(machine_id)
                if index >= self._capacity:
                    self._grow(index + index // 2)
            self._index[machine_id] = index
        return index

    def _release(self, machines: NDArray[np.int64]) -> None:
        """Give up the places of those machines that hold nothing and have nothing to save."""
        unsaved = self._machine_dirty[machines] | self._dirty[machines].any(axis=1)
        idle = (self._newest_us[machines] == windows.EMPTY) & ~unsaved
        for index in machines[idle].tolist():
            del self._index[self._keys[index]]
            self._keys[index] = b""
            self._free.append(index)

    def _grow(self, capacity: int) -> None:
        channels, slots = len(self.spec.continuous), self.spec.slots
        old = self._capacity
        fresh: dict[str, NDArray[Any]] = {
            "_newest_us": np.full(capacity, windows.EMPTY, np.int64),
            "_heard_us": np.full(capacity, windows.EMPTY, np.int64),
            "_panes": zeros_on_demand((capacity, slots), np.uint32),
            "_counts": zeros_on_demand((capacity, slots, channels), np.uint32),
            "_moments": zeros_on_demand((capacity, slots, channels, 2), np.float64),
            "_extremes": zeros_on_demand((capacity, slots, channels, 2), np.float32),
            "_closed_before": np.full(capacity, windows.EMPTY, np.int64),
            "_closed": zeros_on_demand((capacity, channels, windows.STATS), np.float64),
            "_dirty": zeros_on_demand((capacity, slots), np.bool_),
            "_machine_dirty": np.zeros(capacity, np.bool_),
        }
        for name, array in fresh.items():
            if old:
                array[:old] = getattr(self, name)
            setattr(self, name, array)
        self.table.grow(capacity)
        self._capacity = capacity
