"""Rows of the changelog: their exact binary form.

A machine has a row for each pane (key ``machine_id|slot``, see :attr:`Layout.pane_dtype`)
and one for all else that is kept of it (key ``machine_id|m``, see
:attr:`Layout.machine_dtype`); each event that is accepted changes one of either. The latest
row of every key is the whole state: a machine's newest event time travels in each row of its
panes, and the event that set it also changed its row. One more row, under ``LAYOUT_KEY``,
says for which channels and window the others were written, so that state can be carried over
to others where that is exact.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cached_property

import msgspec
import numpy as np
from numpy.typing import NDArray

from worker.core.channels import ChannelSpec
from worker.core.followed import machine_fields
from worker.core.table import Axis, Field, MachineTable

ROW_VERSION = 3
LAYOUT_KEY = b"|layout"
"""No machine's: machine ids have at least one character."""
MACHINE = b"m"
"""Where the key of a pane's row has its slot."""

Row = tuple[bytes, bytes | None]
"""Key and value; without a value it deletes the key's earlier row."""


class Layout(msgspec.Struct, frozen=True, dict=True):
    """What rows mean.

    Attributes:
        channels: their names with their units, in order.
        signals: their names in order.
        slots: of the ring of panes.
        fields: of a machine's own row: name, dtype and axes of each.
    """

    version: int
    channels: tuple[tuple[str, str], ...]
    pane_us: int
    slots: int
    signals: tuple[str, ...] = ()
    fields: tuple[tuple[str, str, tuple[Axis, ...]], ...] = ()

    @classmethod
    def of(cls, spec: ChannelSpec) -> Layout:
        """The layout for a channel specification."""
        fields = machine_fields()
        return cls(
            version=ROW_VERSION,
            channels=tuple((channel.name, channel.unit) for channel in spec.continuous),
            pane_us=spec.pane_us,
            slots=spec.slots,
            signals=tuple(spec.signals),
            fields=tuple((name, field.dtype, field.axes) for name, field in fields.items()),
        )

    def encode(self) -> bytes:
        """The value of the row under ``LAYOUT_KEY``."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, value: bytes) -> Layout | None:
        """Read what :meth:`encode` wrote; None: something else."""
        try:
            return msgspec.json.decode(value, type=cls)
        except (msgspec.DecodeError, UnicodeError):
            return None

    @cached_property
    def pane_dtype(self) -> np.dtype[np.void]:
        """The value of a pane's row: little-endian, packed, 36 + 28 bytes a channel."""
        channels = len(self.channels)
        return np.dtype(
            [
                *_HEAD,
                ("pane", "<i8"),
                ("newest_us", "<i8"),
                ("heard_us", "<i8"),
                ("counts", "<u4", (channels,)),
                ("moments", "<f8", (channels, 2)),
                ("extremes", "<f4", (channels, 2)),
            ]
        )

    @cached_property
    def machine_dtype(self) -> np.dtype[np.void]:
        """The value of a machine's own row: its fields, padded to whole words."""
        lengths = {"channel": len(self.channels), "signal": len(self.signals)}
        fields = {name: Field(dtype, axes) for name, dtype, axes in self.fields}
        packed = MachineTable(fields, lengths).dtype
        return np.dtype(
            [*_HEAD, ("fields", packed), ("padding", "u1", (-packed.itemsize % _WORD,))]
        )

    @cached_property
    def pane_prefix(self) -> bytes:
        """The first bytes of every pane's row of this layout."""
        return self._prefix(b"pane")

    @cached_property
    def machine_prefix(self) -> bytes:
        """The first bytes of every machine's own row of this layout."""
        return self._prefix(b"machine")

    def empty_panes(self, n: int) -> NDArray[np.void]:
        """Records (n,) of panes that are zero but for what all of them have in common."""
        return _empty(n, self.pane_dtype, self.pane_prefix)

    def empty_machines(self, n: int) -> NDArray[np.void]:
        """Records (n,) of machines that are zero but for what all of them have in common."""
        return _empty(n, self.machine_dtype, self.machine_prefix)

    def _prefix(self, kind: bytes) -> bytes:
        fingerprint = zlib.crc32(kind + self.encode())
        return b"".join(n.to_bytes(_WORD, "little") for n in (self.version, fingerprint))


def pane_keys(
    machine_ids: Sequence[bytes], machines: NDArray[np.int64], slots: NDArray[np.int64]
) -> list[bytes]:
    """Keys of n panes' rows, by the machines' positions in ``machine_ids`` and their slots."""
    pairs = zip(machines.tolist(), slots.tolist(), strict=True)
    return [b"%b|%d" % (machine_ids[machine], slot) for machine, slot in pairs]


def machine_keys(machine_ids: Sequence[bytes], machines: NDArray[np.int64]) -> list[bytes]:
    """Keys of n machines' own rows, by the machines' positions in ``machine_ids``."""
    return [b"%b|%b" % (machine_ids[machine], MACHINE) for machine in machines.tolist()]


def values(records: NDArray[np.void]) -> list[bytes]:
    """Values of the rows that hold ``records`` (n,), whose checks are set."""
    records["check"] = checks(records)
    data, size = records.tobytes(), records.dtype.itemsize
    return [data[start : start + size] for start in range(0, len(data), size)]


def checks(records: NDArray[np.void]) -> NDArray[np.uint32]:
    """Checksums (n,) over all else in the records.

    A weighted sum of 32-bit words: odd weights let every change of a single word show.
    Kafka's own checksum guards the way and the disk; this one finds rows that something
    else than a worker has written.
    """
    words_a_row = records.dtype.itemsize // _WORD
    words = np.frombuffer(records.tobytes(), np.uint32).reshape(len(records), words_a_row).copy()
    words[:, _CHECK_WORD] = 0
    weights = np.arange(words.shape[1], dtype=np.uint32) * np.uint32(2_654_435_762) + np.uint32(1)
    sums: NDArray[np.uint32] = (words * weights).sum(axis=1, dtype=np.uint32)
    return sums


def _empty(n: int, dtype: np.dtype[np.void], prefix: bytes) -> NDArray[np.void]:
    records = np.zeros(n, dtype)
    records["version"], records["fingerprint"] = np.frombuffer(prefix, "<u4")
    return records


_HEAD = [("version", "<u4"), ("fingerprint", "<u4"), ("check", "<u4")]
_CHECK_WORD = 2
_WORD = 4
