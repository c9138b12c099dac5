"""Gathering rows into partials.

Owns what is counted between two takings: one :class:`Collector` a partition.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.core.drift import cells as kernel
from worker.core.drift.cells import CELLS
from worker.core.drift.partial import (
    FLEET,
    MACHINE,
    MACHINES,
    SAMPLE_ROWS,
    Counts,
    Layout,
    Partial,
    add_up,
    smallest_rows,
)


@functools.lru_cache(1 << 16)
def _hash_of(name: bytes) -> int:
    """The hash of a machine's name."""
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")


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
        names = list(map(machine_ids.__getitem__, numbers.tolist()))
        hashes = np.fromiter(map(_hash_of, names), np.uint64, len(names))
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
            at = self._members(group, chunk)
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
            position: dict[str | None, int] = {value: i for i, value in enumerate(values)}
            column = categories.get(channel)
            if column is None:
                codes.append(np.full(n, len(values), np.int64))
            else:
                found = map(position.get, column, itertools.repeat(len(values)))
                codes.append(np.fromiter(found, np.int64, n))
        return codes

    def _members(self, group: str, chunk: _Chunk) -> NDArray[np.bool_] | None:
        """Which rows (n,) are of a group; None: all."""
        if group == FLEET:
            return None
        channel, _, value = group.partition("=")
        chosen: NDArray[np.bool_]
        if channel == MACHINE:
            machine_id = value.encode()
            here = machine_id in chunk.names
            chosen = chunk.own == (chunk.names.index(machine_id) if here else -1)
            return chosen
        for (name, values), code in zip(self.layout.categories, chunk.codes, strict=True):
            if name == channel:
                chosen = code == values.index(value)
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
            self.keys, self.sample = smallest_rows(keys, sample)

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
        self.hashes, self.machine_rows, self.machine_sums = add_up(
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
