"""The polling thread: owns the librdkafka consumer and talks to the group.

Rebalance callbacks arrive only while polling, so the thread polls from
subscription to departure. What it fetches waits in a bounded buffer; when that
stays full, partitions are paused and polling goes on.

Only this thread calls the consumer: with some versions of the client, a call from
another thread waits for as long as one fetch follows the other. Others ask through
:meth:`Poller.call`, which is served also while a rebalance callback waits for a commit.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from worker.core.errors import BrokerError, FencedError, TopicError
from worker.kafka_config import describe, is_passing, retried
from worker.transport.assignment import Assignment, PollerListener, Sight
from worker.transport.backlog import Backlog
from worker.transport.delivery import Delivery, chunks_by_partition, traceparents
from worker.transport.retention import first_readable

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_FETCH_EVENTS = 10_000
MAX_BUFFERED_EVENTS = 40_000
MAX_BUFFERED_BYTES = 64 * 1024 * 1024
FETCH_WAIT_S = 0.02
"""How long a fetch may wait for more events: bounds what batching adds to latency."""
FULL_BUFFER_PATIENCE_S = 0.5
"""How long to wait for room before pausing: resuming makes librdkafka fetch anew."""
BROKER_DEADLINE_S = 30.0
UNDECIDED_LOOK_S = 2.0
UNDECIDED_DEADLINE_S = 90.0
"""More than a transaction's timeout, and the ten seconds in which brokers look for such ones."""
HAND_OVER_DEADLINE_S = 120.0
LAG_EVERY_S = 1.0
LEAVE_DEADLINE_S = 10.0

_TOPIC_ERRORS = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)


class Poller(threading.Thread):
    """Fetches chunks of one topic as a member of a consumer group.

    Args:
        reads_headers: look for records' trace contexts.
    """

    def __init__(
        self,
        consumer: Consumer,
        topic: str,
        listener: PollerListener,
        reads_headers: bool = False,
    ) -> None:
        super().__init__(name="kafka-poller", daemon=True)
        self._reads_headers = reads_headers
        self._consumer = consumer
        self._topic = topic
        self._listener = listener
        self._lock = threading.Condition()
        self._assignments: dict[int, Assignment] = {}
        self._positions: dict[int, int] = {}
        self._open: set[int] = set()
        self._buffer: deque[Delivery] = deque()
        self._buffered_events = 0
        self._buffered_bytes = 0
        self._throttled = False
        self._epoch = 0
        self._requests: SimpleQueue[tuple[Future[Any], Callable[[Consumer], Any]]] = SimpleQueue()
        self._lag: dict[int, int] = {}
        self._lag_read_s = 0.0
        self._backlog = Backlog()
        self._joining_anew = threading.Event()
        self._leaving = threading.Event()
        self._ended = threading.Event()
        self._turns = self._drained = 0
        self._at_end: dict[int, int] = {}

    @property
    def assignments(self) -> dict[int, Assignment]:
        """The partitions owned now; a copy."""
        with self._lock:
            return dict(self._assignments)

    def owns(self, partition: int, epoch: int) -> bool:
        """Whether a partition still belongs to the assignment numbered ``epoch``."""
        assignment = self.assignments.get(partition)
        return assignment is not None and assignment.epoch == epoch

    def take(self) -> Delivery | None:
        """The next delivery, None when there is none."""
        with self._lock:
            if not self._buffer:
                return None
            delivery = self._buffer.popleft()
            self._buffered_events -= len(delivery.chunk)
            self._buffered_bytes -= delivery.size_bytes
            self._lock.notify_all()
            return delivery

    def call(self, request: Callable[[Consumer], T]) -> Future[T]:
        """Run ``request`` on the polling thread, between two fetches.

        The future fails with BrokerError when this member has left the group or lost its place.
        """
        future: Future[T] = Future()
        self._requests.put((future, request))
        with self._lock:
            self._lock.notify_all()
        if self._ended.is_set():
            self._refuse_requests()
        return future

    def open(self, partition: int, epoch: int) -> None:
        """Start fetching a partition whose state is ready, if still owned under ``epoch``."""
        self.call(lambda _: self._open_now(partition, epoch))

    def lag(self) -> dict[int, int]:
        """Records between each partition's fetch position and its end a second ago or less."""
        return self._lag

    def sight(self) -> Sight:
        """How far the thread is; waits for nothing."""
        return Sight(
            turns=self._turns,
            drained=self._drained,
            buffered_events=self._buffered_events,
            positions={
                partition: max(position, self._at_end.get(partition, 0))
                for partition, position in self._positions.copy().items()
                if partition in self._open
            },
        )

    def join_anew(self) -> None:
        """Give partitions back, leave the group and join it again, so that it divides anew."""
        self._joining_anew.set()

    def leave(self) -> None:
        """Give partitions back and leave the group; returns when the thread has ended."""
        self._leaving.set()
        with self._lock:
            self._lock.notify_all()
        if self.is_alive():
            self.join(2 * LEAVE_DEADLINE_S)

    def run(self) -> None:
        """Poll until told to leave, or until something fails."""
        try:
            self._join_group()
            while not self._leaving.is_set():
                self._turns += 1
                if self._joining_anew.is_set():
                    self._joining_anew.clear()
                    self._leave_group()
                    if self.assignments:  # reading on would miss what came while leaving
                        raise BrokerError(
                            f"partitions {sorted(self.assignments)} could not be given back "
                            f"within {LEAVE_DEADLINE_S:.0f} s; the worker ends itself and goes "
                            "on where it last committed."
                        )
                    self._join_group()
                self._serve_requests()
                self._poll()
                self._read_lag()
            self._leave_group()
        except KafkaException as error:
            self._listener.on_failed(BrokerError(f"Kafka: {describe(error)}."))
        except Exception as error:  # noqa: BLE001 (without polling, the process must not go on)
            self._listener.on_failed(error)
        finally:
            self._ended.set()
            self._refuse_requests()
            self._consumer.close()

    def _serve_requests(self, wait_s: float = 0.0) -> None:
        while True:
            try:
                future, request = self._requests.get(timeout=wait_s or None, block=wait_s > 0)
            except Empty:
                return
            try:
                if self._ended.is_set():
                    raise _not_a_member()
                future.set_result(request(self._consumer))
            except Exception as error:  # noqa: BLE001 (it belongs to whoever asked)
                future.set_exception(error)
            wait_s = 0.0

    def _refuse_requests(self) -> None:
        while True:
            try:
                future, _ = self._requests.get_nowait()
            except Empty:
                return
            future.set_exception(_not_a_member())

    def _read_lag(self) -> None:
        now_s = time.monotonic()
        if now_s - self._lag_read_s < LAG_EVERY_S:
            return
        self._lag_read_s = now_s
        lag = {}
        for partition, position in self._positions.items():
            _, end = self._consumer.get_watermark_offsets(
                TopicPartition(self._topic, partition), cached=True
            )
            lag[partition] = max(0, end - max(position, self._at_end.get(partition, 0)))
        self._lag = lag
        self._backlog.look(sum(lag.values()))

    def _poll(self) -> None:
        if self._has_room():
            self._throttle(False)
            messages = self._consumer.consume(MAX_FETCH_EVENTS, FETCH_WAIT_S)
            self._drained += len(messages) < MAX_FETCH_EVENTS
            self._accept(messages)
            return
        with self._lock:
            if not self._throttled:
                self._lock.wait_for(
                    lambda: (
                        self._has_room() or self._leaving.is_set() or not self._requests.empty()
                    ),
                    FULL_BUFFER_PATIENCE_S,
                )
        if not self._has_room() and self._requests.empty():
            self._throttle(True)
            message = self._consumer.poll(FETCH_WAIT_S)
            self._accept([message] if message is not None else [])

    def _has_room(self) -> bool:
        return (
            self._buffered_events < MAX_BUFFERED_EVENTS
            and self._buffered_bytes < MAX_BUFFERED_BYTES
        )

    def _throttle(self, on: bool) -> None:
        if on == self._throttled:
            return
        partitions = [TopicPartition(self._topic, p) for p in sorted(self._open)]
        (self._consumer.pause if on else self._consumer.resume)(partitions)
        self._throttled = on

    def _accept(self, messages: list[Message]) -> None:
        records, deleted = [], []
        for message in messages:
            error = message.error()
            if error is None:
                records.append(message)
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                deleted.append(_number(message.partition()))
            else:
                self._take_note(message, error)
        if records:
            self._keep(records)
        for partition in deleted:  # only now: what came before is not lost
            self._skip_deleted(partition)

    def _keep(self, records: list[Message]) -> None:
        traces = traceparents(records) if self._reads_headers else {}
        with self._lock:
            for chunk in chunks_by_partition(self._topic, records):
                assignment = self._assignments.get(chunk.partition)
                if assignment is None:
                    continue
                if chunk.partition not in self._open:
                    raise BrokerError(
                        f"partition {chunk.partition} delivered records while it was paused; "
                        "restart the worker to read them again."
                    )
                delivery = Delivery(
                    chunk,
                    assignment.epoch,
                    self._positions[chunk.partition],
                    traces.get(chunk.partition, {}),
                )
                self._positions[chunk.partition] = delivery.end
                self._buffer.append(delivery)
                self._buffered_events += len(chunk)
                self._buffered_bytes += delivery.size_bytes
        self._listener.on_ready()

    def _take_note(self, message: Message, error: KafkaError) -> None:
        if error.code() == KafkaError._PARTITION_EOF:
            # Beyond the last record there may be markers of transactions: nothing to wait for.
            self._at_end[_number(message.partition())] = _number(message.offset())
            return
        if error.code() in _TOPIC_ERRORS:
            raise TopicError(
                f"topic {self._topic!r} does not exist; create it with "
                "`driftdetector topics apply`."
            )
        if _is_fenced(error):
            raise FencedError(
                "another worker with the same worker.instance_id has taken this one's place; "
                "give each of them its own."
            )
        if not is_passing(error):
            raise BrokerError(f"reading topic {self._topic!r}: {describe(error)}.")
        log.warning(
            "reading topic %s: %s", self._topic, describe(error), extra={"topic": self._topic}
        )

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        committed = self._committed(consumer, partitions)
        for partition in committed:
            if partition.error is not None:
                raise KafkaException(partition.error)
            self._turns += 1
            number = _number(partition.partition)
            partition.offset = self._first_readable(number, partition.offset)
        consumer.incremental_assign(committed)
        # Nothing may be fetched before the partition's state is there; open() resumes it.
        consumer.pause(committed)
        with self._lock:
            self._epoch += 1
            for partition in committed:
                self._assignments[partition.partition] = Assignment(self._epoch, partition.offset)
                self._positions[partition.partition] = partition.offset
        numbers = sorted(p.partition for p in partitions)
        log.info("assigned partitions %s", numbers, extra={"partitions": numbers})
        self._listener.on_assignment_changed()

    def _committed(
        self, consumer: Consumer, partitions: list[TopicPartition]
    ) -> list[TopicPartition]:
        """Committed offsets; they are unknown while a killed worker's last commit is undecided."""
        deadline_s = time.monotonic() + UNDECIDED_DEADLINE_S
        while True:
            self._turns += 1
            self._serve_requests()  # without which the partitions that stay are not committed
            try:
                return retried(
                    lambda: consumer.committed(partitions, timeout=UNDECIDED_LOOK_S),
                    BROKER_DEADLINE_S,
                )
            except KafkaException as error:
                if error.args[0].code() != KafkaError._TIMED_OUT or time.monotonic() > deadline_s:
                    raise

    def _first_readable(self, partition: int, position: int) -> int:
        ends = retried(
            lambda: self._consumer.get_watermark_offsets(
                TopicPartition(self._topic, partition), timeout=BROKER_DEADLINE_S
            ),
            BROKER_DEADLINE_S,
        )
        return first_readable(
            self._topic, partition, position, ends, self._listener.on_deleted_unread
        )

    def _skip_deleted(self, partition: int) -> None:
        """Go on after the records that were deleted while this worker was behind."""
        position = self._positions.get(partition)
        if position is None:
            return
        offset = self._first_readable(partition, position)
        # The client has stopped this partition, and only takes it up when it is assigned anew.
        self._consumer.incremental_unassign([TopicPartition(self._topic, partition)])
        self._consumer.incremental_assign([TopicPartition(self._topic, partition, offset)])
        if self._throttled or partition not in self._open:
            self._consumer.pause([TopicPartition(self._topic, partition)])

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = sorted(partition.partition for partition in partitions)
        committed = self._listener.on_revoking(numbers)
        deadline_s = time.monotonic() + HAND_OVER_DEADLINE_S
        while not committed.done() and time.monotonic() < deadline_s:
            self._turns += 1
            self._serve_requests(wait_s=0.005)
        if not committed.done():
            raise BrokerError(
                f"the last commit before giving back partitions {numbers} took longer than "
                f"{HAND_OVER_DEADLINE_S:.0f} s; the worker stops without it."
            )
        committed.result()
        self._forget(numbers)
        consumer.incremental_unassign(partitions)
        log.info("gave back partitions %s", numbers, extra={"partitions": numbers})
        self._listener.on_assignment_changed()

    def _on_lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = sorted(partition.partition for partition in partitions)
        self._forget(numbers)
        self._listener.on_lost(numbers)
        self._leaving.set()
        # The member may be given a new generation before this thread is done. A commit that is
        # still on its way must not get hold of that: it would pass for a rightful one.
        self._ended.set()

    def _forget(self, partitions: list[int]) -> None:
        with self._lock:
            for partition in partitions:
                self._assignments.pop(partition, None)
                self._positions.pop(partition, None)
                self._at_end.pop(partition, None)
                self._open.discard(partition)
            kept = [d for d in self._buffer if d.chunk.partition in self._assignments]
            self._buffer = deque(kept)
            self._buffered_events = sum(len(delivery.chunk) for delivery in kept)
            self._buffered_bytes = sum(delivery.size_bytes for delivery in kept)

    def _open_now(self, partition: int, epoch: int) -> None:
        assignment = self._assignments.get(partition)
        if assignment is None or assignment.epoch != epoch:
            return
        self._open.add(partition)
        if not self._throttled:
            self._consumer.resume([TopicPartition(self._topic, partition)])

    def _join_group(self) -> None:
        self._consumer.subscribe(
            [self._topic],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )

    def _leave_group(self) -> None:
        # close() alone keeps a static member's partitions reserved until its session
        # times out; unsubscribing first hands them to the others at once.
        self._consumer.unsubscribe()
        deadline_s = time.monotonic() + LEAVE_DEADLINE_S
        while self.assignments and time.monotonic() < deadline_s:
            self._consumer.poll(FETCH_WAIT_S)


def _not_a_member() -> BrokerError:
    return BrokerError("the worker is no member of its consumer group any more.")


def _number(value: int | None) -> int:
    assert value is not None  # the client's types allow what it never hands out
    return value


def _is_fenced(error: KafkaError) -> bool:
    # As a fatal error it has no code of its own any more, only its words.
    fenced = KafkaError(KafkaError.FENCED_INSTANCE_ID)
    return error.code() == fenced.code() or (
        error.code() == KafkaError._FATAL and fenced.str() in error.str()
    )
