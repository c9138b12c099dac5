"""The broker's half that stores: partition logs, transactions, compaction.

As Kafka 4.1 does it, seen from a client: markers take offsets, readers of committed
records stop before the oldest open transaction (the last stable offset), epochs fence
producers, compaction keeps offsets. tests/simulation/test_fidelity.py runs the same
scripts against this and against a real Kafka.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, KafkaException

from load.simulation.group import Group


def refused(code: int) -> KafkaException:
    """A broker's answer that is an error."""
    return KafkaException(KafkaError(code))


@dataclass(eq=False)
class Transaction:
    """One transaction; ``committed`` is None while it is open."""

    committed: bool | None = None


@dataclass(slots=True)
class Stored:
    """A record of a log; a marker has neither key nor value."""

    offset: int
    time_s: float
    key: bytes | None
    value: bytes | None
    transaction: Transaction | None
    marker: bool = False


@dataclass
class Log:
    """One partition."""

    records: list[Stored] = field(default_factory=list)
    end: int = 0
    open: dict[Transaction, int] = field(default_factory=dict)
    acknowledged: dict[tuple[int, int], int] = field(default_factory=dict)
    start: int = 0

    @property
    def stable_end(self) -> int:
        """The last stable offset: what lies before it is decided."""
        return min(self.open.values(), default=self.end)

    def append(
        self, now_s: float, key: bytes | None, value: bytes | None, transaction: Transaction | None
    ) -> int:
        """Add a record, and return its offset."""
        if transaction is not None:
            self.open.setdefault(transaction, self.end)
        self.records.append(Stored(self.end, now_s, key, value, transaction))
        self.end += 1
        return self.end - 1

    def finish(self, now_s: float, transaction: Transaction) -> None:
        """Write the marker that ends a transaction here; it takes an offset."""
        self.open.pop(transaction, None)
        self.records.append(Stored(self.end, now_s, None, None, transaction, marker=True))
        self.end += 1

    def read(self, position: int, count: int, committed_only: bool) -> tuple[list[Stored], int]:
        """Up to ``count`` records from ``position`` on, and the position after them.

        Markers and aborted records are passed over; so the position may move without records.
        """
        limit = self.stable_end if committed_only else self.end
        found: list[Stored] = []
        for record in self.since(position):
            if record.offset >= limit:
                break
            if len(found) == count:
                return found, found[-1].offset + 1
            if self._is_visible(record, committed_only):
                found.append(record)
        return found, max(position, limit)

    def since(self, position: int) -> list[Stored]:
        """All that is stored from ``position`` on, whatever became of it."""
        return self.records[self._index(position) :]

    def last_committed(self) -> int:
        """Offset of the last record that is committed, -1 without any."""
        return next((r.offset for r in reversed(self.records) if self._is_visible(r, True)), -1)

    def _index(self, position: int) -> int:
        low, high = 0, len(self.records)
        while low < high:
            middle = (low + high) // 2
            if self.records[middle].offset < position:
                low = middle + 1
            else:
                high = middle
        return low

    @staticmethod
    def _is_visible(record: Stored, committed_only: bool) -> bool:
        if record.marker:
            return False
        return (
            not committed_only or record.transaction is None or bool(record.transaction.committed)
        )

    def compact(self, now_s: float, upto: int, keep_tombstones_s: float) -> int:
        """Run the log cleaner over what lies before ``upto``; returns how many records went.

        Only decided records are looked at. What was aborted goes; of each key the newest
        stays, unless it is a tombstone that is old enough. Offsets stay as they are. Markers
        go with the last record of their transaction (Kafka keeps them a little longer).
        """
        upto = min(upto, self.stable_end)
        newest: dict[bytes | None, int] = {}
        for record in self._decided(upto):
            newest[record.key] = record.offset
        kept = [
            record
            for record in self.records
            if record.offset >= upto or self._survives(record, newest, now_s - keep_tombstones_s)
        ]
        alive = {id(r.transaction) for r in kept if not r.marker}
        kept = [r for r in kept if not r.marker or r.offset >= upto or id(r.transaction) in alive]
        gone = len(self.records) - len(kept)
        self.records = kept
        return gone

    def _decided(self, upto: int) -> Iterator[Stored]:
        return (r for r in self.records if r.offset < upto and self._is_visible(r, True))

    def _survives(
        self, record: Stored, newest: dict[bytes | None, int], tombstones_before_s: float
    ) -> bool:
        if record.marker:
            return True
        if not self._is_visible(record, True) or newest[record.key] != record.offset:
            return False
        return record.value is not None or record.time_s > tombstones_before_s


@dataclass
class ProducerState:
    """What the transaction coordinator knows of one ``transactional.id``."""

    name: str
    pid: int
    timeout_s: float
    epoch: int = 0
    transaction: Transaction | None = None
    began_s: float = 0.0
    logs: list[Log] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    last_committed: bool | None = None
    markers_to_write: int = 0


class Broker:
    """Topics, transactions and groups of one cluster; every method is one request, done at once.

    Args:
        now_s: the clock.
        later: calls something after a while; when is its own choice. Markers of a transaction
            that has ended are written that way, to each partition by itself, as Kafka does.

    Attributes:
        on_decided: called when a transaction is committed or aborted, with its transactional.id
            and the offsets it holds. Markers, which let readers see it, follow later.
    """

    def __init__(self, now_s: Callable[[], float], later: Callable[[Callable[[], None]], None]):
        self._now_s = now_s
        self._later = later
        self.on_decided: Callable[[str, bool, dict[tuple[str, int], int]], None] = lambda *_: None
        self.topics: dict[str, list[Log]] = {}
        self.groups: dict[str, Group] = {}
        self.producers: dict[str, ProducerState] = {}
        self._pids = 1000

    def create(self, topic: str, partitions: int) -> None:
        """Create a topic."""
        self.topics[topic] = [Log() for _ in range(partitions)]

    def log(self, topic: str, partition: int) -> Log:
        """A partition's log.

        Raises:
            KafkaException: there is no such topic or partition.
        """
        logs = self.topics.get(topic)
        if logs is None or not 0 <= partition < len(logs):
            raise refused(KafkaError.UNKNOWN_TOPIC_OR_PART)
        return logs[partition]

    def group(self, name: str) -> Group:
        """A consumer group, made when it is first asked for."""
        return self.groups.setdefault(name, Group())

    # -- transaction coordinator -------------------------------------------------------

    def init_producer(self, transactional_id: str, timeout_s: float) -> tuple[int, int]:
        """InitProducerId: a new epoch; whatever an earlier one left open is aborted."""
        state = self.producers.get(transactional_id)
        if state is None:
            self._pids += 1
            state = self.producers[transactional_id] = ProducerState(
                transactional_id, self._pids, timeout_s
            )
            return state.pid, state.epoch
        if state.transaction is not None:
            self._end(state, commit=False)
            state.epoch += 1  # so that what is on its way comes too late already
        if state.markers_to_write:
            raise refused(KafkaError.CONCURRENT_TRANSACTIONS)
        state.epoch += 1
        state.timeout_s = timeout_s
        state.last_committed = None
        return state.pid, state.epoch

    def produce(
        self,
        transactional_id: str,
        epoch: int,
        batch: int,
        topic: str,
        partition: int,
        records: list[tuple[bytes | None, bytes | None]],
    ) -> None:
        """AddPartitionsToTxn and Produce; a repeated ``batch`` is acknowledged, not appended."""
        state = self._fenced(transactional_id, epoch, KafkaError.INVALID_PRODUCER_EPOCH)
        log = self.log(topic, partition)
        if log.acknowledged.get((state.pid, epoch), -1) >= batch:
            return
        transaction = self._begun(state)
        if log not in state.logs:
            state.logs.append(log)
        for key, value in records:
            log.append(self._now_s(), key, value, transaction)
        log.acknowledged[state.pid, epoch] = batch

    def send_offsets(
        self,
        transactional_id: str,
        epoch: int,
        group: str,
        member: Member,
        offsets: dict[tuple[str, int], int],
    ) -> None:
        """AddOffsetsToTxn and TxnOffsetCommit: checked against the group now, visible at the end.

        Raises:
            KafkaException: fenced, or the member is not (any more) of this generation (KIP-447).
        """
        state = self._fenced(transactional_id, epoch, KafkaError.INVALID_PRODUCER_EPOCH)
        self._begun(state)
        target = self.group(group)
        if target not in state.groups:
            state.groups.append(target)
        target.check_commit(member.id, member.instance, member.generation, transactional=True)
        target.pending.setdefault(state.pid, {}).update(offsets)

    def end_transaction(self, transactional_id: str, epoch: int, commit: bool) -> None:
        """EndTxn; repeating the one that succeeded succeeds again."""
        state = self._fenced(transactional_id, epoch, KafkaError.PRODUCER_FENCED)
        if state.transaction is None:
            if state.last_committed is not commit:
                raise refused(KafkaError.INVALID_TXN_STATE)
            return
        self._end(state, commit)

    def expire(self) -> list[str]:
        """Abort transactions that are open for too long, and fence their producers."""
        expired = [
            name
            for name, state in self.producers.items()
            if state.transaction is not None and self._now_s() - state.began_s > state.timeout_s
        ]
        for name in expired:
            self._end(self.producers[name], commit=False)
            self.producers[name].epoch += 1
        return expired

    def _fenced(self, transactional_id: str, epoch: int, code: int) -> ProducerState:
        state = self.producers[transactional_id]
        if state.epoch != epoch:
            raise refused(code)
        return state

    def _begun(self, state: ProducerState) -> Transaction:
        if state.markers_to_write:
            raise refused(KafkaError.CONCURRENT_TRANSACTIONS)
        if state.transaction is None:
            state.transaction = Transaction()
            state.began_s = self._now_s()
        return state.transaction

    def _end(self, state: ProducerState, commit: bool) -> None:
        transaction = state.transaction
        assert transaction is not None
        transaction.committed = commit
        state.transaction = None
        state.last_committed = commit
        offsets = {k: v for g in state.groups for k, v in g.pending.get(state.pid, {}).items()}
        self.on_decided(state.name, commit, offsets)
        writes = [lambda log=log: log.finish(self._now_s(), transaction) for log in state.logs]
        writes += [lambda group=group: group.finish(state.pid, commit) for group in state.groups]
        state.logs, state.groups = [], []
        state.markers_to_write = len(writes)

        def mark(write: Callable[[], None]) -> None:
            write()
            state.markers_to_write -= 1

        for write in writes:
            self._later(lambda write=write: mark(write))  # type: ignore[misc]


@dataclass(frozen=True)
class Member:
    """``ConsumerGroupMetadata``: for whom offsets are committed."""

    group: str
    generation: int
    id: str
    instance: str | None
