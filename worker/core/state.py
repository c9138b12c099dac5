"""State of one partition: every machine's panes, as arrays.

Owns which machine sits where, growth, and which panes changed since they were saved. How
state is read back from a changelog is :mod:`worker.core.changelog`'s business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.core import windows
from worker.core.arrays import zeros_on_demand
from worker.core.channels import ChannelSpec
from worker.core.rows import LAYOUT_KEY, Layout, Row

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


class PartitionState:
    """The rolling state of all machines of one partition.

    Not thread-safe. Two states that hold the same rows are interchangeable bit for bit.

    Attributes:
        next_offset: the first input offset whose event is not in the state yet.
    """

    # M rows each; see windows.aggregate. A row whose newest_us is EMPTY is nobody's, or
    # that of a machine that was forgotten and has rows to delete.
    _newest_us: NDArray[np.int64]
    _heard_us: NDArray[np.int64]
    _panes: NDArray[np.uint32]
    _counts: NDArray[np.uint32]
    _moments: NDArray[np.float64]
    _extremes: NDArray[np.float32]
    _closed_before: NDArray[np.int64]
    _closed: NDArray[np.float64]
    _dirty: NDArray[np.bool_]

    def __init__(
        self, spec: ChannelSpec, next_offset: int = 0, limits: StateLimits = UNLIMITED
    ) -> None:
        self.spec = spec
        self.limits = limits
        self.next_offset = next_offset
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

    def indices(self, machine_ids: Sequence[bytes]) -> NDArray[np.int64]:
        """Array positions (n,) of machines, making room for those never seen."""
        try:
            found = list(map(self._index.__getitem__, machine_ids))
        except KeyError:
            found = [self._index_of(machine_id) for machine_id in machine_ids]
        return np.array(found, np.int64)

    def aggregate(
        self,
        machines: NDArray[np.int64],
        times_us: NDArray[np.int64],
        values: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Add events to the panes; see :func:`worker.core.windows.aggregate`.

        Returns:
            Window aggregates (n, C, 5), and (n,) the watermark a late event missed, REFUSED
            for an event of a machine beyond the limit, or EMPTY.
        """
        aggregates = np.zeros((*values.shape, windows.STATS))
        watermarks_us = np.empty(len(machines), np.int64)
        windows.aggregate(
            machines,
            times_us,
            np.ascontiguousarray(values),
            self.spec.pane_us,
            self.spec.panes,
            self.spec.grace_us,
            self.limits.retention_us,
            self.limits.max_machines,
            self._totals,
            self._newest_us,
            self._heard_us,
            self._panes,
            self._counts,
            self._moments,
            self._extremes,
            self._closed_before,
            self._closed,
            self._dirty,
            aggregates,
            watermarks_us,
        )
        refused = watermarks_us == windows.REFUSED
        if refused.any():
            self._release(np.unique(machines[refused]))
        return aggregates, watermarks_us

    def take_changes(self) -> list[Row]:
        """Rows changed since the last call, in a fixed order; they then count as saved.

        The first call of a process also says what the rows mean (``LAYOUT_KEY``), even if
        none changed.
        """
        dirty = self._dirty[: len(self._keys)]
        machines, slots = np.nonzero(dirty)
        gone = self._panes[machines, slots] == windows.NO_PANE
        keys = self._layout.keys(self._keys, machines[gone], slots[gone])
        changes = [*self._unsaved, *((key, None) for key in keys)]
        changes += self._rows(machines[~gone], slots[~gone])
        self._unsaved.clear()
        dirty[:] = False
        self._release(np.unique(machines[gone]))
        return changes

    def snapshot(self) -> list[tuple[bytes, bytes]]:
        """All rows, sorted by key: equal states give equal snapshots."""
        return sorted(self._rows(*np.nonzero(self._panes[: len(self._keys)] != windows.NO_PANE)))

    def load(self, machine_ids: Sequence[bytes], rows: NDArray[np.void]) -> None:
        """Fill a fresh state with what was saved, so that none of it counts as changed.

        Args:
            machine_ids: n machines, each once.
            rows: (n, S) of :attr:`worker.core.rows.Layout.dtype`, each in its slot; all
                zero where there is none. Each machine has at least one.
        """
        machines = self.indices(machine_ids)
        used = rows["version"] != 0
        self._panes[machines] = np.where(used, rows["pane"] + 1, windows.NO_PANE)
        self._counts[machines] = rows["counts"]
        self._moments[machines] = rows["moments"]
        self._extremes[machines] = rows["extremes"]
        # Every row was written with what was the newest then: the latest row has the truth.
        self._newest_us[machines] = rows["newest_us"].max(axis=1)
        self._heard_us[machines] = heard_us = rows["heard_us"].max(axis=1)
        self._totals[windows.MACHINES] = len(machines)
        self._totals[windows.CLOCK] = heard_us.max(initial=windows.EMPTY)
        self._totals[windows.OLDEST] = heard_us.min(initial=windows.NEVER)

    def save_again(self, superseded: Sequence[bytes]) -> None:
        """Count everything as changed, and rows under the ``superseded`` keys as given up."""
        self._dirty[:] = self._panes != windows.NO_PANE
        self._unsaved = [(key, None) for key in superseded]
        self._unsaved.append((LAYOUT_KEY, self._layout.encode()))

    def _rows(
        self, machines: NDArray[np.int64], slots: NDArray[np.int64]
    ) -> list[tuple[bytes, bytes]]:
        records = self._layout.empty_rows(len(machines))
        records["pane"] = self._panes[machines, slots].astype(np.int64) - 1
        records["newest_us"] = self._newest_us[machines]
        records["heard_us"] = self._heard_us[machines]
        records["counts"] = self._counts[machines, slots]
        records["moments"] = self._moments[machines, slots]
        records["extremes"] = self._extremes[machines, slots]
        keys = self._layout.keys(self._keys, machines, slots)
        return list(zip(keys, self._layout.values(records), strict=True))

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
        idle = (self._newest_us[machines] == windows.EMPTY) & ~self._dirty[machines].any(axis=1)
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
        }
        for name, array in fresh.items():
            if old:
                array[:old] = getattr(self, name)
            setattr(self, name, array)
        self._capacity = capacity
