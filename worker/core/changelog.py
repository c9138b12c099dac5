"""State read back from the rows of a changelog.

Rows come in the order of the log; a later row of a key replaces an earlier one, whatever
the earlier one was. So nothing is judged before the end: a damaged row that was repaired
later, and rows of a layout that was given up, do no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.core.arrays import zeros_on_demand
from worker.core.channels import ChannelSpec, format_duration
from worker.core.errors import StateError
from worker.core.followed import machine_table
from worker.core.rows import LAYOUT_KEY, MACHINE, Layout, Row, checks, machine_keys, pane_keys
from worker.core.state import UNLIMITED, PartitionState, StateLimits
from worker.core.table import Axis, MachineTable

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
        self._layout = layout = Layout.of(spec)
        self._written_for: Layout | None = None
        self._pane_prefix, self._pane_bytes = layout.pane_prefix, layout.pane_dtype.itemsize
        self._machine_prefix = layout.machine_prefix
        self._machine_bytes = layout.machine_dtype.itemsize
        self._slot_names = [b"%d" % slot for slot in range(spec.slots)]
        self._index: dict[bytes, int] = {}
        # One machine a row, one slot a column; all zero where there is nothing.
        self._panes = zeros_on_demand((_INITIAL_MACHINES, spec.slots), self._layout.pane_dtype)
        self._machines = zeros_on_demand((_INITIAL_MACHINES,), self._layout.machine_dtype)
        self._unread: dict[bytes, _Unread] = {}

    def read(self, rows: Sequence[Row], offsets: Sequence[int]) -> None:
        """Take further rows, in the order of the log, and their offsets."""
        start = 0
        for kind, run in groupby(map(self._kind, rows)):
            end = start + sum(1 for _ in run)
            kind(rows[start:end], offsets[start:end])
            start = end

    def _kind(self, row: Row) -> Callable[[Sequence[Row], Sequence[int]], None]:
        """How a row is read."""
        value = row[1]
        if value is not None:
            if value[:8] == self._pane_prefix and len(value) == self._pane_bytes:
                return self._read_panes
            if value[:8] == self._machine_prefix and len(value) == self._machine_bytes:
                return self._read_machines
        return self._read_others

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
        panes, machines = self._panes[: len(ids)], self._machines[: len(ids)]
        used = (panes["version"] != 0).any(axis=1)
        if not used.all():
            panes, machines = panes[used], machines[used]
            ids = [ids[machine] for machine in np.flatnonzero(used).tolist()]
        state = PartitionState(self._spec, next_offset, self._limits)
        state.load(ids, panes, machines)
        if superseded is not None:
            state.save_again(superseded)
        return state

    def _read_panes(self, rows: Sequence[Row], offsets: Sequence[int]) -> None:
        records, sound = self._records(rows, self._layout.pane_dtype)
        slots = records["pane"] % len(self._slot_names)
        machines = self._places(rows, sound, [self._slot_names[s] for s in slots.tolist()])
        for part in self._sound(rows, offsets, sound):
            self._panes[machines[part], slots[part]] = records[part]

    def _read_machines(self, rows: Sequence[Row], offsets: Sequence[int]) -> None:
        records, sound = self._records(rows, self._layout.machine_dtype)
        machines = self._places(rows, sound, [MACHINE] * len(rows))
        for part in self._sound(rows, offsets, sound):
            self._machines[machines[part]] = records[part]

    @staticmethod
    def _records(
        rows: Sequence[Row], dtype: np.dtype[np.void]
    ) -> tuple[NDArray[np.void], NDArray[np.bool_]]:
        """The rows as records (n,), and which of them (n,) are as they were written."""
        records = np.frombuffer(b"".join([value for _, value in rows if value is not None]), dtype)
        return records, checks(records) == records["check"]

    def _places(
        self, rows: Sequence[Row], sound: NDArray[np.bool_], names: Sequence[bytes]
    ) -> NDArray[np.int64]:
        """Positions (n,) of the rows' machines; not ``sound`` where a key does not fit its row."""
        machines = np.zeros(len(rows), np.int64)
        for i, ((key, _), name) in enumerate(zip(rows, names, strict=True)):
            machine_id, _, written = key.rpartition(b"|")
            if machine_id and written == name:
                machines[i] = self._position(machine_id)
            else:
                sound[i] = False
        return machines

    def _sound(
        self, rows: Sequence[Row], offsets: Sequence[int], sound: NDArray[np.bool_]
    ) -> Iterator[slice]:
        """Stretches from one damaged row to the next, each of which is set aside in its turn.

        In order, because a row of its key may come before it, or after.
        """
        start = 0
        for damaged in [*np.flatnonzero(~sound).tolist(), len(rows)]:
            yield slice(start, damaged)
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
        if machine is not None and name == MACHINE:
            self._machines[machine] = 0
        elif machine is not None and name in self._slot_names:
            self._panes[machine, int(name)] = 0
        if value is None:
            self._unread.pop(key, None)
        else:
            self._unread[key] = _Unread(offset, value)

    def _position(self, machine_id: bytes) -> int:
        machine = self._index.setdefault(machine_id, len(self._index))
        if machine >= len(self._machines):
            self._panes = _grown(self._panes, machine + machine // 2)
            self._machines = _grown(self._machines, machine + machine // 2)
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
        for key, row in self._unread.items():
            if row.value[:8] not in (other.pane_prefix, other.machine_prefix):
                raise self._damaged(key, row)
        written = self._convert_panes(other) | self._convert_machines(other)
        return [key for key in self._unread if key not in written]

    def _convert_panes(self, other: Layout) -> set[bytes]:
        """Take over the panes that the ring of this layout has room for; returns their keys."""
        rows = self._unread_of(other.pane_prefix)
        names = [b"%d" % slot for slot in range(other.slots)]
        records = self._checked(rows, other.pane_dtype, lambda r: names[r["pane"] % other.slots])
        machines = self._machines_of(rows)
        order = [other.channels.index(channel) for channel in self._layout.channels]
        newest = np.zeros(len(self._index), np.int64)
        np.maximum.at(newest, machines, records["newest_us"] // other.pane_us)
        kept = records["pane"] > newest[machines] - self._layout.slots
        records, machines = records[kept], machines[kept]
        converted = self._layout.empty_panes(len(records))
        for name in ("pane", "newest_us", "heard_us"):
            converted[name] = records[name]
        for name in ("counts", "moments", "extremes"):
            converted[name] = records[name][:, order]
        slots = records["pane"] % self._layout.slots
        self._panes[machines, slots] = converted
        return set(pane_keys(list(self._index), machines, slots))

    def _convert_machines(self, other: Layout) -> set[bytes]:
        """Take over the fields that both layouts have; returns the keys of the rows."""
        rows = self._unread_of(other.machine_prefix)
        records = self._checked(rows, other.machine_dtype, lambda _: MACHINE)
        machines = self._machines_of(rows)
        table = machine_table(self._spec)
        table.grow(len(rows))
        table.reset(np.arange(len(rows)))
        for field in set(self._layout.fields) & set(other.fields):
            _carry_over(records["fields"], other, table, self._layout, *field)
        converted = self._layout.empty_machines(len(rows))
        converted["fields"] = table.records(np.arange(len(rows)))
        self._machines[machines] = converted
        return set(machine_keys(list(self._index), machines))

    def _unread_of(self, prefix: bytes) -> list[tuple[bytes, _Unread]]:
        rows = sorted(self._unread.items(), key=lambda item: item[1].offset)
        return [(key, row) for key, row in rows if row.value[:8] == prefix]

    def _checked(
        self,
        rows: Sequence[tuple[bytes, _Unread]],
        dtype: np.dtype[np.void],
        name_of: Callable[[np.void], bytes],
    ) -> NDArray[np.void]:
        """The rows as records (n,) of another layout.

        Raises:
            StateError: one of them is damaged.
        """
        for key, row in rows:
            if len(row.value) != dtype.itemsize:
                raise self._damaged(key, row)
        records = np.frombuffer(b"".join([row.value for _, row in rows]), dtype)
        sound = (checks(records) == records["check"]).tolist()
        for (key, row), record, is_sound in zip(rows, records, sound, strict=True):
            machine_id, _, name = key.rpartition(b"|")
            if not (is_sound and machine_id and name == name_of(record)):
                raise self._damaged(key, row)
        return records

    def _machines_of(self, rows: Sequence[tuple[bytes, _Unread]]) -> NDArray[np.int64]:
        ids = [key.rpartition(b"|")[0] for key, _ in rows]
        return np.array([self._position(machine_id) for machine_id in ids], np.int64)

    def _damaged(self, key: bytes, row: _Unread) -> StateError:
        return StateError(
            f"{self._source}: the row at offset {row.offset} under key {key!r} "
            f"({len(row.value)} bytes) is damaged, or was not written by this version; {REBUILD}."
        )


def _grown(records: NDArray[np.void], rows: int) -> NDArray[np.void]:
    grown = zeros_on_demand((rows, *records.shape[1:]), records.dtype)
    grown[: len(records)] = records
    return grown


def _carry_over(
    records: NDArray[np.void],
    old: Layout,
    table: MachineTable,
    new: Layout,
    name: str,
    _dtype: str,
    axes: tuple[Axis, ...],
) -> None:
    """Copy a field; what is new along an axis of channels or signals keeps its initial value."""
    members: dict[str, tuple[Sequence[Any], Sequence[Any]]] = {
        "channel": (old.channels, new.channels),
        "signal": (old.signals, new.signals),
    }
    source: list[Any] = [np.arange(len(records))]
    target = list(source)
    for axis in axes:
        before, after = (range(axis),) * 2 if isinstance(axis, int) else members[axis]
        both = [member for member in after if member in before]
        source.append([before.index(member) for member in both])
        target.append([after.index(member) for member in both])
    table[name][np.ix_(*target)] = records[name][np.ix_(*source)]


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
