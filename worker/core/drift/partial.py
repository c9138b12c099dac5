"""Partials: what a pane's rows say, small and mergeable.

Owns what a partial holds and merging. Everything in a partial is a whole number or a
smallest-so-far by hash, so merging in any order, however rows were split, gives the same bits.
A :class:`Partial` of a group's pane has

- histograms over the reference's quantiles, missing values in a cell of their own, and exact sums,
- how often each category was seen,
- a sample of rows: those with the smallest hashes of machine and time,
- sums of single machines: of those with the smallest hashes of their names.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.core.drift import wire
from worker.core.errors import PartialError

SAMPLE_ROWS = 512
MACHINES = 64
FLEET = "fleet"
MACHINE = "machine_id"
"""Names the groups of single machines; no channel can be called so."""
_HASHES = 2.0**64

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
        stride_us: of a machine's rows the first in each slot of that length counts; see
            :mod:`worker.core.drift.thinning`.
    """

    columns: tuple[str, ...]
    edges: NDArray[np.float32]
    center: NDArray[np.float64]
    scale: NDArray[np.float64]
    categories: tuple[tuple[str, tuple[str, ...]], ...]
    groups: tuple[str, ...]
    fingerprint: int
    stride_us: int

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
        head = wire.Wire(
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
        )
        arrays = (
            *(self.counts, self.sums, self.categories, self.machine_rows, self.machine_sums),
            *(self.keys, self.machine_hashes, self.sample),
        )
        return wire.pack(head, arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> Partial:
        """Unpack what :meth:`to_bytes` gave.

        Raises:
            PartialError: it is something else, damaged, or of another version.
        """
        head, arrays = wire.unpack(data, SAMPLE_ROWS, MACHINES)
        counts, sums, categories, machine_rows, machine_sums, keys, hashes, sample = arrays
        return cls(
            fingerprint=head.fingerprint,
            partition=head.partition,
            group=head.group,
            start_us=head.start_us,
            end_us=head.end_us,
            sequence=head.sequence,
            rows=head.rows,
            anomalies=head.anomalies,
            counts=counts,
            sums=sums,
            categories=categories,
            keys=keys,
            sample=sample,
            machine_hashes=hashes,
            machine_ids=head.machine_ids,
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
    keys, sample = smallest_rows(
        np.concatenate([p.keys for p in parts]), np.concatenate([p.sample for p in parts])
    )
    names = {
        int(h): name for p in parts for h, name in zip(p.machine_hashes, p.machine_ids, strict=True)
    }
    hashes, machine_rows, machine_sums = add_up(
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


def smallest_rows(
    keys: NDArray[np.uint64], sample: NDArray[np.uint8]
) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """The rows with the smallest keys; of equal keys, those with the smaller cells."""
    if len(keys) > SAMPLE_ROWS:
        last = np.partition(keys, SAMPLE_ROWS - 1)[SAMPLE_ROWS - 1]
        near = np.flatnonzero(keys <= last)
        keys, sample = keys[near], sample[near]
    order = np.argsort(keys, kind="stable")
    if (keys[order[1:]] == keys[order[:-1]]).any():
        order = np.lexsort((*sample.T[::-1], keys))
    order = order[:SAMPLE_ROWS]
    return keys[order], sample[order]


def add_up(
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
