"""State of one partition: every machine's panes, as arrays, and as changelog rows.

Owns which machine sits where, growth, and the exact binary form of a row. One row
is one pane of one machine: key ``machine_id|slot``, value a fixed-size record (see
:func:`row_dtype`). The latest row of every key is the whole state: a machine's newest
event time travels in each row, and the event that set it also changed its row.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from worker.core import windows
from worker.core.channels import ChannelSpec
from worker.core.errors import StateError

ROW_VERSION = 1
_INITIAL_MACHINES = 64


def row_dtype(channels: int) -> np.dtype[np.void]:
    """Layout of a row's value: little-endian, packed, 24 + 40 bytes a channel."""
    return np.dtype(
        [
            ("version", "<u4"),
            ("fingerprint", "<u4"),
            ("pane", "<i8"),
            ("newest_us", "<i8"),
            ("stats", "<f8", (channels, windows.STATS)),
        ]
    )


def fingerprint(spec: ChannelSpec) -> int:
    """Identify what the rows mean: channels in order with their units, pane length, slots."""
    meaning = [[(c.name, c.unit) for c in spec.continuous], spec.pane_us, spec.slots]
    return zlib.crc32(msgspec.json.encode(meaning))


class PartitionState:
    """The rolling state of all machines of one partition.

    Not thread-safe. Two states that hold the same rows are interchangeable bit for bit.

    Attributes:
        next_offset: the first input offset whose event is not in the state yet.
    """

    # M rows each, of which the first len(self) are in use; see windows.aggregate.
    _newest_us: NDArray[np.int64]
    _panes: NDArray[np.int64]
    _stats: NDArray[np.float64]
    _closed_before: NDArray[np.int64]
    _closed: NDArray[np.float64]
    _dirty: NDArray[np.bool_]

    def __init__(self, spec: ChannelSpec, next_offset: int = 0) -> None:
        self.spec = spec
        self.next_offset = next_offset
        self._dtype = row_dtype(len(spec.continuous))
        self._fingerprint = fingerprint(spec)
        self._slots = spec.slots
        self._slot_names = [b"%d" % slot for slot in range(self._slots)]
        self._keys: list[bytes] = []
        self._index: dict[bytes, int] = {}
        self._capacity = 0
        self._grow(_INITIAL_MACHINES)

    def __len__(self) -> int:
        """Number of machines."""
        return len(self._keys)

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
            Window aggregates (n, C, 5), and (n,) the watermark a late event missed or -1.
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
            self._newest_us,
            self._panes,
            self._stats,
            self._closed_before,
            self._closed,
            self._dirty,
            aggregates,
            watermarks_us,
        )
        return aggregates, watermarks_us

    def take_changes(self) -> list[tuple[bytes, bytes]]:
        """Rows changed since the last call, in a fixed order; they then count as saved."""
        rows = self._rows(self._dirty)
        self._dirty[:] = False
        return rows

    def snapshot(self) -> list[tuple[bytes, bytes]]:
        """All rows, sorted by key: equal states give equal snapshots."""
        return sorted(self._rows(self._panes != windows.EMPTY))

    def restore(self, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Apply changelog rows in order; a later row of a key replaces an earlier one.

        Raises:
            StateError: naming the key of the first row that this version did not write
                for these channels and this window.
        """
        if not rows:
            return
        records = self._parse_values(rows)
        machine_ids, slots = self._parse_keys(rows, records)
        machines = self.indices(machine_ids)
        self._panes[machines, slots] = records["pane"]
        self._stats[machines, slots] = records["stats"]
        np.maximum.at(self._newest_us, machines, records["newest_us"])
        self._closed_before[machines] = windows.EMPTY

    def _parse_values(self, rows: Sequence[tuple[bytes, bytes]]) -> NDArray[np.void]:
        size = self._dtype.itemsize
        for key, value in rows:
            if not value or len(value) != size:
                raise StateError(
                    f"state row {key!r} has {len(value or b'')} bytes instead of {size}: it is "
                    "damaged, or was written for another set of channels; give the worker another "
                    "worker.app_id to start with empty state, or the bundle it was written with."
                )
        records = np.frombuffer(b"".join([value for _, value in rows]), self._dtype)
        wrong = (records["version"] != ROW_VERSION) | (records["fingerprint"] != self._fingerprint)
        if wrong.any():
            raise StateError(
                f"state row {rows[int(np.argmax(wrong))][0]!r} was written by another version or "
                "for another window or set of channels; give the worker another worker.app_id to "
                "start with empty state, or the bundle that the state was written with."
            )
        return records

    def _parse_keys(
        self, rows: Sequence[tuple[bytes, bytes]], records: NDArray[np.void]
    ) -> tuple[list[bytes], NDArray[np.int64]]:
        slots = records["pane"] % self._slots
        machine_ids = []
        for (key, _), slot in zip(rows, slots.tolist(), strict=True):
            machine_id, _, written = key.rpartition(b"|")
            if not machine_id or written != self._slot_names[slot]:
                raise StateError(
                    f"state row {key!r} does not belong under that key, which should end in "
                    f"|{slot}: the changelog is damaged; give the worker another worker.app_id "
                    "to start with empty state."
                )
            machine_ids.append(machine_id)
        return machine_ids, slots

    def _rows(self, which: NDArray[np.bool_]) -> list[tuple[bytes, bytes]]:
        machines, slots = np.nonzero(which)
        records = np.empty(len(machines), self._dtype)
        records["version"] = ROW_VERSION
        records["fingerprint"] = self._fingerprint
        records["pane"] = self._panes[machines, slots]
        records["newest_us"] = self._newest_us[machines]
        records["stats"] = self._stats[machines, slots]
        data, size = records.tobytes(), self._dtype.itemsize
        return [
            (b"%b|%d" % (self._keys[machine], slot), data[i * size : (i + 1) * size])
            for i, (machine, slot) in enumerate(zip(machines.tolist(), slots.tolist(), strict=True))
        ]

    def _index_of(self, machine_id: bytes) -> int:
        index = self._index.get(machine_id)
        if index is None:
            index = self._index[machine_id] = len(self._keys)
            self._keys.append(machine_id)
            if index >= self._capacity:
                self._grow(2 * self._capacity)
        return index

    def _grow(self, capacity: int) -> None:
        channels, slots = len(self.spec.continuous), self.spec.slots
        old = self._capacity
        fresh = {
            "_newest_us": np.full(capacity, windows.EMPTY, np.int64),
            "_panes": np.full((capacity, slots), windows.EMPTY, np.int64),
            "_stats": np.zeros((capacity, slots, channels, windows.STATS)),
            "_closed_before": np.full(capacity, windows.EMPTY, np.int64),
            "_closed": np.zeros((capacity, channels, windows.STATS)),
            "_dirty": np.zeros((capacity, slots), np.bool_),
        }
        for name, array in fresh.items():
            if old:
                array[:old] = getattr(self, name)
            setattr(self, name, array)
        self._capacity = capacity
