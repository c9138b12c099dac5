"""librdkafka's consumer, as far as the transport uses it.

Its group membership runs as a task of its own, as librdkafka's main thread does: it joins,
syncs and sends heartbeats, and queues assign, revoke and lost, which the application hears
of inside ``consume`` or ``poll``. Until it has answered, the member does not join again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException, TopicPartition

from load.simulation.broker import Member, Stored
from load.simulation.network import ANSWER_WITHIN_S, Network
from load.simulation.scheduler import Process, Signal, Task

HEARTBEAT_EVERY_S = 1.0
EPOCH_MS = 1_700_000_000_000
"""What the calendar says when the virtual clock says zero."""


class Message:
    """``confluent_kafka.Message``: a record, or an event in the place of one."""

    __slots__ = ("_error", "_offset", "_partition", "_record", "_topic")

    def __init__(
        self, topic: str, partition: int, offset: int, record: Stored | None, error: Any = None
    ) -> None:
        self._topic, self._partition, self._offset = topic, partition, offset
        self._record, self._error = record, error

    def error(self) -> KafkaError | None:
        """What happened, None for a record."""
        return self._error  # type: ignore[no-any-return]

    def topic(self) -> str:
        """Topic."""
        return self._topic

    def partition(self) -> int:
        """Partition."""
        return self._partition

    def offset(self) -> int:
        """Offset; of an end-of-partition event, the position."""
        return self._offset

    def key(self) -> bytes | None:
        """Key."""
        return self._record.key if self._record else None

    def value(self) -> bytes | None:
        """Value; None for a tombstone."""
        return self._record.value if self._record else None

    def timestamp(self) -> tuple[int, int]:
        """Type (LogAppendTime) and milliseconds."""
        assert self._record is not None
        return 2, EPOCH_MS + round(self._record.time_s * 1000)


@dataclass
class _Fetching:
    """Where reading a partition stands."""

    position: int
    start: int
    paused: bool = False
    end_told: int = -1


@dataclass(frozen=True)
class _Rebalance:
    """What the application has to be told; ``then_add`` follows a revocation."""

    kind: str
    partitions: frozenset[int]
    then_add: frozenset[int] | None = None
    rejoin: bool = False


class Consumer:
    """``confluent_kafka.Consumer``; a member of a group after ``subscribe``."""

    def __init__(
        self,
        network: Network,
        process: Process,
        group: str,
        instance: str | None = None,
        session_s: float = 10.0,
        *,
        tell_end: bool = False,
        committed_only: bool = True,
    ) -> None:
        self._network, self._process, self._scheduler = network, process, network.scheduler
        self._group_name, self._instance, self._session_s = group, instance, session_s
        self._group = network.broker.group(group)
        self._tell_end = tell_end
        self._committed_only = committed_only
        self._fetching: dict[tuple[str, int], _Fetching] = {}
        self._events: deque[_Rebalance] = deque()
        self._errors: deque[Message] = deque()
        self._wake, self._nudge = Signal(), Signal()
        self._topic = ""
        self._callbacks: dict[str, Callable[..., None]] = {}
        self._member_id, self._generation = "", -1
        self._owned: frozenset[int] = frozenset()
        self._subscribed = self._rejoin = self._lost = self._must_leave = self._closed = False
        self._telling = self._joining = self._fenced = False
        self._postponed: Callable[[], None] | None = None
        self._seen_s = 0.0
        self._membership: Task | None = None

    # -- reading -------------------------------------------------------------------------

    def consume(self, num_messages: int, timeout: float) -> list[Message]:
        """Records and events; rebalance callbacks are called in here."""
        end_s = self._scheduler.now_s + timeout
        while True:
            while self._events:
                self._tell(self._events.popleft())
            if self._errors:
                return [self._errors.popleft()]
            messages = self._fetch(num_messages)
            left_s = end_s - self._scheduler.now_s
            if messages or left_s <= 0:
                return messages
            self._scheduler.wait(self._wake, left_s)

    def poll(self, timeout: float) -> Message | None:
        """One record or event."""
        return next(iter(self.consume(1, timeout)), None)

    def _fetch(self, count: int) -> list[Message]:
        messages: list[Message] = []
        if self._network.down:
            return messages
        faults = self._network.faults
        for (topic, partition), fetching in self._fetching.items():
            if len(messages) == count:
                break
            if fetching.paused:
                continue
            if error := faults.fetch_error(topic):
                messages.append(Message(topic, partition, fetching.position, None, error))
                continue
            log = self._network.broker.log(topic, partition)
            if self._topic:  # a member fetches anew after each pause
                fetching.position -= faults.steps_back(fetching.position - fetching.start)
            size = min(count - len(messages), faults.chunk_size())
            records, fetching.position = log.read(fetching.position, size, self._committed_only)
            messages += [Message(topic, partition, r.offset, r) for r in records]
            end = log.stable_end if self._committed_only else log.end
            at_end = self._tell_end and fetching.position >= end and len(messages) < count
            if at_end and fetching.end_told != fetching.position:
                fetching.end_told = fetching.position
                end_of_partition = KafkaError(KafkaError._PARTITION_EOF)
                messages.append(
                    Message(topic, partition, fetching.position, None, end_of_partition)
                )
        return messages

    def assign(self, partitions: list[TopicPartition]) -> None:
        """Read exactly these partitions, from their offsets on."""
        self._fetching.clear()
        self.incremental_assign(partitions)

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        """Read these too."""
        for p in partitions:
            self._fetching[p.topic, p.partition] = _Fetching(p.offset, p.offset)

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        """Read these no more."""
        for p in partitions:
            self._fetching.pop((p.topic, p.partition), None)

    def pause(self, partitions: list[TopicPartition]) -> None:
        """Stop reading for a while."""
        for p in partitions:
            self._fetching[p.topic, p.partition].paused = True

    def resume(self, partitions: list[TopicPartition]) -> None:
        """Go on reading."""
        for p in partitions:
            self._fetching[p.topic, p.partition].paused = False

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        """Committed offsets; waits for transactions that are about to change them."""
        wanted = [(p.topic, p.partition) for p in partitions]
        offsets = self._network.call(
            self._process, "committed", lambda: self._group.fetch_offsets(wanted), timeout
        )
        return [
            TopicPartition(topic, partition, offset if offset >= 0 else OFFSET_INVALID)
            for (topic, partition), offset in offsets.items()
        ]

    def get_watermark_offsets(
        self, partition: TopicPartition, timeout: float = 0.0, cached: bool = False
    ) -> tuple[int, int]:
        """First offset, and the end as this consumer's isolation sees it."""
        log = self._network.broker.log(partition.topic, partition.partition)
        if cached:
            return log.start, log.end
        return self._network.call(
            self._process, "list_offsets", lambda: (log.start, log.stable_end), timeout
        )

    # -- group membership, as the application sees it -------------------------------------

    def subscribe(self, topics: list[str], **callbacks: Callable[..., None]) -> None:
        """Join the group; again, after ``unsubscribe``."""
        (self._topic,) = topics
        self._callbacks = callbacks
        if self._fenced:
            raise KafkaException(KafkaError(KafkaError._FATAL))
        self._group.topic = self._topic
        self._group.partitions = len(self._network.broker.topics[self._topic])
        self._group.changed = self._network.group_changed.notify
        if self._membership is None:
            self._membership = self._scheduler.spawn(self._process, self._be_member)
        else:
            self._network.faults.count("joined anew")
        self._unless_rebalancing(self._subscribe_now)

    def consumer_group_metadata(self) -> Member:
        """For whom to commit; whatever the membership task knows at the moment."""
        return Member(self._group_name, self._generation, self._member_id, self._instance)

    def unsubscribe(self) -> None:
        """Give everything back, then leave; the partitions are revoked in ``poll``."""
        self._unless_rebalancing(self._unsubscribe_now)

    def close(self) -> None:
        """Give everything back; a static member keeps its place in the group."""
        if self._closed or not self._process.alive:
            return
        self._closed = True
        self._subscribed = self._rejoin = False
        self._nudge.notify()
        self._events.clear()
        if self._owned:
            self._tell(_Rebalance("revoke", self._owned))

    def _unless_rebalancing(self, change: Callable[[], None]) -> None:
        """Change the subscription, or do so after the rebalance; only the last change counts."""
        self._postponed = None
        if self._joining or self._awaits_application:
            self._postponed = change
        else:
            change()

    def _subscribe_now(self) -> None:
        if not self._subscribed:
            self._subscribed = self._rejoin = True
            self._nudge.notify()

    def _unsubscribe_now(self) -> None:
        self._subscribed = self._rejoin = False
        self._must_leave = bool(self._member_id)
        if self._owned and not self._lost:
            self._queue(_Rebalance("revoke", self._owned))
        self._nudge.notify()

    def _tell(self, event: _Rebalance) -> None:
        partitions = [TopicPartition(self._topic, p) for p in sorted(event.partitions)]
        lost = event.kind == "revoke" and self._lost
        self._network.faults.count(f"{'lost' if lost else event.kind} callback")
        self._telling = True
        try:
            self._callbacks[f"on_{'lost' if lost else event.kind}"](self, partitions)
        finally:
            self._telling = False
            if event.kind == "revoke":
                self.incremental_unassign(partitions)
                self._owned -= event.partitions
                self._lost = False
            else:
                self._owned |= event.partitions
        if event.then_add is not None:
            self._queue(_Rebalance("assign", event.then_add, rejoin=True))
        elif self._owned and (self._lost or self._must_leave):
            self._queue(_Rebalance("revoke", self._owned))
        elif (event.rejoin or lost) and self._subscribed:
            self._rejoin = True
        self._nudge.notify()

    def _queue(self, event: _Rebalance) -> None:
        self._events.append(event)
        self._wake.notify()

    @property
    def _awaits_application(self) -> bool:
        """Whether the application has not yet answered an assign, revoke or lost."""
        return self._telling or bool(self._events)

    # -- the membership task ----------------------------------------------------------------

    def _be_member(self) -> None:
        while not self._closed or self._may_leave:
            if self._postponed is not None and not self._awaits_application:
                change, self._postponed = self._postponed, None
                change()
            if self._may_leave:
                self._leave()
            elif self._rejoin and not self._awaits_application:
                self._rejoin = False
                self._join()
                self._joining = False
            else:
                self._scheduler.wait(self._nudge, HEARTBEAT_EVERY_S)
                if self._session_is_over():
                    self._member_id = ""
                    self._lose_everything()
                elif self._subscribed and not self._rejoin:
                    self._heartbeat()

    @property
    def _may_leave(self) -> bool:
        return self._must_leave and not self._owned and not self._awaits_application

    def _session_is_over(self) -> bool:
        # Not looked at before an answer that is already on its way, in half of the cases.
        return (
            bool(self._member_id)
            and self._scheduler.now_s - self._seen_s > self._session_s
            and self._network.faults.coin()
        )

    def _request(self, kind: str, request: Callable[[], Any]) -> Any:
        return self._network.call(self._process, kind, request, self._session_s)

    def _join(self) -> None:
        instance, group, scheduler = self._instance, self._group, self._scheduler
        self._joining = bool(self._member_id)  # else there is nothing yet that could be left
        try:
            member_id = self._request(
                "join",
                lambda: group.join(
                    self._member_id, instance, self._session_s, self._owned, scheduler.now_s
                ),
            )
            while (generation := group.joined(member_id, instance)) is None:
                scheduler.wait(self._network.group_changed, HEARTBEAT_EVERY_S)
            self._member_id, self._generation = member_id, generation
            self._joining = True
            scheduler.wait(None, self._network.faults.latency_s())

            def sync() -> frozenset[int] | None:
                return group.sync(member_id, instance, generation, scheduler.now_s)

            partitions = self._request("sync", sync)
            while partitions is None:
                scheduler.wait(self._network.group_changed, HEARTBEAT_EVERY_S)
                partitions = sync()
        except KafkaException as error:
            self._failed(error.args[0].code())
            self._rejoin = self._subscribed and not self._awaits_application
            return
        self._seen_s = scheduler.now_s
        if not self._subscribed:
            return
        added, revoked = partitions - self._owned, self._owned - partitions
        if revoked:
            self._queue(_Rebalance("revoke", revoked, then_add=added))
        else:
            self._queue(_Rebalance("assign", added))

    def _heartbeat(self) -> None:
        beat = lambda: self._group.heartbeat(  # noqa: E731
            self._member_id, self._instance, self._generation, self._scheduler.now_s
        )
        try:
            self._request("heartbeat", beat)
        except KafkaException as error:
            self._failed(error.args[0].code())
        else:
            self._seen_s = self._scheduler.now_s

    def _failed(self, code: int) -> None:
        if code == KafkaError.REBALANCE_IN_PROGRESS:
            self._seen_s = self._scheduler.now_s
            self._rejoin = self._subscribed and not self._awaits_application
        elif code == KafkaError.UNKNOWN_MEMBER_ID:
            self._member_id = ""
            self._lose_everything()
        elif code == KafkaError.ILLEGAL_GENERATION:
            self._generation = -1
            self._lose_everything()
        elif code == KafkaError.FENCED_INSTANCE_ID:
            words = f"Fatal consumer error: {KafkaError(code).str()}"
            fatal = KafkaError(KafkaError._FATAL, words)
            self._errors.append(Message(self._topic, 0, -1, None, fatal))
            self._subscribed = self._rejoin = False
            self._fenced = True
            self._lose_everything()

    def _lose_everything(self) -> None:
        if not self._owned:
            self._rejoin = self._subscribed and not self._awaits_application
        elif not self._lost:
            self._lost = True
            if not self._awaits_application:
                self._queue(_Rebalance("revoke", self._owned))
        self._wake.notify()

    def _leave(self) -> None:
        # Asked for once, and whatever the answer, the member does not claim its place again.
        member_id, self._member_id = self._member_id, ""
        self._must_leave = False
        group, now_s = self._group, self._scheduler.now_s
        with suppress(KafkaException):
            self._network.call(
                self._process, "leave", lambda: group.leave(member_id, now_s), ANSWER_WITHIN_S
            )
