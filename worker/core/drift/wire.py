"""The bytes of a partial.

Owns the format: a magic, a version, a checksum, and all arrays behind one another, compressed.
What the arrays mean is :mod:`worker.core.drift.partial`'s business.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from worker.core.drift.cells import CELLS
from worker.core.errors import PartialError

VERSION = 1
_MAGIC = b"DP"
_LARGEST = 2**20
"""A partial that says it has more groups, machines or columns than this is none."""


class Wire(msgspec.Struct, array_like=True, frozen=True):
    """A partial's bytes: sizes, and all arrays behind one another."""

    fingerprint: int
    partition: int
    group: str
    start_us: int
    end_us: int
    sequence: int
    rows: int
    anomalies: int
    columns: int
    categories: int
    sampled: int
    machine_ids: tuple[str, ...]
    arrays: bytes = b""


def pack(wire: Wire, arrays: Sequence[NDArray[np.generic]]) -> bytes:
    """The bytes of a partial, its arrays in the order of :func:`unpack`."""
    # Whole columns of high bytes are zero, which only a transposed array shows.
    packed = zlib.compress(b"".join(_planes(array) for array in arrays), 1)
    body = msgspec.msgpack.encode(msgspec.structs.replace(wire, arrays=packed))
    head = _MAGIC + VERSION.to_bytes(2, "little") + zlib.crc32(body).to_bytes(4, "little")
    return head + body


def unpack(data: bytes, most_sampled: int, most_machines: int) -> tuple[Wire, list[NDArray[Any]]]:
    """What :func:`pack` was given, of F columns, V categories, k sampled rows and m machines.

    Returns:
        Its head, and arrays: counts (F, 65), sums (F, 3), categories (V,), rows (m,) and sums
        (m, F) of machines, keys (k,), hashes of machines (m,) and sampled cells (k, F).

    Raises:
        PartialError: it is something else, damaged, or of another version.
    """
    if data[:2] != _MAGIC or len(data) < 8:
        raise PartialError("a drift partial does not start as one; it was written by others.")
    version = int.from_bytes(data[2:4], "little")
    if version != VERSION:
        raise PartialError(
            f"a drift partial is of version {version}, this program reads {VERSION}; "
            "run the same version everywhere."
        )
    if int.from_bytes(data[4:8], "little") != zlib.crc32(data[8:]):
        raise PartialError("a drift partial is damaged: its checksum differs.")
    try:
        wire = msgspec.msgpack.decode(data[8:], type=Wire)
        return wire, _arrays(wire, most_sampled, most_machines)
    except (msgspec.DecodeError, zlib.error, ValueError, OverflowError) as error:
        raise PartialError(f"a drift partial cannot be read: {error}.") from error


def _planes(array: NDArray[np.generic]) -> bytes:
    flat = np.ascontiguousarray(array).view(np.uint8).reshape(-1, array.dtype.itemsize)
    return flat.T.tobytes()


def _arrays(wire: Wire, most_sampled: int, most_machines: int) -> list[NDArray[Any]]:
    f, k, m = wire.columns, wire.sampled, len(wire.machine_ids)
    if not (0 <= f <= _LARGEST and 0 <= k <= most_sampled and 0 <= m <= most_machines):
        raise ValueError("its sizes are impossible")
    if not 0 <= wire.categories <= _LARGEST or not 0 <= wire.start_us < wire.end_us:
        raise ValueError("its sizes are impossible")
    shapes: list[tuple[tuple[int, ...], str]] = [
        ((f, CELLS + 1), "<i8"),
        ((f, 3), "<i8"),
        ((wire.categories,), "<i8"),
        ((m,), "<i8"),
        ((m, f), "<i8"),
        ((k,), "<u8"),
        ((m,), "<u8"),
        ((k, f), "u1"),
    ]
    size = sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in shapes)
    inflater = zlib.decompressobj()
    data = inflater.decompress(wire.arrays, size + 1)
    if len(data) != size or not inflater.eof:
        raise ValueError("its arrays are not as long as it says")
    arrays, at = [], 0
    for shape, kind in shapes:
        dtype = np.dtype(kind)
        count = int(np.prod(shape))
        part = np.frombuffer(data, np.uint8, count * dtype.itemsize, at)
        at += count * dtype.itemsize
        arrays.append(part.reshape(dtype.itemsize, count).T.copy().view(dtype).reshape(shape))
    counts, sample = arrays[0], arrays[-1]
    if (counts < 0).any() or (counts.sum(axis=1) != wire.rows).any() or (sample > CELLS).any():
        raise ValueError("its counts do not add up to its rows")
    return arrays
