"""What must hold after every transaction, and in the end: equality with one undisturbed run.

The reference steps over the committed input, partition by partition, as far as the committed
offsets go. Whenever a transaction is committed, what all committed ones hold must be exactly
what the reference has: the same outputs in the same order, and a changelog that restores to
the same state. So a record that was lost or applied twice, an offset ahead
of the state, state ahead of its offset, and a watermark that went back are all differences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from load.simulation.broker import Broker, Log, Stored
from load.simulation.consumer import EPOCH_MS
from load.simulation.inputs import LAYOUT, LIMITS, SPEC
from load.simulation.program import APP_ID, CHANGELOG, PARTIALS, SOURCE, STREAMS
from worker.core.changelog import StateReader
from worker.core.drift import FLEET, Partial, merge
from worker.core.events import Chunk
from worker.core.outgoing import Record, partition_of
from worker.core.pipeline import Pipeline
from worker.core.scoring import Scoring
from worker.core.state import PartitionState


class ViolationError(Exception):
    """Something that must hold does not."""


class _Tail:
    """Reads a partition's records as their transactions are committed, not as readers may see them.

    A reader is held back by whatever is open before; the decision itself is what counts.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._position = 0
        self._undecided: list[Stored] = []

    def read(self) -> list[Stored]:
        """What was committed since the last call."""
        new = [*self._undecided, *self._log.since(self._position)]
        self._position = self._log.end
        self._undecided = [r for r in new if r.transaction and r.transaction.committed is None]
        return [r for r in new if r.transaction and r.transaction.committed and not r.marker]


class Gathered:
    """Partials merged by partition and pane: the same however they were cut into commits."""

    def __init__(self) -> None:
        self._panes: dict[tuple[int, int], Partial] = {}

    def add(self, value: bytes) -> None:
        """Merge one."""
        partial = Partial.from_bytes(value)
        place = partial.partition, partial.start_us
        known = [self._panes[place]] if place in self._panes else []
        self._panes[place] = merge([*known, partial], partial.start_us, partial.end_us)

    def of(self, partition: int) -> dict[int, bytes]:
        """What one partition's rows say, by pane."""
        return {
            start_us: replace(pane, sequence=0).to_bytes()
            for (own, start_us), pane in self._panes.items()
            if own == partition
        }


class _Reference:
    """One partition of an undisturbed run, and what has been seen of the real one."""

    def __init__(self, broker: Broker, pipeline: Pipeline, partition: int) -> None:
        self.partition = partition
        self.state = PartitionState(SPEC, limits=LIMITS)
        self._scoring = Scoring(pipeline, LAYOUT)
        self.gathered = Gathered()
        self._input = broker.log(SOURCE, partition)
        self._expected: dict[str, list[Record]] = {stream: [] for stream in STREAMS}
        self._tails = {s: _Tail(broker.log(s, partition)) for s in (*STREAMS, CHANGELOG)}
        self._seen = dict.fromkeys(STREAMS, 0)
        self._rows: dict[bytes, Stored] = {}

    def advance(self, offset: int) -> None:
        """Step over the input up to ``offset``."""
        records, _ = self._input.read(self.state.next_offset, 1_000_000, committed_only=True)
        records = [record for record in records if record.offset < offset]
        if not records:
            return
        chunk = Chunk(
            SOURCE,
            self.partition,
            np.array([r.offset for r in records]),
            np.array([EPOCH_MS + round(r.time_s * 1000) for r in records]),
            [r.key for r in records],
            [r.value for r in records],
        )
        for record in self._scoring.step(self.state, chunk).records:
            self._expected[record.stream].append(record)
        for record in self._scoring.summarize(self.partition, self.state.next_offset):
            self.gathered.add(record.value)

    def compare(self) -> None:
        """Compare outputs and state with what a reader sees now."""
        for stream in STREAMS:
            self._compare_outputs(stream)
        for row in self._tails[CHANGELOG].read():
            assert row.key is not None  # the worker gives every row a key
            known = self._rows.get(row.key)
            if known is None or known.offset < row.offset:
                self._rows[row.key] = row
        rows = sorted(self._rows.items(), key=lambda item: item[1].offset)
        reader = StateReader(SPEC, LIMITS)
        reader.read([(key, row.value) for key, row in rows], [row.offset for _, row in rows])
        self.compare_state(reader.finish(self.state.next_offset), "changelog")

    def compare_state(self, state: PartitionState, where: str) -> None:
        """Compare a restored state with the reference."""
        found, expected = dict(state.snapshot()), dict(self.state.snapshot())
        wrong = [k for k in sorted({*found, *expected}) if found.get(k) != expected.get(k)]
        if wrong:
            raise ViolationError(
                f"state: the {where} of partition {self.partition} differs from the reference at "
                f"offset {self.state.next_offset} in {len(wrong)} rows, first {wrong[0]!r} "
                f"({_difference(found.get(wrong[0]), expected.get(wrong[0]))})"
            )

    def _compare_outputs(self, stream: str) -> None:
        expected = self._expected[stream]
        for record in self._tails[stream].read():
            key, value, at = record.key, record.value, self._seen[stream]
            if at == len(expected) or (key, value) != (expected[at].key, expected[at].value):
                before = any((key, value) == (r.key, r.value) for r in expected[:at])
                raise ViolationError(
                    f"outputs: record {at} of {stream}, partition {self.partition}, "
                    f"{'came twice' if before else 'is not what the reference has'}: {value!r}"
                )
            self._seen[stream] += 1
        if self._seen[stream] < len(expected):
            raise ViolationError(
                f"outputs: {stream}, partition {self.partition}: lost at committed offset "
                f"{self.state.next_offset}: {expected[self._seen[stream]].value!r}"
            )


class Checks:
    """All partitions of one simulation."""

    def __init__(self, broker: Broker, pipeline: Pipeline, partitions: int) -> None:
        self._broker = broker
        self._references = [_Reference(broker, pipeline, p) for p in range(partitions)]
        self._offsets = [0] * partitions
        where = partition_of(FLEET.encode(), partitions)
        self._partials = _Tail(broker.log(PARTIALS, where))
        self._gathered = Gathered()

    def committed(self, offsets: Mapping[int, int]) -> None:
        """Check what a transaction has changed, at the moment of its commit.

        Args:
            offsets: what it says is applied, by partition of the input.

        Raises:
            ViolationError: naming what differs.
        """
        for partition, offset in offsets.items():
            if offset < self._offsets[partition]:
                raise ViolationError(
                    f"offsets: partition {partition} went back from {self._offsets[partition]} "
                    f"to {offset}"
                )
            self._offsets[partition] = offset
            self._references[partition].advance(offset)
            self._references[partition].compare()
        for record in self._partials.read():
            assert record.value is not None
            self._gathered.add(record.value)
        for partition in offsets:
            if self._gathered.of(partition) != self._references[partition].gathered.of(partition):
                raise ViolationError(
                    f"partials: what those of partition {partition} say together is not what its "
                    f"rows up to offset {offsets[partition]} say"
                )

    def is_finished(self) -> bool:
        """Whether all input is committed, and no transaction is open."""
        return all(
            self._offsets[partition] > self._broker.log(SOURCE, partition).last_committed()
            for partition in range(len(self._references))
        ) and not any(p.transaction or p.markers_to_write for p in self._broker.producers.values())

    def finish(self, restored: dict[int, PartitionState]) -> None:
        """Check the whole: nothing lost, and the worker's own restore gives the reference's state.

        Raises:
            ViolationError: naming what differs.
        """
        group = self._broker.group(APP_ID)
        for partition, offset in enumerate(self._offsets):
            if group.offsets.get((SOURCE, partition), 0) != offset:
                raise ViolationError(
                    f"offsets: partition {partition} is not at {offset} in the end"
                )
            self._references[partition].compare()
        for partition, state in restored.items():
            self._references[partition].compare_state(state, "compacted changelog")


def _difference(found: bytes | None, expected: bytes | None) -> str:
    if found is None:
        return "missing"
    return "not in the reference" if expected is None else "another value"
