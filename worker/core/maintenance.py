"""Planned maintenance: when nothing a machine does counts, and when its level is learned anew.

Owns which events are under maintenance. Windows come from configuration
(:mod:`worker.core.planned`), or are announced in the machine's own stream of events, so
that their place among the events is fixed: what was announced holds for the events behind
the announcement, by their event time.

After a window with ``relearn``, the first event that is under no maintenance is where the level is
learned anew. Events of before the window that come late change nothing in that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from worker.core.messages import MaintenanceNotice
from worker.core.planned import PlannedWindow, planned
from worker.core.table import Field, Fields, MachineTable

ANNOUNCED = 4
"""How many announced windows a machine may have that are not over."""
NEVER = -1

FIELDS: Fields = {
    "maintenance_from_us": Field("<i8", (ANNOUNCED,)),
    "maintenance_until_us": Field("<i8", (ANNOUNCED,)),
    "maintenance_relearn": Field("<u1", (ANNOUNCED,)),
    "maintenance_worked_us": Field("<i8", (), NEVER),
}
"""Announced windows (until 0: none), whether the level is still to be learned after each,
and the newest event under no maintenance: 76 bytes."""


class Announcement(NamedTuple):
    """A window that was announced for one machine.

    Attributes:
        position: of the event in the call that carries it, and for which it holds already.
        machine: row of the table.
        from_us, until_us: event time, [from, until); equal: the window that begins then is
            called off.
    """

    position: int
    machine: int
    from_us: int
    until_us: int
    relearn: bool


class Maintained(NamedTuple):
    """What planned maintenance means for n events.

    Attributes:
        maintained: (n,) which are under maintenance.
        relearn: (n,) from which on their machine's level is learned anew.
        refused: positions of the events whose announcement found no room; nothing else is said
            of them.
    """

    maintained: NDArray[np.bool_]
    relearn: NDArray[np.bool_]
    refused: list[int]


def follow(
    table: MachineTable,
    windows: Sequence[PlannedWindow],
    machines: NDArray[np.int64],
    machine_ids: Sequence[bytes],
    times_us: NDArray[np.int64],
    announcements: Sequence[Announcement] = (),
) -> Maintained:
    """Hold events against planned maintenance, in arrival order.

    Args:
        table: has :data:`FIELDS`; changed in place.
        windows: from configuration; one with ``relearn`` that is new there after it
            is over has no effect.
        machines: (n,) row of each event's machine.
        machine_ids: n ids.
        times_us: (n,) event times.
        announcements: by position.
    """
    n = len(machines)
    worked_us = table["maintenance_worked_us"]
    if windows:
        inside, ended_us = planned(windows, machines, machine_ids, times_us, worked_us[machines])
    else:
        inside, ended_us = np.zeros(n, np.bool_), np.zeros(n, np.int64)
    maintained, relearn = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    fields = [table[name] for name in FIELDS]
    refused = []
    start = 0
    for announced in announcements:
        end = announced.position
        _follow(start, end, machines, times_us, inside, ended_us, maintained, relearn, *fields)
        start = end
        if not announce(table, *announced[1:]):
            refused.append(end)
            start = end + 1
    _follow(start, n, machines, times_us, inside, ended_us, maintained, relearn, *fields)
    return Maintained(maintained, relearn, refused)


def announcement(position: int, machine: int, notice: MaintenanceNotice) -> Announcement:
    """A notice as it stands among the events of a call; see :class:`Announcement`."""
    return Announcement(position, machine, *notice.span_us, notice.relearn)


def announce(table: MachineTable, machine: int, from_us: int, until_us: int, relearn: bool) -> bool:
    """Take note of a window, in place of any announced one with the same beginning.

    Args:
        machine: row of the table.
        from_us, until_us: event time; equal: the window is called off.
        relearn: whether the machine's level is to be learned anew afterwards; also where
            the window is over already.

    Returns:
        False where the machine has ``ANNOUNCED`` other windows that are not over.
    """
    begins = table["maintenance_from_us"][machine]
    ends = table["maintenance_until_us"][machine]
    pending = table["maintenance_relearn"][machine]
    slots = np.flatnonzero((begins == from_us) & (ends > 0))
    if until_us <= from_us:
        ends[slots], pending[slots] = 0, 0
        return True
    if not len(slots):
        over = (ends <= table["maintenance_worked_us"][machine]) & (pending == 0)
        slots = np.flatnonzero(over | (ends == 0))
        if not len(slots):
            return False
    slot = min(slots.tolist(), key=lambda s: int(ends[s]))
    begins[slot], ends[slot], pending[slot] = from_us, until_us, relearn
    return True


_SIGNATURE = (
    "void(i8, i8, i8[::1], i8[::1], b1[::1], i8[::1], b1[::1], b1[::1],"
    "i8[:, ::1], i8[:, ::1], u1[:, ::1], i8[::1])"
)


@njit(_SIGNATURE, cache=True, nogil=True)
def _follow(  # type: ignore[no-untyped-def]
    start,
    end,
    machines,
    times_us,
    inside,
    ended_us,
    maintained,
    relearn,
    from_us,
    until_us,
    pending,
    worked_us,
):
    """Judge the events from ``start`` to ``end`` (exclusive).

    Args:
        machines, times_us: (n,) of the events.
        inside, ended_us: (n,) see :func:`worker.core.planned.planned`.
        maintained, relearn: (n,) out.
        from_us, until_us, pending, worked_us: see :data:`FIELDS`, in and out.
    """
    for i in range(start, end):
        m, t = machines[i], times_us[i]
        under = inside[i]
        # A machine that is new was not there before the window.
        due = worked_us[m] != NEVER and ended_us[i] > worked_us[m]
        for slot in range(from_us.shape[1]):
            if from_us[m, slot] <= t < until_us[m, slot]:
                under = True
            elif pending[m, slot] and until_us[m, slot] <= t:
                due = True
        maintained[i] = under
        if under:
            continue
        relearn[i] = due
        if due:
            for slot in range(from_us.shape[1]):
                if until_us[m, slot] <= t:
                    pending[m, slot] = 0
        worked_us[m] = max(worked_us[m], t)
