"""librdkafka's transactional producer and admin client, as far as the transport uses them."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Collection
from types import SimpleNamespace
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from load.simulation.broker import Member
from load.simulation.network import Network
from load.simulation.scheduler import Process, Signal
from load.simulation.threads import Future

BATCH_RECORDS = 20
QUEUE_RECORDS = 60
SEND_WITHIN_S = 300.0
_STATES = {
    "empty": "Empty",
    "joining": "PreparingRebalance",
    "syncing": "CompletingRebalance",
    "stable": "Stable",
}
_FENCED = {KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED}


class Producer:
    """``confluent_kafka.Producer`` with a ``transactional.id``.

    Records leave in the background, in batches, one after the other. Errors follow
    librdkafka 2.15: a fenced producer has a fatal error, which ``produce`` reports as
    ``_FATAL`` and transaction calls by its own code; other failures of a transaction can
    only be answered by aborting it.
    """

    def __init__(
        self, network: Network, process: Process, transactional_id: str, timeout_s: float
    ) -> None:
        self._network = network
        self._process = process
        self._id = transactional_id
        self._timeout_s = timeout_s
        self._epoch = -1
        self._batch = 0
        self._queue: deque[tuple[str, int, bytes | None, bytes | None]] = deque()
        self._in_flight = False
        self._queued, self._idle = Signal(), Signal()
        self._in_transaction = self._known_to_broker = self._committing = False
        self._fatal: KafkaError | None = None
        self._abortable: KafkaError | None = None
        network.scheduler.spawn(process, self._send)

    def init_transactions(self, timeout: float) -> None:
        """Take the transactional id over from an earlier process."""
        broker = self._network.broker
        _, self._epoch = self._call(
            "init_transactions", lambda: broker.init_producer(self._id, self._timeout_s), timeout
        )

    def begin_transaction(self) -> None:
        """Begin a transaction; the broker hears of it with the first record."""
        self._refuse_fatal()
        self._in_transaction, self._known_to_broker, self._abortable = True, False, None

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int,
        on_delivery: Callable[..., None],
        headers: object = None,
    ) -> None:
        """Queue a record; no headers are simulated."""
        if self._fatal is not None:
            raise KafkaException(KafkaError(KafkaError._FATAL, self._fatal.str()))
        if self._abortable is not None or self._committing:
            raise KafkaException(KafkaError(KafkaError._STATE))
        if len(self._queue) >= QUEUE_RECORDS:
            self._network.faults.count("full send queue")
            raise BufferError
        self._queue.append((topic, partition, key, value))
        self._queued.notify()

    def poll(self, timeout: float) -> int:
        """Let time pass; delivery reports are not used with transactions."""
        self._network.scheduler.wait(self._idle if self._idle.waiting else None, timeout)
        return 0

    def send_offsets_to_transaction(
        self, offsets: list[TopicPartition], member: Member, timeout: float
    ) -> None:
        """Add the offsets to the transaction."""
        self._refuse_failed()
        if member is None:  # what librdkafka returns when the consumer has no member id yet
            raise KafkaException(KafkaError(KafkaError._INVALID_ARG))
        self._known_to_broker = True
        positions = {(p.topic, p.partition): p.offset for p in offsets}
        broker, epoch = self._network.broker, self._epoch
        self._call(
            "send_offsets",
            lambda: broker.send_offsets(self._id, epoch, member.group, member, positions),
            timeout,
        )

    def commit_transaction(self, timeout: float) -> None:
        """Send what is queued, then commit; after a timeout it is resumed by calling it again."""
        end_s = self._network.scheduler.now_s + timeout
        self._refuse_failed()
        if not self._flushed(timeout):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, retriable=True))
        self._refuse_failed()
        if self._known_to_broker:
            self._committing = True
            self._end(True, end_s - self._network.scheduler.now_s)
        self._committing = self._in_transaction = False

    def abort_transaction(self, timeout: float) -> None:
        """Forget what is queued, then abort."""
        self._refuse_fatal()
        if self._committing:
            raise KafkaException(KafkaError(KafkaError._STATE))
        end_s = self._network.scheduler.now_s + timeout
        self._queue.clear()
        if not self._flushed(timeout):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, retriable=True))
        self._refuse_fatal()
        if self._known_to_broker:
            self._end(False, end_s - self._network.scheduler.now_s)
        self._in_transaction, self._abortable = False, None

    def _end(self, commit: bool, timeout_s: float) -> None:
        broker, epoch = self._network.broker, self._epoch
        self._call(
            "commit" if commit else "abort",
            lambda: broker.end_transaction(self._id, epoch, commit),
            timeout_s,
        )

    def _call(self, kind: str, request: Callable[[], Any], timeout_s: float) -> Any:
        try:
            return self._network.call(self._process, kind, request, timeout_s, retriable=True)
        except KafkaException as error:
            raise self._failed(error) from None

    def _failed(self, error: KafkaException) -> KafkaException:
        """Keep what an error means for the transaction, and say it as librdkafka does."""
        cause: KafkaError = error.args[0]
        if cause.code() in _FENCED:
            self._fatal = KafkaError(KafkaError._FENCED, fatal=True)
            return KafkaException(self._fatal)
        if cause.retriable() or cause.fatal():
            return error
        self._abortable = KafkaError(cause.code(), cause.str(), txn_requires_abort=True)
        return KafkaException(self._abortable)

    def _refuse_fatal(self) -> None:
        if self._fatal is not None:
            raise KafkaException(self._fatal)

    def _refuse_failed(self) -> None:
        self._refuse_fatal()
        if self._abortable is not None:
            raise KafkaException(self._abortable)

    def _flushed(self, timeout_s: float) -> bool:
        return self._network.scheduler.wait_for(
            lambda: not self._queue and not self._in_flight, self._idle, timeout_s
        )

    def _send(self) -> None:
        scheduler = self._network.scheduler
        while True:
            scheduler.wait_for(lambda: bool(self._queue), self._queued, None)
            scheduler.wait(None, self._network.faults.latency_s())
            while self._queue:
                self._in_flight = True
                self._send_batch()
                self._in_flight = False
            self._idle.notify()

    def _send_batch(self) -> None:
        topic, partition, *_ = self._queue[0]
        batch = [queued for queued in self._queue if queued[:2] == (topic, partition)]
        self._queue = deque(queued for queued in self._queue if queued[:2] != (topic, partition))
        self._queue.extendleft(reversed(batch[BATCH_RECORDS:]))
        records = [(key, value) for _, _, key, value in batch[:BATCH_RECORDS]]
        self._batch += 1
        self._known_to_broker = True
        broker, epoch, number = self._network.broker, self._epoch, self._batch
        kind = "rows" if topic.endswith("changelog") else "outputs"
        try:
            self._call(
                kind,
                lambda: broker.produce(self._id, epoch, number, topic, partition, records),
                SEND_WITHIN_S,
            )
        except KafkaException:
            self._queue.clear()  # the transaction cannot be completed; its calls will say why


class Admin:
    """``AdminClient``: ends of partitions without isolation, partitions of topics, groups."""

    def __init__(self, network: Network, process: Process) -> None:
        self._network = network
        self._process = process

    def list_offsets(
        self, request: dict[TopicPartition, Any], request_timeout: float
    ) -> dict[TopicPartition, Future[Any]]:
        """The ends of partitions."""
        broker = self._network.broker
        futures: dict[TopicPartition, Future[Any]] = {p: Future() for p in request}
        try:
            ends = self._network.call(
                self._process,
                "list_offsets",
                lambda: {p: broker.log(p.topic, p.partition).end for p in request},
                request_timeout,
            )
        except KafkaException as error:
            for future in futures.values():
                future.set_exception(error)
        else:
            for partition, future in futures.items():
                future.set_result(SimpleNamespace(offset=ends[partition]))
        return futures

    def list_topics(self, topic: str, timeout: float) -> Any:
        """A topic's metadata, of which only the number of partitions is used."""
        topics = self._network.broker.topics
        partitions = self._network.call(
            self._process, "list_topics", lambda: dict(enumerate(topics[topic])), timeout
        )
        return SimpleNamespace(topics={topic: SimpleNamespace(partitions=partitions)})

    def list_groups(self, group: str, timeout: float) -> list[Any]:
        """A group's state and members, with their assignments as Kafka encodes them."""
        return [
            self._network.call(self._process, "list_groups", lambda: self._group(group), timeout)
        ]

    def _group(self, name: str) -> Any:
        group = self._network.broker.group(name)
        members = [
            SimpleNamespace(
                # What follows a static member's instance id is random, and 36 characters long.
                id=f"{member.instance}-{member.id:_>36}",
                assignment=encode_assignment(group.topic, member.partitions),
            )
            for member in group.members.values()
        ]
        return SimpleNamespace(state=_STATES[group.state], members=members)


def encode_assignment(topic: str, partitions: Collection[int]) -> bytes:
    """Kafka's "consumer protocol": version, topics with their partitions, no user data."""
    name = topic.encode()
    return struct.pack(
        f">hih{len(name)}si{len(partitions)}ii",
        *(1, 1, len(name), name, len(partitions), *sorted(partitions), -1),
    )
