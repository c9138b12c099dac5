"""The polling thread on a real Kafka: order, bounds, requests, departure."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from load.local_kafka import LocalKafka
from tests.support.kafka import QUIET, NewRecord, create_topics, produce, unique, wait_until
from worker.core.errors import BrokerError, TopicError
from worker.transport import poller as poller_module
from worker.transport.poller import Poller

WAIT_S = 30.0
PARTITIONS = 2


class Listener:
    """Opens what is assigned at once, and notes the rest."""

    poller: Poller

    def __init__(self) -> None:
        self.failed: list[BaseException] = []
        self.revoked: list[list[int]] = []
        self.assigned = threading.Event()
        self.deleted: list[tuple[int, int]] = []

    def on_ready(self) -> None: ...

    def on_assignment_changed(self) -> None:
        for partition, assignment in self.poller.assignments.items():
            self.poller.open(partition, assignment.epoch)
        self.assigned.set()

    def on_revoking(self, partitions: list[int]) -> Future[None]:
        # As the processor does, ask something of the polling thread while it waits for us.
        self.revoked.append(partitions)
        done: Future[None] = Future()
        asked = self.poller.call(lambda consumer: consumer.consumer_group_metadata())
        asked.add_done_callback(lambda _: done.set_result(None))
        return done

    def on_lost(self, partitions: list[int]) -> None:
        raise AssertionError(f"lost {partitions}")

    def on_deleted_unread(self, partition: int, offsets: int) -> None:
        self.deleted.append((partition, offsets))

    def on_failed(self, error: BaseException) -> None:
        self.failed.append(error)


class Group:
    """A topic and the pollers that read it."""

    def __init__(self, kafka: LocalKafka) -> None:
        self.brokers = kafka.bootstrap_servers
        self.topic, self.group = unique("events"), unique("group")
        self.pollers: list[Poller] = []
        create_topics(self.brokers, self.topic, partitions=PARTITIONS)

    def start(self, topic: str | None = None, **more: Any) -> tuple[Poller, Listener]:
        config = {
            "bootstrap.servers": self.brokers,
            "group.id": self.group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "partition.assignment.strategy": "cooperative-sticky",
            **more,
        }
        listener = Listener()
        listener.poller = Poller(Consumer(config, logger=QUIET), topic or self.topic, listener)
        listener.poller.start()
        self.pollers.append(listener.poller)
        return listener.poller, listener

    def feed(self, count: int, size: int = 10) -> None:
        records = [
            NewRecord(value=b"%0*d" % (size, number), partition=number % PARTITIONS)
            for number in range(count)
        ]
        produce(self.brokers, self.topic, records)


@pytest.fixture
def group(kafka: LocalKafka) -> Iterator[Group]:
    group = Group(kafka)
    yield group
    for poller in group.pollers:
        poller.leave()
        assert not poller.is_alive()


def read_all(poller: Poller, count: int) -> dict[int, list[int]]:
    """Take ``count`` records; each delivery must begin where the one before it ended."""
    numbers: dict[int, list[int]] = {}
    ends: dict[int, int] = {}

    def done() -> bool:
        while (delivery := poller.take()) is not None:
            partition = delivery.chunk.partition
            assert delivery.begin == ends.get(partition, 0)
            ends[partition] = delivery.end
            values = [value or b"" for value in delivery.chunk.values]
            numbers.setdefault(partition, []).extend(int(value[-9:]) for value in values)
        return sum(map(len, numbers.values())) >= count

    wait_until(done, f"{count} records are delivered", WAIT_S)
    return numbers


def test_records_arrive_in_order_and_without_gaps(group: Group) -> None:
    group.feed(5_000)
    poller, _ = group.start()
    assert read_all(poller, 5_000) == {0: list(range(0, 5_000, 2)), 1: list(range(1, 5_000, 2))}
    wait_until(lambda: poller.lag() == {0: 0, 1: 0}, "the lag is 0", WAIT_S)


def test_a_slow_reader_costs_bounded_memory_and_no_record(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller_module, "MAX_BUFFERED_EVENTS", 2_000)
    monkeypatch.setattr(poller_module, "MAX_FETCH_EVENTS", 500)
    group.feed(20_000)
    poller, listener = group.start()
    wait_until(lambda: poller._throttled, "the poller pauses", WAIT_S)
    assert poller._buffered_events < 2_000 + 500
    # It goes on polling meanwhile, so the group keeps it and requests are served.
    assert poller.call(lambda consumer: consumer.memberid()).result(WAIT_S)
    numbers = read_all(poller, 20_000)
    assert sorted(numbers[0] + numbers[1]) == list(range(20_000))
    assert (poller._buffered_events, poller._buffered_bytes) == (0, 0)
    assert listener.failed == []


def test_large_records_fill_the_buffer_by_their_bytes(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller_module, "MAX_BUFFERED_BYTES", 1_000_000)
    monkeypatch.setattr(poller_module, "MAX_FETCH_EVENTS", 10)
    group.feed(100, size=50_000)
    poller, _ = group.start()
    wait_until(lambda: poller._throttled, "the poller pauses", WAIT_S)
    assert poller._buffered_bytes < 1_000_000 + 10 * 50_000
    numbers = read_all(poller, 100)
    assert sorted(numbers[0] + numbers[1]) == list(range(100))


def test_records_that_retention_deletes_before_they_are_read_are_counted_and_skipped(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller_module, "MAX_BUFFERED_EVENTS", 2_000)
    monkeypatch.setattr(poller_module, "MAX_FETCH_EVENTS", 500)
    group.feed(20_000)
    poller, listener = group.start(**{"auto.offset.reset": "error"})
    wait_until(lambda: poller._throttled, "the poller pauses", WAIT_S)
    read_ahead = poller.sight().positions
    admin = AdminClient({"bootstrap.servers": group.brokers}, logger=QUIET)
    gone = [TopicPartition(group.topic, partition, 9_000) for partition in range(PARTITIONS)]
    for future in admin.delete_records(gone).values():
        future.result(WAIT_S)
    numbers = read_all(poller, sum(read_ahead.values()) + PARTITIONS * 1_000)
    for partition, end in read_ahead.items():
        offsets = [*range(end), *range(9_000, 10_000)]
        assert numbers[partition] == [PARTITIONS * offset + partition for offset in offsets]
    assert sorted(listener.deleted) == [(p, 9_000 - end) for p, end in sorted(read_ahead.items())]
    assert listener.failed == []


def test_partitions_move_without_the_others_stopping(group: Group) -> None:
    group.feed(100)
    first, listener = group.start()
    read_all(first, 100)
    second, _ = group.start()
    wait_until(lambda: len(second.assignments) == 1, "the second has a partition", WAIT_S)
    (moved,) = listener.revoked
    assert list(second.assignments) == moved
    assert len(first.assignments) == 1
    second.leave()
    wait_until(lambda: len(first.assignments) == PARTITIONS, "it comes back", WAIT_S)
    assert listener.failed == []


def test_leaving_gives_the_partitions_back_even_as_a_static_member(group: Group) -> None:
    poller, listener = group.start(**{"group.instance.id": "0"})
    assert listener.assigned.wait(WAIT_S)
    poller.leave()
    assert sorted(itertools.chain(*listener.revoked)) == [0, 1]
    admin = AdminClient({"bootstrap.servers": group.brokers}, logger=QUIET)
    assert admin.describe_consumer_groups([group.group])[group.group].result(WAIT_S).members == []
    with pytest.raises(BrokerError, match="no member of its consumer group"):
        poller.call(lambda consumer: consumer.memberid()).result(WAIT_S)


def test_a_topic_that_does_not_exist_ends_the_thread_with_the_reason(group: Group) -> None:
    poller, listener = group.start(topic=unique("missing"))
    wait_until(lambda: bool(listener.failed), "the failure is reported", WAIT_S)
    assert isinstance(listener.failed[0], TopicError)
    poller.join(WAIT_S)
    assert not poller.is_alive()


def test_requests_are_served_while_a_killed_workers_last_commit_is_undecided(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller_module, "UNDECIDED_LOOK_S", 0.3)
    group.feed(20)
    killed = Producer(
        {"bootstrap.servers": group.brokers, "transactional.id": unique("killed")}, logger=QUIET
    )
    outsider = Consumer({"bootstrap.servers": group.brokers, "group.id": group.group}, logger=QUIET)
    killed.init_transactions(WAIT_S)
    killed.begin_transaction()
    killed.send_offsets_to_transaction(
        [TopicPartition(group.topic, 0, 4)], outsider.consumer_group_metadata(), WAIT_S
    )
    outsider.close()
    poller, listener = group.start()
    for _ in range(5):
        poller.call(lambda consumer: consumer.consumer_group_metadata()).result(WAIT_S)
        assert not listener.assigned.wait(0.5)
    killed.abort_transaction(WAIT_S)
    assert len(read_all(poller, 20)) == PARTITIONS
    assert listener.failed == []
