"""What is kept per machine beside its panes: one array for each declared field.

Modules that follow machines over time (detection, health, episodes, maintenance) declare
their :data:`Fields`; this table holds them all as arrays (M, ...) that kernels change in
place, and packs a machine's row into one binary record for the changelog. A field
that is not declared here does not survive a restart, so nothing else may be kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.core.arrays import zeros_on_demand

Axis = int | Literal["channel", "signal"]


class Field(NamedTuple):
    """One value, or array of values, of each machine.

    Attributes:
        dtype: NumPy's name, little-endian, such as ``"<f4"``.
        axes: lengths of the array; ``"channel"`` and ``"signal"`` are as long as the
            specification has continuous channels and signals. Empty: a single value.
        initial: what a machine begins with.
    """

    dtype: str
    axes: tuple[Axis, ...] = ()
    initial: float = 0.0


Fields = Mapping[str, Field]


class MachineTable:
    """Arrays of M rows, by field name: ``table["level"]`` is (M, ...).

    Growing replaces the arrays, so callers take them from the table for each call.

    Args:
        lengths: of the named axes.
    """

    def __init__(self, fields: Fields, lengths: Mapping[str, int], capacity: int = 0) -> None:
        self.fields = dict(fields)
        self._shapes = {
            name: tuple(axis if isinstance(axis, int) else lengths[axis] for axis in field.axes)
            for name, field in self.fields.items()
        }
        self.dtype = np.dtype(
            [(name, field.dtype, self._shapes[name]) for name, field in self.fields.items()]
        )
        self._arrays: dict[str, NDArray[Any]] = {}
        self._capacity = 0
        self.grow(capacity)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def __len__(self) -> int:
        """Number of rows there is room for."""
        return self._capacity

    def grow(self, capacity: int) -> None:
        """Make room for more rows; a new one holds nothing before it is :meth:`reset`."""
        for name, field in self.fields.items():
            array = zeros_on_demand((capacity, *self._shapes[name]), field.dtype)
            if self._capacity:
                array[: self._capacity] = self._arrays[name]
            self._arrays[name] = array
        self._capacity = capacity

    def reset(self, rows: NDArray[np.int64]) -> None:
        """Let rows begin anew, with every field at its initial value."""
        for name, field in self.fields.items():
            self._arrays[name][rows] = field.initial

    def records(self, rows: NDArray[np.int64]) -> NDArray[np.void]:
        """The rows (n,) as packed records of :attr:`dtype`."""
        records = np.zeros(len(rows), self.dtype)
        for name, array in self._arrays.items():
            records[name] = array[rows]
        return records

    def load(self, rows: NDArray[np.int64], records: NDArray[np.void]) -> None:
        """Set rows to what :meth:`records` gave."""
        for name, array in self._arrays.items():
            array[rows] = records[name]
