"""Rows of the changelog: their exact binary form.

One row is one pane of one machine: key ``machine_id|slot``, value a fixed-size record
(see :attr:`Layout.dtype`). The latest row of every key is the whole state: a machine's
newest event time travels in each of its rows, and the event that set it also changed its
row. One more row, under ``LAYOUT_KEY``, says for which channels and window the others were
written, so that state can be carried over to others where that is exact.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cached_property

import msgspec
import numpy as np
from numpy.typing import NDArray

from worker.core.channels import ChannelSpec

ROW_VERSION = 2
LAYOUT_KEY = b"|layout"
"""No machine's: machine ids have at least one character."""

Row = tuple[bytes, bytes | None]
"""Key and value; without a value it deletes the key's earlier row."""


class Layout(msgspec.Struct, frozen=True, dict=True):
    """What rows mean: channels with their units in order, length of a pane, slots of the ring."""

    version: int
    channels: tuple[tuple[str, str], ...]
    pane_us: int
    slots: int

    @classmethod
    def of(cls, spec: ChannelSpec) -> Layout:
        """The layout for a channel specification."""
        channels = tuple((channel.name, channel.unit) for channel in spec.continuous)
        return cls(ROW_VERSION, channels, spec.pane_us, spec.slots)

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
    def dtype(self) -> np.dtype[np.void]:
        """A row's value: little-endian, packed, 36 + 28 bytes a channel."""
        channels = len(self.channels)
        return np.dtype(
            [
                ("version", "<u4"),
                ("fingerprint", "<u4"),
                ("check", "<u4"),
                ("pane", "<i8"),
                ("newest_us", "<i8"),
                ("heard_us", "<i8"),
                ("counts", "<u4", (channels,)),
                ("moments", "<f8", (channels, 2)),
                ("extremes", "<f4", (channels, 2)),
            ]
        )

    @cached_property
    def prefix(self) -> bytes:
        """The first bytes of every row of this layout."""
        return b"".join(n.to_bytes(4, "little") for n in (self.version, self._fingerprint))

    def empty_rows(self, n: int) -> NDArray[np.void]:
        """Records (n,) that are zero but for what all rows have in common."""
        records = np.zeros(n, self.dtype)
        records["version"] = self.version
        records["fingerprint"] = self._fingerprint
        return records

    def keys(
        self, machine_ids: Sequence[bytes], machines: NDArray[np.int64], slots: NDArray[np.int64]
    ) -> list[bytes]:
        """Keys of n rows, by the machines' positions in ``machine_ids`` and their slots."""
        pairs = zip(machines.tolist(), slots.tolist(), strict=True)
        return [b"%b|%d" % (machine_ids[machine], slot) for machine, slot in pairs]

    def values(self, records: NDArray[np.void]) -> list[bytes]:
        """Values of the rows that hold ``records`` (n,), whose checks are set."""
        records["check"] = checks(records)
        data, size = records.tobytes(), self.dtype.itemsize
        return [data[start : start + size] for start in range(0, len(data), size)]

    @cached_property
    def _fingerprint(self) -> int:
        return zlib.crc32(self.encode())


def checks(records: NDArray[np.void]) -> NDArray[np.uint32]:
    """Checksums (n,) over all else in the records.

    A weighted sum of 32-bit words: odd weights let every change of a single word show.
    Kafka's own checksum guards the way and the disk; this one finds rows that something
    else than a worker has written.
    """
    words_a_row = records.dtype.itemsize // 4
    words = np.frombuffer(records.tobytes(), np.uint32).reshape(len(records), words_a_row).copy()
    words[:, _CHECK_WORD] = 0
    weights = np.arange(words.shape[1], dtype=np.uint32) * np.uint32(2_654_435_762) + np.uint32(1)
    sums: NDArray[np.uint32] = (words * weights).sum(axis=1, dtype=np.uint32)
    return sums


_CHECK_WORD = 2
