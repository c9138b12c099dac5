"""Partials: what a pane's rows say, small and mergeable.

Owns gathering rows into partials, merging partials, and their bytes. Everything in a partial is
a whole number or a smallest-so-far by hash, so merging in any order, however rows were split,
gives the same bits. A :class:`Partial` of a group's pane has

- histograms over the reference's quantiles, missing values in a cell of their own, and exact sums,
- how often each category was seen,
- a sample of rows: those with the smallest hashes of machine and time,
- sums of single machines: of those with the smallest hashes of their names.
"""

from __future__ import annotations

import functools
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from worker.core.drift import cells as kernel
from worker.core.drift.cells import CELLS
from worker.core.errors import PartialError

SAMPLE_ROWS = 512
MACHINES = 64
FLEET = "fleet"
VERSION = 1
_MAGIC = b"DP"
_HASHES = 2.0**64
_LARGEST = 2**20
"""A partial that says it has more groups, machines or columns than this is none."""

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """How rows are counted: the same for all that are to be merged.

    Attributes:
        columns: names (F) of what is watched: the model's inputs, then the model's score.
        edges: (F, 63) float32, ascending.
        center, scale: (F,) of the fixed-point sums, scale > 0.
        categories: categorical channels with their values, all of which are counted; what is
            none of the values is counted as the last, ``None``.
        groups: whose rows are gathered: ``"fleet"``, all, and ``"channel=value"``.
        fingerprint: of the reference, so that partials of another are told apart.
    """

    columns: tuple[str, ...]
    edges: NDArray[np.float32]
    center: NDArray[np.float64]
    scale: NDArray[np.float64]
    categories: tuple[tuple[str, tuple[str, ...]], ...]
    groups: tuple[str, ...]
    fingerprint: int

    @functools.cached_property
    def category_starts(self) -> tuple[int, ...]:
        """Where the counts of each channel start; the last: how many there are."""
        starts = [0]
        for _, values in self.categories:
            starts.append(starts[-1] + len(values) + 1)
        return tuple(starts)


@dataclass(frozen=True)
class Partial:
    """What some rows of one group say.

    Attributes:
        fingerprint: of the reference whose cells were used.
        partition, group: whose rows.
        start_us, end_us: the pane, or the window that panes were merged into.
        sequence: of this partial among those of its partition, group and pane; one with a
            number that is not above what was seen is a repetition.
        rows, anomalies: how many; an anomaly is a row whose score was below its threshold.
        counts: (F, 65) rows in each cell, the last: missing.
        sums: (F, 3) see :mod:`worker.core.drift.cells`.
        categories: (V,) rows of each category of each channel.
        keys, sample: (k,) uint64 and (k, F) uint8: hashes, ascending, and cells of sampled rows.
        machine_hashes: (m,) uint64, ascending.
        machine_ids: their m names.
        machine_rows, machine_sums: (m,) and (m, F) rows and sums of their steps.
    """

    fingerprint: int
    partition: int
    group: str
    start_us: int
    end_us: int
    sequence: int
    rows: int
    anomalies: int
    counts: Counts
    sums: Counts
    categories: Counts
    keys: NDArray[np.uint64]
    sample: NDArray[np.uint8]
    machine_hashes: NDArray[np.uint64]
    machine_ids: tuple[str, ...]
    machine_rows: Counts
    machine_sums: Counts

    @property
    def machines(self) -> float:
        """How many machines reported; beyond 64 an estimate (Bar-Yossef et al., 2002)."""
        known = len(self.machine_hashes)
        if known < MACHINES:
            return float(known)
        return max((MACHINES - 1) / ((float(self.machine_hashes[-1]) + 1.0) / _HASHES), known)

    def to_bytes(self) -> bytes:
        """Pack; inverse of :meth:`from_bytes`."""
        arrays = (
            *(self.counts, self.sums, self.categories, self.machine_rows, self.machine_sums),
            *(self.keys, self.machine_hashes, self.sample),
        )
        wire = _Wire(
            fingerprint=self.fingerprint,
            partition=self.partition,
            group=self.group,
            start_us=self.start_us,
            end_us=self.end_us,
            sequence=self.sequence,
            rows=self.rows,
            anomalies=self.anomalies,
            columns=len(self.counts),
            categories=len(self.categories),
            sampled=len(self.keys),
            machine_ids=self.machine_ids,
            # Whole columns of high bytes are zero, which only a transposed array shows.
            arrays=zlib.compress(b"".join(_planes(a) for a in arrays), 1),
        )
        body = msgspec.msgpack.encode(wire)
        head = _MAGIC + VERSION.to_bytes(2, "little") + zlib.crc32(body).to_bytes(4, "little")
        return head + body

    @classmethod
    def from_bytes(cls, data: bytes) -> Partial:
        """Unpack what :meth:`to_bytes` gave.

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
            wire = msgspec.msgpack.decode(data[8:], type=_Wire)
            return _unpack(wire)
        except (msgspec.DecodeError, zlib.error, ValueError, OverflowError) as error:
            raise PartialError(f"a drift partial cannot be read: {error}.") from error


class _Wire(msgspec.Struct, array_like=True, frozen=True):
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
    arrays: bytes


def _planes(array: NDArray[np.generic]) -> bytes:
    flat = np.ascontiguousarray(array).view(np.uint8).reshape(-1, array.dtype.itemsize)
    return flat.T.tobytes()


def _unpack(wire: _Wire) -> Partial:
    f, k, m = wire.columns, wire.sampled, len(wire.machine_ids)
    if not (0 <= f <= _LARGEST and 0 <= k <= SAMPLE_ROWS and 0 <= m <= MACHINES):
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
    counts, sums, categories, machine_rows, machine_sums, keys, hashes, sample = arrays
    if (counts < 0).any() or (counts.sum(axis=1) != wire.rows).any() or (sample > CELLS).any():
        raise ValueError("its counts do not add up to its rows")
    return Partial(
        fingerprint=wire.fingerprint,
        partition=wire.partition,
        group=wire.group,
        start_us=wire.start_us,
        end_us=wire.end_us,
        sequence=wire.sequence,
        rows=wire.rows,
        anomalies=wire.anomalies,
        counts=counts,
        sums=sums,
        categories=categories,
        keys=keys,
        sample=sample,
        machine_hashes=hashes,
        machine_ids=wire.machine_ids,
        machine_rows=machine_rows,
        machine_sums=machine_sums,
    )


def merge(parts: Sequence[Partial], start_us: int, end_us: int) -> Partial:
    """One partial of all rows of one or more of the same group and reference.

    Args:
        start_us, end_us: the window that they are merged into.

    Raises:
        PartialError: they were counted by different references.
    """
    first = parts[0]
    if any(p.fingerprint != first.fingerprint or p.group != first.group for p in parts):
        raise PartialError(
            "partials of different references or groups cannot be merged; "
            "run the same bundle everywhere."
        )
    keys, sample = _smallest_rows(
        np.concatenate([p.keys for p in parts]), np.concatenate([p.sample for p in parts])
    )
    names = {
        int(h): name for p in parts for h, name in zip(p.machine_hashes, p.machine_ids, strict=True)
    }
    hashes, machine_rows, machine_sums = _add_up(
        np.concatenate([p.machine_hashes for p in parts]),
        np.concatenate([p.machine_rows for p in parts]),
        np.concatenate([p.machine_sums for p in parts]),
    )
    return Partial(
        fingerprint=first.fingerprint,
        partition=min(p.partition for p in parts),
        group=first.group,
        start_us=start_us,
        end_us=end_us,
        sequence=max(p.sequence for p in parts),
        rows=sum(p.rows for p in parts),
        anomalies=sum(p.anomalies for p in parts),
        counts=np.sum([p.counts for p in parts], axis=0),
        sums=np.sum([p.sums for p in parts], axis=0),
        categories=np.sum([p.categories for p in parts], axis=0),
        keys=keys,
        sample=sample,
        machine_hashes=hashes,
        machine_ids=tuple(names[h] for h in hashes.tolist()),
        machine_rows=machine_rows,
        machine_sums=machine_sums,
    )


@functools.lru_cache(1 << 16)
def _hash_of(name: bytes) -> int:
    """The hash of a machine's name."""
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")


def _smallest_rows(
    keys: NDArray[np.uint64], sample: NDArray[np.uint8]
) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """The rows with the smallest keys; of equal keys, those with the smaller cells."""
    if len(keys) > SAMPLE_ROWS:
        last = np.partition(keys, SAMPLE_ROWS - 1)[SAMPLE_ROWS - 1]
        near = np.flatnonzero(keys <= last)
        keys, sample = keys[near], sample[near]
    order = np.lexsort((*sample.T[::-1], keys))[:SAMPLE_ROWS]
    return keys[order], sample[order]


def _add_up(
    hashes: NDArray[np.uint64], rows: Counts, sums: Counts
) -> tuple[NDArray[np.uint64], Counts, Counts]:
    """Sums of each machine, of those with the smallest hashes."""
    if not len(hashes):
        return hashes, rows, sums
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return (
        ordered[starts][:MACHINES],
        np.add.reduceat(rows[order], starts)[:MACHINES],
        np.add.reduceat(sums[order], starts, axis=0)[:MACHINES],
    )


class Collector:
    """Gathers the rows of one partition into partials.

    Args:
        layout: of the reference; see :attr:`worker.core.drift.reference.Reference.layout`.
        pane_us: length of a pane.
    """

    def __init__(self, layout: Layout, partition: int, pane_us: int) -> None:
        self.layout = layout
        self.partition = partition
        self.pane_us = pane_us
        self._open: dict[tuple[str, int], _Gathered] = {}

    def add(
        self,
        times_us: NDArray[np.int64],
        machines: NDArray[np.int64],
        machine_ids: Mapping[int, bytes] | Sequence[bytes],
        rows: NDArray[np.float32],
        anomalous: NDArray[np.bool_],
        categories: Mapping[str, Sequence[str | None]],
    ) -> None:
        """Count n scored events.

        Args:
            times_us: (n,) event times.
            machines: (n,) a number for each machine.
            machine_ids: the name of each of these numbers.
            rows: (n, F) model inputs and the model's score, NaN where missing.
            anomalous: (n,) whether the score was below its threshold.
            categories: n values of each categorical channel.
        """
        n = len(times_us)
        if not n:
            return
        layout = self.layout
        found = np.empty(rows.shape, np.uint8)
        steps = np.empty(rows.shape, np.int32)
        rows = np.ascontiguousarray(rows, np.float32)
        kernel.locate(rows, layout.edges, layout.center, layout.scale, found, steps)
        numbers, own = np.unique(machines, return_inverse=True)
        names = [machine_ids[int(number)] for number in numbers]
        hashes = np.array([_hash_of(name) for name in names], np.uint64)
        keys = np.empty(n, np.uint64)
        kernel.draw(hashes[own], times_us, np.uint64(layout.fingerprint), keys)
        codes = self._codes(n, categories)
        chunk = _Chunk(found, steps, keys, own, hashes, names, anomalous, codes)
        panes, pane_of = np.unique(times_us // self.pane_us, return_inverse=True)
        if len(panes) == 1:
            self._gather(panes[0], chunk)
            return
        order = np.argsort(pane_of, kind="stable")
        ends = np.cumsum(np.bincount(pane_of))
        chunk = chunk.take(order)
        for pane, a, b in zip(panes, [0, *ends[:-1]], ends, strict=True):
            self._gather(pane, chunk.take(slice(a, b)))

    def _gather(self, pane: int, chunk: _Chunk) -> None:
        """Add the rows of one pane to the groups that they are of."""
        for group in self.layout.groups:
            at = self._members(group, chunk.codes)
            if at is None or at.any():
                slot = self._open.get((group, int(pane)))
                if slot is None:
                    slot = self._open[group, int(pane)] = _Gathered(self.layout)
                slot.add(chunk, at)

    def take(self, sequence: int, before_us: int | None = None) -> list[Partial]:
        """Give what was gathered, and forget it.

        Args:
            sequence: has to grow from call to call, also over restarts; the partition's next
                offset does.
            before_us: only panes that end until then; None: all, however incomplete.
        """
        taken = []
        for group, pane in sorted(self._open):
            end_us = (pane + 1) * self.pane_us
            if before_us is None or end_us <= before_us:
                gathered = self._open.pop((group, pane))
                taken.append(
                    gathered.partial(
                        self.layout.fingerprint,
                        self.partition,
                        group,
                        (end_us - self.pane_us, end_us),
                        sequence,
                    )
                )
        return taken

    def _codes(self, n: int, categories: Mapping[str, Sequence[str | None]]) -> list[Counts]:
        """For each categorical channel, the position (n,) of each row's value."""
        codes = []
        for channel, values in self.layout.categories:
            position = {value: i for i, value in enumerate(values)}
            column = categories.get(channel)
            if column is None:
                codes.append(np.full(n, len(values), np.int64))
            else:
                other = len(values)
                codes.append(np.array([position.get(v, other) for v in column], np.int64))  # type: ignore[arg-type]
        return codes

    def _members(self, group: str, codes: list[Counts]) -> NDArray[np.bool_] | None:
        """Which rows (n,) are of a group; None: all."""
        if group == FLEET:
            return None
        channel, _, value = group.partition("=")
        for (name, values), code in zip(self.layout.categories, codes, strict=True):
            if name == channel:
                chosen: NDArray[np.bool_] = code == values.index(value)
                return chosen
        raise KeyError(group)


@dataclass(frozen=True)
class _Chunk:
    """n rows, located: see :meth:`Collector.add`; ``own`` are positions in hashes and names."""

    cells: NDArray[np.uint8]
    steps: NDArray[np.int32]
    keys: NDArray[np.uint64]
    own: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    names: list[bytes]
    anomalous: NDArray[np.bool_]
    codes: list[Counts]

    def take(self, at: NDArray[np.int64] | slice) -> _Chunk:
        """Some of the rows."""
        return _Chunk(
            self.cells[at],
            self.steps[at],
            self.keys[at],
            self.own[at],
            self.hashes,
            self.names,
            self.anomalous[at],
            [code[at] for code in self.codes],
        )


class _Gathered:
    """What was gathered of one group's pane."""

    def __init__(self, layout: Layout) -> None:
        columns = len(layout.columns)
        self._starts = layout.category_starts
        self.rows = 0
        self.anomalies = 0
        self.counts = np.zeros((1, columns, CELLS + 1), np.int64)
        self.sums = np.zeros((1, columns, 3), np.int64)
        self.categories = np.zeros(self._starts[-1], np.int64)
        self.keys = np.empty(0, np.uint64)
        self.sample = np.empty((0, columns), np.uint8)
        self.hashes = np.empty(0, np.uint64)
        self.machine_rows = np.empty(0, np.int64)
        self.machine_sums = np.empty((0, columns), np.int64)
        self.names: dict[int, bytes] = {}

    def add(self, chunk: _Chunk, at: NDArray[np.bool_] | None) -> None:
        """Add the rows ``at`` (n,) of a chunk; None: all."""
        n = len(chunk.keys)
        slots = np.zeros(n, np.int64) if at is None else at.astype(np.int64) - 1
        kernel.accumulate(chunk.cells, chunk.steps, slots, self.counts, self.sums)
        self.rows += n if at is None else int(at.sum())
        self.anomalies += int((chunk.anomalous if at is None else chunk.anomalous & at).sum())
        for start, code in zip(self._starts, chunk.codes, strict=False):
            seen = np.bincount(code if at is None else code[at])
            self.categories[start : start + len(seen)] += seen
        self._draw(chunk, at)
        self._add_machines(chunk, slots)

    def _draw(self, chunk: _Chunk, at: NDArray[np.bool_] | None) -> None:
        near = np.ones(len(chunk.keys), np.bool_) if at is None else at
        if len(self.keys) == SAMPLE_ROWS:
            near = near & (chunk.keys <= self.keys[-1])
        rows = np.flatnonzero(near)
        if len(rows):
            keys = np.concatenate([self.keys, chunk.keys[rows]])
            sample = np.concatenate([self.sample, chunk.cells[rows]])
            self.keys, self.sample = _smallest_rows(keys, sample)

    def _add_machines(self, chunk: _Chunk, slots: Counts) -> None:
        present = np.zeros(len(chunk.hashes), np.bool_)
        present[chunk.own[slots == 0]] = True
        if len(self.hashes) == MACHINES:
            present &= chunk.hashes <= self.hashes[-1]
        at = np.flatnonzero(present)
        if not len(at):
            return
        at = at[np.argsort(chunk.hashes[at])[:MACHINES]]
        position = np.full(len(present), -1)
        position[at] = np.arange(len(at))
        rows = np.zeros(len(at), np.int64)
        sums = np.zeros((len(at), chunk.steps.shape[1]), np.int64)
        entries = np.where(slots == 0, position[chunk.own], -1)
        kernel.add_entries(chunk.steps, entries, rows, sums)
        self.names.update((int(chunk.hashes[k]), chunk.names[k]) for k in at)
        self.hashes, self.machine_rows, self.machine_sums = _add_up(
            np.concatenate([self.hashes, chunk.hashes[at]]),
            np.concatenate([self.machine_rows, rows]),
            np.concatenate([self.machine_sums, sums]),
        )

    def partial(
        self, fingerprint: int, partition: int, group: str, pane: tuple[int, int], sequence: int
    ) -> Partial:
        """All of it as one partial of a pane."""
        return Partial(
            fingerprint=fingerprint,
            partition=partition,
            group=group,
            start_us=pane[0],
            end_us=pane[1],
            sequence=sequence,
            rows=self.rows,
            anomalies=self.anomalies,
            counts=self.counts[0],
            sums=self.sums[0],
            categories=self.categories,
            keys=self.keys,
            sample=self.sample,
            machine_hashes=self.hashes,
            machine_ids=tuple(self.names[h].decode() for h in self.hashes.tolist()),
            machine_rows=self.machine_rows,
            machine_sums=self.machine_sums,
        )
