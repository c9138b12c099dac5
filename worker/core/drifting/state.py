"""The drift agent's state of one partition: a monitor for each group, and their rows.

A row's key is the monitor's own key, a line break, and the group. What cannot be read back, or is
of another reference, makes its group begin anew: what its open windows held is lost, and an event
that was open is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from worker.core.drift import DriftEvent, DriftMonitor, Reference, Settings, last_words
from worker.core.errors import StateError

Row = tuple[bytes, bytes | None]


@dataclass(frozen=True)
class Monitors:
    """Makes the monitor of each group.

    Attributes:
        model_version: ``name/version`` of the bundle, for messages.
    """

    reference: Reference
    settings: Settings
    model_version: str

    def new(self, group: str) -> DriftMonitor:
        """One that knows nothing yet."""
        return DriftMonitor(self.reference, group, self.settings, self.model_version)

    def restore(self, group: str, rows: dict[str, bytes]) -> DriftMonitor:
        """One that goes on; raises StateError."""
        if group not in self.reference.groups:
            raise StateError(
                f"the reference of {self.model_version} has no group {group!r} any more"
            )
        return DriftMonitor.restore(self.reference, group, self.settings, self.model_version, rows)

    def replace(self, group: str, rows: dict[str, bytes]) -> tuple[DriftEvent, ...]:
        """What is to be told of a monitor that cannot go on."""
        return last_words(group, rows, self.reference, self.model_version)


class DriftState:
    """The monitors of the groups whose partials are in one partition.

    Attributes:
        next_offset: the first offset of the partition that was not applied.
        groups: the monitors by group.
        owed: events that are to be told with the next record.
    """

    def __init__(self, next_offset: int = 0) -> None:
        self.next_offset = next_offset
        self.groups: dict[str, DriftMonitor] = {}
        self.owed: tuple[DriftEvent, ...] = ()
        self._rows: dict[bytes, bytes] = {}
        self._touched: set[str] = set()
        self._gone: set[bytes] = set()

    def __len__(self) -> int:
        return len(self.groups)

    def touch(self, group: str) -> None:
        """Save the group's monitor at the next commit."""
        self._touched.add(group)

    def load(self, rows: dict[bytes, bytes], groups: dict[str, DriftMonitor]) -> None:
        """Begin with the rows of monitors, and delete the others at the next commit."""
        self.groups = groups
        kept = {key: row for key, row in rows.items() if _group_of(key) in groups}
        self._rows, self._gone = kept, rows.keys() - kept.keys()

    def take_changes(self) -> list[Row]:
        """Rows that changed since the last call; None deletes one."""
        changes: dict[bytes, bytes | None] = dict.fromkeys(sorted(self._gone))
        for group in sorted(self._touched):
            for name, row in self.groups[group].changes().items():
                changes[f"{name}\n{group}".encode()] = row
        self._touched.clear()
        self._gone.clear()
        for key, row in changes.items():
            if row is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = row
        return list(changes.items())

    def snapshot(self) -> list[tuple[bytes, bytes]]:
        """All rows, as of the last call of :meth:`take_changes`."""
        return sorted(self._rows.items())


class DriftStateReader:
    """Collects the rows of one partition's changelog and makes them state.

    Args:
        on_lost: told in a sentence why a group begins anew.
    """

    def __init__(self, monitors: Monitors, on_lost: Callable[[str], None]) -> None:
        self._monitors = monitors
        self._on_lost = on_lost
        self._rows: dict[bytes, bytes] = {}

    def read(self, rows: Sequence[Row], offsets: Sequence[int]) -> None:
        """Take further rows, in the order of the log."""
        for key, row in rows:
            if row is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = row

    def finish(self, next_offset: int) -> DriftState:
        """The state that begins at an offset of the input."""
        by_group: dict[str, dict[str, bytes]] = {}
        for key, row in self._rows.items():
            group = _group_of(key)
            name = key.partition(b"\n")[0].decode("utf-8", "replace")
            by_group.setdefault(group, {})[name] = row
        groups = {}
        owed: list[DriftEvent] = []
        for group, rows in by_group.items():
            try:
                groups[group] = self._monitors.restore(group, rows)
            except StateError as error:
                self._on_lost(str(error))
                owed += self._monitors.replace(group, rows)
        state = DriftState(next_offset)
        state.owed = tuple(owed)
        state.load(self._rows, groups)
        return state


def _group_of(key: bytes) -> str:
    return key.partition(b"\n")[2].decode("utf-8", "replace")
