"""The polling thread, with a consumer that hands out what the test gives it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError, TopicPartition

from tests.support.kafka import wait_until
from worker.core.errors import BrokerError, FencedError
from worker.transport.poller import Poller

TOPIC = "events"
RECORDS = 40
WAIT_S = 10.0


class Record:
    """As much of a Kafka message as the poller asks for."""

    def __init__(self, offset: int, value: bytes | None) -> None:
        self._offset = offset
        self._value = value

    def error(self) -> KafkaError | None:
        return None

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return 1, 1_767_225_600_000

    def key(self) -> bytes | None:
        return None

    def value(self) -> bytes | None:
        return self._value


class Fatal(Record):
    """What fetching returns once another consumer has the same group.instance.id."""

    def error(self) -> KafkaError:
        reason = KafkaError(KafkaError.FENCED_INSTANCE_ID).str()
        return KafkaError(KafkaError._FATAL, f"Fatal error: {reason}")


class Deleted(Record):
    """What fetching returns once retention has overtaken it."""

    def error(self) -> KafkaError:
        return KafkaError(KafkaError._AUTO_OFFSET_RESET)


class OnePartition:
    """A consumer that is assigned partition 0 and fetches one record at a time."""

    def __init__(self, records: list[Record]) -> None:
        self._records = records
        self._on_assign: Callable[..., None] | None = None
        self._on_revoke: Callable[..., None] | None = None
        self.paused = False

    def subscribe(self, topics: list[str], **callbacks: Any) -> None:
        self._on_assign, self._on_revoke = callbacks["on_assign"], callbacks["on_revoke"]

    def consume(self, _count: int, _timeout_s: float) -> list[Record]:
        if self._on_assign is not None:
            assign, self._on_assign = self._on_assign, None
            assign(self, [TopicPartition(TOPIC, 0)])
        elif self._records and not self.paused:
            return [self._records.pop(0)]
        else:
            time.sleep(0.001)
        return []

    def poll(self, _timeout_s: float) -> Record | None:
        return next(iter(self.consume(1, 0.0)), None)

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        return [TopicPartition(TOPIC, 0, 0)]

    def get_watermark_offsets(self, *_args: Any, **_options: Any) -> tuple[int, int]:
        return 0, RECORDS

    def incremental_assign(self, _partitions: list[TopicPartition]) -> None:
        """Nothing to keep."""

    incremental_unassign = incremental_assign

    def pause(self, _partitions: list[TopicPartition]) -> None:
        self.paused = True

    def resume(self, _partitions: list[TopicPartition]) -> None:
        self.paused = False

    def unsubscribe(self) -> None:
        assert self._on_revoke is not None
        self._on_revoke(self, [TopicPartition(TOPIC, 0)])

    def close(self) -> None:
        """Nothing to close."""


class Owner:
    """Lets everything happen; an error of the thread is kept."""

    failed: BaseException | None = None

    def on_ready(self) -> None:
        """Taking is the test's business."""

    on_assignment_changed = on_ready

    def on_revoking(self, _partitions: list[int]) -> Future[None]:
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def on_lost(self, partitions: list[int]) -> None:
        raise AssertionError(f"lost {partitions}")

    def on_deleted_unread(self, partition: int, offsets: int) -> None:
        raise AssertionError(f"{offsets} records of partition {partition} are gone")

    def on_failed(self, error: BaseException) -> None:
        self.failed = error


def test_a_second_worker_of_the_same_instance_is_named_as_the_reason() -> None:
    owner = Owner()
    poller = Poller(OnePartition([Fatal(0, None)]), TOPIC, owner)  # type: ignore[arg-type]
    poller.start()
    wait_until(lambda: bool(poller.assignments), "partition 0 is assigned", WAIT_S)
    poller.open(0, poller.assignments[0].epoch)
    poller.join(WAIT_S)
    assert isinstance(owner.failed, FencedError)
    assert "worker.instance_id" in str(owner.failed)


class Losing(OnePartition):
    """Loses its partition, and is given it again in a new generation, within one call."""

    lose = False

    def subscribe(self, topics: list[str], **callbacks: Any) -> None:
        super().subscribe(topics, **callbacks)
        self._callbacks = callbacks

    def consume(self, count: int, timeout_s: float) -> list[Record]:
        if self.lose:
            self.lose = False
            for name in ("on_lost", "on_assign", "on_revoke"):
                self._callbacks[name](self, [TopicPartition(TOPIC, 0)])
        return super().consume(count, timeout_s)


class Loser(Owner):
    """Asks on behalf of a commit that was on its way when the partitions were lost."""

    asked: Future[str] | None = None
    poller: Poller

    def on_lost(self, _partitions: list[int]) -> None:
        self.asked = self.poller.call(lambda _: "the metadata of the new generation")

    def on_revoking(self, partitions: list[int]) -> Future[Any]:
        # The job in hand is that commit; giving back waits for it, and serves what it asks.
        return self.asked or super().on_revoking(partitions)


def test_a_commit_on_its_way_learns_nothing_of_the_generation_after_a_loss() -> None:
    consumer, owner = Losing([]), Loser()
    owner.poller = Poller(consumer, TOPIC, owner)  # type: ignore[arg-type]
    owner.poller.start()
    wait_until(lambda: bool(owner.poller.assignments), "partition 0 is assigned", WAIT_S)
    consumer.lose = True
    owner.poller.join(WAIT_S)
    assert owner.asked is not None
    with pytest.raises(BrokerError, match="no member"):
        owner.asked.result(WAIT_S)


class Overtaken(OnePartition):
    """Hands out all at once: what it has, and that the next ones are gone, up to offset 30."""

    first = 0

    def consume(self, count: int, timeout_s: float) -> list[Record]:
        messages = super().consume(count, timeout_s)
        if messages:
            messages += self._records
            self._records = []
            self.first = 30
        return messages

    def get_watermark_offsets(self, *_args: Any, **_options: Any) -> tuple[int, int]:
        return self.first, RECORDS


class Counting(Owner):
    """Counts what is gone."""

    deleted = 0

    def on_deleted_unread(self, partition: int, offsets: int) -> None:
        self.deleted += offsets


def test_records_that_came_before_the_deleted_ones_do_not_count_as_lost() -> None:
    records = [Record(offset, b"") for offset in range(20)]
    consumer, owner = Overtaken([*records, Deleted(20, None)]), Counting()
    poller = Poller(consumer, TOPIC, owner)  # type: ignore[arg-type]
    poller.start()
    wait_until(lambda: bool(poller.assignments), "partition 0 is assigned", WAIT_S)
    poller.open(0, poller.assignments[0].epoch)
    wait_until(lambda: owner.deleted > 0, "the deleted ones are noticed", WAIT_S)
    poller.leave()
    assert owner.deleted == 10
    assert owner.failed is None


class Clinging(OnePartition):
    """Does not give its partition back."""

    def unsubscribe(self) -> None:
        """Nothing comes of it."""


def test_a_member_that_cannot_leave_ends_instead_of_joining_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.transport.poller.LEAVE_DEADLINE_S", 0.1)
    owner = Owner()
    poller = Poller(Clinging([]), TOPIC, owner)  # type: ignore[arg-type]
    poller.start()
    wait_until(lambda: bool(poller.assignments), "partition 0 is assigned", WAIT_S)
    poller.join_anew()
    poller.join(WAIT_S)
    assert isinstance(owner.failed, BrokerError)
    assert "partitions [0] could not be given back" in str(owner.failed)
