"""The processing thread: applies chunks to state, and commits at chunk boundaries.

Everything that touches state runs here, one job after the other: applying a chunk,
committing, taking over and giving back partitions. So a commit always covers whole
chunks, and a partition that is given back has been committed to its last applied event.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from confluent_kafka import TopicPartition

from worker.core.errors import FencedError, GapError
from worker.core.events import Chunk
from worker.core.outgoing import Record
from worker.tracing import TRACEPARENT, Tracing, Untraced
from worker.transport.delivery import Delivery
from worker.transport.journal import Journal
from worker.transport.producer import GroupMember, Headers

T = TypeVar("T")

MAX_OUTPUTS_BYTES = 4 * 1024 * 1024
"""Commit at once when so much is waiting for it: a transaction must be sent within 30 s also
when outputs flow slowly, and what it may have to repeat is kept in memory."""


class State(Protocol):
    """What is kept of one partition of the input; only a step changes it.

    Attributes:
        next_offset: the first offset that was not applied to it.
    """

    next_offset: int

    def __len__(self) -> int:
        """How many things it knows of, such as machines."""

    def take_changes(self) -> Iterable[tuple[bytes, bytes | None]]:
        """Rows of the changelog that changed since the last call; None deletes one."""

    def snapshot(self) -> Iterable[tuple[bytes, bytes]]:
        """All rows."""


class Applied(Protocol):
    """What came of a chunk.

    Attributes:
        records: to publish, in order.
    """

    records: list[Record]


class Application(Protocol):
    """What is done with the chunks of a topic: all that differs between two agents."""

    def step(self, state: Any, chunk: Chunk) -> Applied:
        """Apply a chunk to the state of its partition."""

    def summarize(self, partition: int, next_offset: int) -> Sequence[Record]:
        """What is told once a commit of all that was applied to a partition up to an offset."""


class Publishing(Protocol):
    """The part of :class:`worker.transport.producer.Publisher` that the processor needs."""

    def publish(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers | None = None,
    ) -> None:
        """Add one record to the next commit."""

    def commit(self, group: GroupMember, offsets: list[TopicPartition]) -> None:
        """Make what was published, and the offsets, final together."""

    def abort(self) -> None:
        """Withdraw what was published since the last commit."""


class ProcessorListener(Protocol):
    """What the processor reports for metrics; calls come on its thread."""

    def on_applied(self, partition: int, outputs: Any, duration_s: float) -> None:
        """A chunk was applied."""

    def on_committed(self, duration_s: float) -> None:
        """State, outputs and offsets were committed."""


class Witness(Protocol):
    """Sees what was applied, and when it is final; calls come on the processor's thread.

    Nothing it does may wait for others, or raise.
    """

    def applied(self, partition: int, outputs: Any) -> None:
        """A chunk was applied, but not committed."""

    def settled(self, states: Mapping[int, Any]) -> None:
        """All that was applied is committed, as the states of the partitions have it.

        Called at every commit interval, also when there was nothing to commit.
        """

    def given_back(self, partitions: Iterable[int]) -> None:
        """These partitions are another's from now on."""

    def close(self) -> None:
        """No call comes any more; called on any thread."""


@dataclass(frozen=True)
class Destinations:
    """Where records go.

    Attributes:
        source: the input topic whose offsets are committed.
        changelog: topic of the state's rows; as many partitions as ``source``.
        streams: topic and number of partitions for each stream that is published to.
    """

    source: str
    changelog: str
    streams: Mapping[str, tuple[str, int]]


@dataclass
class OwnedPartition:
    """State of a partition, and the assignment it belongs to."""

    state: State
    epoch: int


class Processor:
    """Applies chunks and commits; all public methods may be called from any thread.

    Attributes:
        journal: the last things done with the partitions.
        doing: what has not ended yet, as a sentence that "for 60 s" can follow; else empty.
        moves: grows with each chunk, each record published and each commit.
        commits: number of commits that were not empty.
    """

    def __init__(
        self,
        application: Application,
        destinations: Destinations,
        publisher: Publishing,
        listener: ProcessorListener,
        tracing: Tracing | None = None,
        witness: Witness | None = None,
    ) -> None:
        self.owned: dict[int, OwnedPartition] = {}
        self.journal = Journal()
        self.doing = ""
        self.moves = self.commits = 0
        self._application = application
        self._destinations = destinations
        self._publisher = publisher
        self._listener = listener
        self._tracing = tracing or Untraced()
        self._witness = witness
        self._group: GroupMember | None = None
        self._uncommitted: dict[int, int] = {}
        self._outputs_bytes = 0
        self._failure: BaseException | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="processor")

    @property
    def has_uncommitted(self) -> bool:
        """Whether something was applied since the last commit."""
        return bool(self._uncommitted)

    def join(self, group: GroupMember) -> None:
        """Say for which group member to commit; once, before any partition comes."""
        self._group = group

    def take_over(
        self, partition: int, state: State, epoch: int, still_owned: Callable[[], bool]
    ) -> Future[bool]:
        """Start to own a partition unless it was revoked while its state was restored."""
        return self._submit(lambda: self._take_over(partition, state, epoch, still_owned))

    def apply(self, delivery: Delivery) -> Future[None]:
        """Apply a chunk; chunks of partitions given back meanwhile are ignored.

        Raises (through the future):
            GapError: records between the state and the chunk are missing.
            BrokerError, FencedError: see :class:`worker.transport.producer.Publisher`.
        """
        return self._submit(lambda: self._apply(delivery))

    def commit(self) -> Future[None]:
        """Commit everything applied so far; does nothing when nothing is new."""
        return self._submit(self._commit)

    def give_back(self, partitions: list[int]) -> Future[None]:
        """Commit, then forget the partitions' state."""
        return self._submit(lambda: self._give_back(partitions))

    def lose(self, partitions: list[int]) -> FencedError:
        """Apply and commit nothing any more, from now on: the partitions are another's.

        May be called while a job runs. What is in hand was fetched under an assignment that
        others have begun to process; so the whole process has to end, with this error.
        """
        error = FencedError(
            f"this worker was out of touch with its group for longer than its session, so that "
            f"partitions {partitions} may be another's by now; it discards what it had not "
            "committed, and goes on from there when it is started again."
        )
        if self._failure is None:
            self._failure = error
        return error

    def close(self) -> None:
        """Withdraw what is not committed and end the thread."""
        self._thread.submit(self._publisher.abort)
        self._thread.shutdown(wait=True)
        if self._witness is not None:
            self._witness.close()

    def _submit(self, job: Callable[[], T]) -> Future[T]:
        return self._thread.submit(self._guarded, job)

    def _guarded(self, job: Callable[[], T]) -> T:
        # After a failure, state may hold what was never committed: nothing may follow.
        if self._failure is not None:
            raise self._failure
        try:
            return job()
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self.doing = ""

    def _take_over(
        self, partition: int, state: State, epoch: int, still_owned: Callable[[], bool]
    ) -> bool:
        if not still_owned():
            return False
        self.owned[partition] = OwnedPartition(state, epoch)
        return True

    def _apply(self, delivery: Delivery) -> None:
        partition = delivery.chunk.partition
        self.moves += 1
        owned = self.owned.get(partition)
        if owned is None or owned.epoch != delivery.epoch:
            return
        if delivery.begin > owned.state.next_offset:
            raise GapError(
                f"partition {partition}: records {owned.state.next_offset} to "
                f"{delivery.begin - 1} never arrived; the worker ends itself, and reads "
                "them when it is started again."
            )
        self.doing = (
            f"the step over partition {partition}, records {delivery.begin} to "
            f"{delivery.end - 1}, has not ended"
        )
        started_s = time.perf_counter()
        with self._tracing.step(delivery.chunk):
            outputs = self._application.step(owned.state, delivery.chunk)
            self._tell(partition, outputs.records, delivery.traceparents)
        self._uncommitted[partition] = owned.state.next_offset
        self.journal.repeat(f"applied partition {partition}", f"up to {delivery.end}")
        if self._witness is not None:
            self._witness.applied(partition, outputs)
        self._listener.on_applied(partition, outputs, time.perf_counter() - started_s)
        if self._outputs_bytes >= MAX_OUTPUTS_BYTES:
            self._commit()

    def _commit(self) -> None:
        if self._uncommitted:
            self._commit_applied()
        if self._witness is not None:
            self._witness.settled({p: owned.state for p, owned in self.owned.items()})

    def _commit_applied(self) -> None:
        assert self._group is not None  # joined before the first partition was assigned
        self.doing = "the commit has not returned"
        started_s = time.perf_counter()
        for partition, offset in self._uncommitted.items():
            self._tell(partition, self._application.summarize(partition, offset))
            for key, value in self.owned[partition].state.take_changes():
                self._publish(self._destinations.changelog, partition, key, value)
        offsets = [
            TopicPartition(self._destinations.source, partition, offset)
            for partition, offset in self._uncommitted.items()
        ]
        with self._tracing.commit(list(self._uncommitted)):
            self._publisher.commit(self._group, offsets)
        self.journal.repeat("committed", f"offsets {self._uncommitted}")
        self._uncommitted.clear()
        self._outputs_bytes = 0
        self.moves += 1
        self.commits += 1
        self._listener.on_committed(time.perf_counter() - started_s)

    def _tell(
        self,
        partition: int,
        records: Iterable[Record],
        traceparents: Mapping[int, bytes] = MappingProxyType({}),
    ) -> None:
        for record in records:
            topic, partitions = self._destinations.streams[record.stream]
            headers: Headers | None = None
            if record.offset is not None and record.offset in traceparents:
                traced = self._tracing.published(topic, traceparents[record.offset])
                headers = [(TRACEPARENT, traced)]
            to = record.partition(partition, partitions)
            self._publish(topic, to, record.key, record.value, headers)
            self._outputs_bytes += len(record.value)

    def _publish(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers | None = None,
    ) -> None:
        self._publisher.publish(topic, partition, key, value, headers)
        self.moves += 1

    def _give_back(self, partitions: list[int]) -> None:
        self._commit()
        for partition in partitions:
            self.owned.pop(partition, None)
        if self._witness is not None:
            self._witness.given_back(partitions)
