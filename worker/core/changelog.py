"""State read back from the rows of a changelog.

Rows come in the order of the log; a later row of a key replaces an earlier one, whatever
the earlier one was. So nothing is judged before the end: a damaged row that was repaired
later, and rows of a layout that was given up, do no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.core.arrays import zeros_on_demand
from worker.core.channels import ChannelSpec, format_duration
from worker.core.errors import StateError
from worker.core.rows import LAYOUT_KEY, Layout, Row, checks
from worker.core.state import UNLIMITED, PartitionState, StateLimits

REBUILD = (
    "stop the workers, compute the state from the input topic with `driftdetector worker "
    "--rebuild-state`, and start them again"
)
_INITIAL_MACHINES = 64


class _Unread(NamedTuple):
    """A row that is not of this layout, or damaged."""

    offset: int
    value: bytes


class StateReader:
    """Collects the rows of one partition's changelog and makes them state.

    Args:
        spec: whose state it is to be.
        limits: of the state.
        source: where the rows come from, for messages.
    """

    def __init__(
        self, spec: ChannelSpec, limits: StateLimits = UNLIMITED, source: str = "changelog"
    ) -> None:
        self._spec = spec
        self._limits = limits
        self._source = source
        self._layout = Layout.of(spec)
        self._written_for: Layout | None = None
        self._slot_names = [b"%d" % slot for slot in range(spec.slots)]
        self._index: dict[bytes, int] = {}
        # One machine a row, one slot a column; all zero where there is nothing.
        self._records = zeros_on_demand((_INITIAL_MACHINES, spec.slots), self._layout.dtype)
        self._unread: dict[bytes, _Unread] = {}

    def read(self, rows: Sequence[Row], offsets: Sequence[int]) -> None:
        """Take further rows, in the order of the log, and their offsets."""
        prefix, size = self._layout.prefix, self._layout.dtype.itemsize
        own = [
            value is not None and len(value) == size and value[:8] == prefix for _, value in rows
        ]
        start = 0
        for is_own, run in groupby(own):
            end = start + sum(1 for _ in run)
            read = self._read_own if is_own else self._read_others
            read(rows[start:end], offsets[start:end])
            start = end

    def finish(self, next_offset: int) -> PartitionState:
        """Make the state.

        Args:
            next_offset: the first input offset that is not in the rows.

        Raises:
            StateError: naming the key and the offset of a row that is damaged, or what
                keeps the state from being carried over exactly.
        """
        superseded = self._convert_unread() if self._unread else None
        ids = list(self._index)
        records = self._records[: len(ids)]
        used = (records["version"] != 0).any(axis=1)
        if not used.all():
            records = records[used]
            ids = [ids[machine] for machine in np.flatnonzero(used).tolist()]
        state = PartitionState(self._spec, next_offset, self._limits)
        state.load(ids, records)
        if superseded is not None:
            state.save_again(superseded)
        return state

    def _read_own(self, rows: Sequence[Row], offsets: Sequence[int]) -> None:
        data = b"".join([value for _, value in rows if value is not None])
        records = np.frombuffer(data, self._layout.dtype)
        slots = records["pane"] % len(self._slot_names)
        sound = checks(records) == records["check"]
        machines = np.empty(len(rows), np.int64)
        names = self._slot_names
        for i, ((key, _), slot) in enumerate(zip(rows, slots.tolist(), strict=True)):
            machine_id, _, written = key.rpartition(b"|")
            if machine_id and written == names[slot]:
                machines[i] = self._position(machine_id)
            else:
                sound[i] = False
        # From one damaged row to the next: a row of its key may come before it, or after.
        start = 0
        for damaged in [*np.flatnonzero(~sound).tolist(), len(rows)]:
            self._records[machines[start:damaged], slots[start:damaged]] = records[start:damaged]
            if self._unread:
                for key, _ in rows[start:damaged]:
                    self._unread.pop(key, None)
            if damaged < len(rows):
                self._set_aside(*rows[damaged], offsets[damaged])
            start = damaged + 1

    def _read_others(self, rows: Sequence[Row], offsets: Sequence[int]) -> None:
        for (key, value), offset in zip(rows, offsets, strict=True):
            if key == LAYOUT_KEY:
                self._written_for = None if value is None else Layout.decode(value)
            else:
                self._set_aside(key, value, offset)

    def _set_aside(self, key: bytes, value: bytes | None, offset: int) -> None:
        """Let a row that is not of this layout replace what its key had before."""
        machine_id, _, name = key.rpartition(b"|")
        machine = self._index.get(machine_id)
        if machine is not None and name in self._slot_names:
            self._records[machine, int(name)] = 0
        if value is None:
            self._unread.pop(key, None)
        else:
            self._unread[key] = _Unread(offset, value)

    def _position(self, machine_id: bytes) -> int:
        machine = self._index.setdefault(machine_id, len(self._index))
        if machine >= len(self._records):
            grown = zeros_on_demand(
                (machine + machine // 2, self._records.shape[1]), self._layout.dtype
            )
            grown[:machine] = self._records
            self._records = grown
        return machine

    def _convert_unread(self) -> list[bytes]:
        """Carry rows of another layout over to this one; returns the keys that fall away."""
        other = self._written_for
        if other is None or other == self._layout:
            key, row = min(self._unread.items(), key=lambda item: item[1].offset)
            raise self._damaged(key, row)
        why_not = _why_not(other, self._layout)
        if why_not is not None:
            raise StateError(
                f"{self._source}: the state was written for other channels or another window "
                f"({why_not}), so it cannot be carried over exactly; go back to the bundle that "
                f"it was written with, or {REBUILD}."
            )
        records, machines = self._parse(other)
        order = [other.channels.index(channel) for channel in self._layout.channels]
        newest = np.zeros(len(self._index), np.int64)
        np.maximum.at(newest, machines, records["newest_us"] // other.pane_us)
        kept = records["pane"] > newest[machines] - self._layout.slots
        records, machines = records[kept], machines[kept]
        converted = self._layout.empty_rows(len(records))
        for name in ("pane", "newest_us", "heard_us"):
            converted[name] = records[name]
        for name in ("counts", "moments", "extremes"):
            converted[name] = records[name][:, order]
        slots = records["pane"] % self._layout.slots
        self._records[machines, slots] = converted
        written = set(self._layout.keys(list(self._index), machines, slots))
        return [key for key in self._unread if key not in written]

    def _parse(self, layout: Layout) -> tuple[NDArray[np.void], NDArray[np.int64]]:
        """The rows set aside, as records (n,) of their layout, and their machines (n,)."""
        rows = sorted(self._unread.items(), key=lambda item: item[1].offset)
        for key, row in rows:
            if len(row.value) != layout.dtype.itemsize or row.value[:8] != layout.prefix:
                raise self._damaged(key, row)
        records = np.frombuffer(b"".join([row.value for _, row in rows]), layout.dtype)
        slots = (records["pane"] % layout.slots).tolist()
        sound = (checks(records) == records["check"]).tolist()
        machines = []
        for (key, row), slot, is_sound in zip(rows, slots, sound, strict=True):
            machine_id, _, name = key.rpartition(b"|")
            if not (is_sound and machine_id and name == b"%d" % slot):
                raise self._damaged(key, row)
            machines.append(self._position(machine_id))
        return records, np.array(machines, np.int64)

    def _damaged(self, key: bytes, row: _Unread) -> StateError:
        return StateError(
            f"{self._source}: the row at offset {row.offset} under key {key!r} "
            f"({len(row.value)} bytes) is damaged, or was not written by this version; {REBUILD}."
        )


def _why_not(old: Layout, new: Layout) -> str | None:
    """What keeps rows of one layout from giving exactly the state of another; None: nothing."""
    missing = [name for name, unit in new.channels if (name, unit) not in old.channels]
    if old.version != new.version:
        return f"row version {old.version}, not {new.version}"
    if missing:
        return f"channel {', '.join(missing)} was not there in that unit"
    if old.pane_us != new.pane_us:
        return f"panes of {format_duration(old.pane_us)}, not {format_duration(new.pane_us)}"
    if old.slots < new.slots:
        return f"{old.slots} panes a machine, {new.slots} are needed"
    return None
