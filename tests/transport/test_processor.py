"""The processing thread, with a step and a publisher that only take notes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from confluent_kafka import TopicPartition

from worker.core.channels import ChannelSpec, parse_spec
from worker.core.errors import FencedError, GapError
from worker.core.events import Chunk
from worker.core.outgoing import Outputs, Record, partition_of
from worker.core.rows import LAYOUT_KEY
from worker.core.state import PartitionState
from worker.transport import processor as processor_module
from worker.transport.delivery import Delivery
from worker.transport.processor import Destinations, Processor

WAIT_S = 10.0
SPEC = parse_spec('name = "one"\n[[channel]]\nname = "a"\n')
DESTINATIONS = Destinations("events", "changelog", {"anomalies": ("anomalies", 2)})


class Notes:
    """Publisher, listener and group member in one: keeps what happened, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.error: Exception | None = None

    def publish(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: object = None,
    ) -> None:
        self.calls.append(("publish", topic, partition, key))

    def commit(self, group: Any, offsets: list[TopicPartition]) -> None:
        if self.error is not None:
            raise self.error
        self.calls.append(("commit", {p.partition: p.offset for p in offsets}))

    def abort(self) -> None:
        self.calls.append(("abort",))

    def on_applied(self, partition: int, outputs: Outputs, duration_s: float) -> None:
        self.calls.append(("applied", partition, outputs.events))

    def on_committed(self, duration_s: float) -> None:
        self.calls.append(("committed",))

    def call(self, request: Any) -> Future[Any]:
        raise AssertionError("the publisher of this test asks for nothing")


class OneOutputEach:
    """One row of state and one anomaly a record; it may have something to say of each commit."""

    def __init__(self) -> None:
        self.summary: list[Record] = []

    def step(self, state: PartitionState, chunk: Chunk) -> Outputs:
        """Apply a chunk."""
        chunk = chunk.since(state.next_offset)
        machines = state.indices([key or b"" for key in chunk.keys])
        state.add(machines, np.full(len(chunk), 10**15, np.int64), np.ones((len(chunk), 1)))
        if len(chunk):
            state.next_offset = int(chunk.offsets[-1]) + 1
        records = [Record("anomalies", key, b"{}") for key in chunk.keys]
        return Outputs(records=records, events=len(chunk), scored=len(chunk))

    def summarize(self, partition: int, next_offset: int) -> list[Record]:
        """What was put there."""
        return self.summary


def delivery(partition: int, first: int, count: int, epoch: int = 1, begin: int = -1) -> Delivery:
    offsets = np.arange(first, first + count)
    keys = [b"m%d" % offset for offset in offsets]
    chunk = Chunk("events", partition, offsets, offsets, keys, [b"x"] * count)
    return Delivery(chunk, epoch, first if begin < 0 else begin)


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def processor(notes: Notes) -> Iterator[Processor]:
    processor = Processor(OneOutputEach(), DESTINATIONS, notes, notes)
    processor.join(notes)
    yield processor
    processor.close()


def own(processor: Processor, partition: int, epoch: int = 1, spec: ChannelSpec = SPEC) -> None:
    taken = processor.take_over(partition, PartitionState(spec), epoch, lambda: True)
    assert taken.result(WAIT_S)


def test_a_commit_holds_the_rows_the_outputs_and_the_offsets_of_whole_chunks(
    processor: Processor, notes: Notes
) -> None:
    own(processor, 3)
    processor.apply(delivery(3, 0, 2)).result(WAIT_S)
    processor.commit().result(WAIT_S)
    slot = 10**15 // SPEC.pane_us % SPEC.slots
    assert notes.calls == [
        ("publish", "anomalies", 1, b"m0"),
        ("publish", "anomalies", 1, b"m1"),
        ("applied", 3, 2),
        ("publish", "changelog", 3, LAYOUT_KEY),
        ("publish", "changelog", 3, b"m0|%d" % slot),
        ("publish", "changelog", 3, b"m1|%d" % slot),
        ("publish", "changelog", 3, b"m0|m"),
        ("publish", "changelog", 3, b"m1|m"),
        ("commit", {3: 2}),
        ("committed",),
    ]


def test_many_outputs_are_committed_at_once_so_that_no_transaction_grows_large(
    processor: Processor, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor_module, "MAX_OUTPUTS_BYTES", 10)
    own(processor, 0)
    processor.apply(delivery(0, 0, 4)).result(WAIT_S)  # 2 bytes each
    assert not any(call[0] == "commit" for call in notes.calls)
    processor.apply(delivery(0, 4, 1)).result(WAIT_S)
    assert notes.calls[-2:] == [("commit", {0: 5}), ("committed",)]
    processor.apply(delivery(0, 5, 4)).result(WAIT_S)
    assert notes.calls[-1] == ("applied", 0, 4)


def test_nothing_new_is_not_committed(processor: Processor, notes: Notes) -> None:
    own(processor, 0)
    processor.commit().result(WAIT_S)
    assert notes.calls == []


def test_a_chunk_of_an_earlier_assignment_is_ignored(processor: Processor, notes: Notes) -> None:
    own(processor, 0, epoch=2)
    processor.apply(delivery(0, 0, 2, epoch=1)).result(WAIT_S)
    processor.apply(delivery(1, 0, 2, epoch=2)).result(WAIT_S)
    assert notes.calls == []


def test_a_gap_before_a_chunk_stops_everything(processor: Processor, notes: Notes) -> None:
    own(processor, 0)
    with pytest.raises(GapError, match="partition 0: records 0 to 4 never arrived"):
        processor.apply(delivery(0, 5, 2)).result(WAIT_S)
    with pytest.raises(GapError):
        processor.commit().result(WAIT_S)
    assert notes.calls == []


def test_offsets_without_records_are_no_gap(processor: Processor, notes: Notes) -> None:
    own(processor, 0)
    processor.apply(delivery(0, 5, 2, begin=0)).result(WAIT_S)
    assert notes.calls[-1] == ("applied", 0, 2)


def test_giving_back_commits_first_and_forgets_then(processor: Processor, notes: Notes) -> None:
    own(processor, 0)
    own(processor, 1)
    processor.apply(delivery(0, 0, 1)).result(WAIT_S)
    processor.give_back([0]).result(WAIT_S)
    assert notes.calls[-2:] == [("commit", {0: 1}), ("committed",)]
    assert list(processor.owned) == [1]


def test_after_a_failed_commit_nothing_is_applied_any_more(
    processor: Processor, notes: Notes
) -> None:
    own(processor, 0)
    processor.apply(delivery(0, 0, 1)).result(WAIT_S)
    notes.error = FencedError("another worker has taken over.")
    with pytest.raises(FencedError):
        processor.commit().result(WAIT_S)
    notes.error = None
    with pytest.raises(FencedError):
        processor.apply(delivery(0, 1, 1)).result(WAIT_S)
    with pytest.raises(FencedError):
        processor.give_back([0]).result(WAIT_S)


def test_a_partition_revoked_during_its_restore_is_not_taken_over(processor: Processor) -> None:
    state = PartitionState(SPEC)
    assert not processor.take_over(0, state, 1, lambda: False).result(WAIT_S)
    assert processor.owned == {}


def test_after_a_loss_nothing_is_committed_any_more(processor: Processor, notes: Notes) -> None:
    own(processor, 0)
    processor.apply(delivery(0, 0, 1)).result(WAIT_S)
    error = processor.lose([0])
    with pytest.raises(FencedError, match=re.escape(str(error))):
        processor.commit().result(WAIT_S)


def test_closing_withdraws_what_was_not_committed(notes: Notes) -> None:
    processor = Processor(OneOutputEach(), DESTINATIONS, notes, notes)
    processor.join(notes)
    own(processor, 0)
    processor.apply(delivery(0, 0, 1)).result(WAIT_S)
    processor.close()
    assert notes.calls[-1] == ("abort",)


def test_what_is_told_once_a_commit_goes_where_its_key_says_and_with_that_commit(
    notes: Notes,
) -> None:
    application = OneOutputEach()
    destinations = Destinations("events", "changelog", {"anomalies": ("anomalies", 7)})
    processor = Processor(application, destinations, notes, notes)
    processor.join(notes)
    application.summary = [Record("anomalies", b"fleet", b"{}", gathered=True)]
    for partition in (1, 2):
        own(processor, partition)
        processor.apply(delivery(partition, 0, 1)).result(WAIT_S)
    processor.commit().result(WAIT_S)
    processor.close()
    told = [call for call in notes.calls if call[0] == "publish" and call[3] == b"fleet"]
    assert told == [("publish", "anomalies", partition_of(b"fleet", 7), b"fleet")] * 2
    assert notes.calls.index(told[0]) < notes.calls.index(("commit", {1: 1, 2: 1}))


class Sees:
    """A witness that takes notes."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    def applied(self, partition: int, outputs: Outputs) -> None:
        self._notes.calls.append(("witnessed", partition, outputs.events))

    def settled(self, states: Mapping[int, PartitionState]) -> None:
        offsets = {partition: state.next_offset for partition, state in states.items()}
        self._notes.calls.append(("settled", offsets))

    def given_back(self, partitions: Iterable[int]) -> None:
        self._notes.calls.append(("given back", list(partitions)))

    def close(self) -> None:
        self._notes.calls.append(("closed",))


def test_a_witness_sees_what_is_applied_and_after_each_commit_that_it_is_final(
    notes: Notes,
) -> None:
    processor = Processor(OneOutputEach(), DESTINATIONS, notes, notes, witness=Sees(notes))
    processor.join(notes)
    own(processor, 1)
    own(processor, 2)
    processor.apply(delivery(1, 0, 2)).result(WAIT_S)
    processor.commit().result(WAIT_S)
    processor.commit().result(WAIT_S)
    processor.give_back([1]).result(WAIT_S)
    processor.close()
    told = ("witnessed", "commit", "settled", "given back", "abort", "closed")
    assert [call for call in notes.calls if call[0] in told] == [
        ("witnessed", 1, 2),
        ("commit", {1: 2}),
        ("settled", {1: 2, 2: 0}),
        ("settled", {1: 2, 2: 0}),
        ("settled", {1: 2, 2: 0}),
        ("given back", [1]),
        ("abort",),
        ("closed",),
    ]


def test_a_witness_hears_nothing_of_what_could_not_be_committed(notes: Notes) -> None:
    processor = Processor(OneOutputEach(), DESTINATIONS, notes, notes, witness=Sees(notes))
    processor.join(notes)
    own(processor, 1)
    processor.apply(delivery(1, 0, 1)).result(WAIT_S)
    notes.error = FencedError("another is there")
    with pytest.raises(FencedError):
        processor.commit().result(WAIT_S)
    with pytest.raises(FencedError):
        processor.commit().result(WAIT_S)
    processor.close()
    assert not [call for call in notes.calls if call[0] == "settled"]
