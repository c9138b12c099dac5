"""Outputs, changelog rows and offsets: published together, or not at all.

Owns the librdkafka producer and the two ways of committing. ``exactly_once``: one
Kafka transaction holds everything (KIP-447: the offsets carry the consumer group's
generation, so a member that was replaced is fenced). ``at_least_once``: the same
cycle without the transaction; offsets are committed once every record is acknowledged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka import Producer as LibrdkafkaProducer
from faust.transport import base

from worker.core.errors import BrokerError, FencedError, StalledError
from worker.kafka_config import PRODUCER_REPLACED, describe, retried

log = logging.getLogger(__name__)

T = TypeVar("T")
Headers = list[tuple[str, str | bytes | None]]

BROKER_DEADLINE_S = 60.0
ABORT_DEADLINE_S = 5.0
REBALANCE_WAIT_S = 0.05
TRANSACTION_TIMEOUT_MS = 30_000
"""How long a crashed worker's open transaction may hold back readers of its outputs."""

_REBALANCING = {KafkaError.ILLEGAL_GENERATION, KafkaError.REBALANCE_IN_PROGRESS}
_FENCED = (
    _REBALANCING | PRODUCER_REPLACED | {KafkaError.FENCED_INSTANCE_ID, KafkaError.UNKNOWN_MEMBER_ID}
)


class _Record(NamedTuple):
    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers | None


class GroupMember(Protocol):
    """The part of :class:`worker.transport.poller.Poller` that commits need."""

    def call(self, request: Callable[[Consumer], T]) -> Future[T]:
        """Run ``request`` where the consumer may be called."""


class Publisher:
    """One librdkafka producer and the commit cycle around it.

    Not thread-safe: after :meth:`connect` it belongs to the processor's thread.

    Args:
        make_client: makes the librdkafka producer.
        transactional: exactly-once instead of at-least-once.
    """

    _client: LibrdkafkaProducer

    def __init__(self, make_client: Callable[[], LibrdkafkaProducer], transactional: bool) -> None:
        self._make_client = make_client
        self._transactional = transactional
        self._pending: list[_Record] = []
        self._in_transaction = False
        self._failure: KafkaError | None = None

    def connect(self) -> None:
        """Connect; with transactions, fence an earlier process of the same instance.

        Raises:
            BrokerError: the brokers do not answer within ``BROKER_DEADLINE_S``.
        """
        self._client = self._make_client()
        if self._transactional:
            with _explained():
                retried(
                    lambda: self._client.init_transactions(BROKER_DEADLINE_S), BROKER_DEADLINE_S
                )

    def publish(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers | None = None,
    ) -> None:
        """Add one record to the next commit, waiting while the send queue is full.

        Raises:
            FencedError: another process has taken this instance's place.
            BrokerError: the brokers take nothing within ``BROKER_DEADLINE_S``.
        """
        record = _Record(topic, partition, key, value, headers)
        with _explained():
            self._begin()
            self._produce(record)
        if self._transactional:
            self._pending.append(record)

    def commit(self, group: GroupMember, offsets: list[TopicPartition]) -> None:
        """Make everything published since the last commit, and ``offsets``, final.

        Args:
            group: lets the commit speak for this member of the consumer group.
            offsets: next offset to read, by partition.

        Raises:
            FencedError: the group or the instance has moved on; nothing was committed.
            BrokerError: not committed within ``BROKER_DEADLINE_S``, or refused.
        """
        with _explained():
            if self._transactional:
                self._commit_transaction(group, offsets)
            else:
                self._commit_acknowledged(group, offsets)

    def abort(self) -> None:
        """Withdraw what was published since the last commit, if the brokers can be reached."""
        if self._in_transaction:
            self._in_transaction = False
            try:
                self._client.abort_transaction(ABORT_DEADLINE_S)
            except KafkaException as error:
                log.info("the open transaction will time out: %s", describe(error))

    def _commit_transaction(self, group: GroupMember, offsets: list[TopicPartition]) -> None:
        deadline_s = time.monotonic() + BROKER_DEADLINE_S
        while True:
            try:
                self._begin()
                metadata = group.call(lambda consumer: consumer.consumer_group_metadata())
                member = metadata.result(_left_s(deadline_s))
                retried(
                    lambda member=member: self._client.send_offsets_to_transaction(  # type: ignore[misc]
                        offsets, member, _left_s(deadline_s)
                    ),
                    _left_s(deadline_s),
                )
                retried(
                    lambda: self._client.commit_transaction(_left_s(deadline_s)),
                    _left_s(deadline_s),
                )
            except KafkaException as error:
                if error.args[0].code() not in _REBALANCING or time.monotonic() > deadline_s:
                    raise
                # The group began a new generation while the commit was on its way. The
                # partitions are still this member's, for none is given back before its
                # last commit: the same records go into a new transaction.
                log.info("the group is rebalancing; committing once more")
                self._client.abort_transaction(max(_left_s(deadline_s), ABORT_DEADLINE_S))
                self._in_transaction = False
                time.sleep(REBALANCE_WAIT_S)
                self._begin()
                for record in self._pending:
                    self._produce(record)
            else:
                self._in_transaction = False
                self._pending.clear()
                return

    def _commit_acknowledged(self, group: GroupMember, offsets: list[TopicPartition]) -> None:
        remaining = self._client.flush(BROKER_DEADLINE_S)
        if self._failure is not None:
            raise KafkaException(self._failure)
        if remaining:
            raise BrokerError(
                f"Kafka did not acknowledge {remaining} records within {BROKER_DEADLINE_S:.0f} s; "
                "the worker stops and will repeat them."
            )
        retried(
            lambda: group.call(
                lambda consumer: consumer.commit(offsets=offsets, asynchronous=False)
            ).result(BROKER_DEADLINE_S),
            BROKER_DEADLINE_S,
        )

    def _begin(self) -> None:
        if self._transactional and not self._in_transaction:
            retried(self._client.begin_transaction, BROKER_DEADLINE_S)
            self._in_transaction = True

    def _produce(self, record: _Record) -> None:
        deadline_s = time.monotonic() + BROKER_DEADLINE_S
        while True:
            try:
                self._client.produce(
                    record.topic,
                    record.value,
                    record.key,
                    partition=record.partition,
                    headers=record.headers,
                    on_delivery=self._on_delivery,
                )
            except BufferError:
                if time.monotonic() > deadline_s:
                    raise BrokerError(
                        f"Kafka took no records for {BROKER_DEADLINE_S:.0f} s; the worker stops "
                        "and will go on where it last committed."
                    ) from None
                self._client.poll(0.1)
            except KafkaException as error:
                if error.args[0].code() == KafkaError._FATAL and self._in_transaction:
                    # Says that something ended this producer; only the commit, which
                    # cannot succeed any more, says what.
                    self._client.commit_transaction(ABORT_DEADLINE_S)
                raise
            else:
                return

    def _on_delivery(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None and self._failure is None:
            self._failure = error


class Producer(base.Producer):  # type: ignore[misc]
    """Faust's producer service: connects the publisher when the app starts.

    Agents do not send through Faust: what they return leaves through the processor,
    inside its commit.
    """

    logger = logging.getLogger(f"faust.{__name__}")

    async def on_start(self) -> None:
        """Connect the publisher."""
        await self.loop.run_in_executor(None, self.transport.publisher.connect)
        await super().on_start()

    async def flush(self) -> None:
        """Nothing to do: only a commit decides what is final."""

    async def send(self, *_args: Any, **_options: Any) -> NoReturn:
        """Refused, as it would bypass the transaction."""
        raise NotImplementedError(
            "agents publish by returning outputs from their step; see worker/transport/processor.py"
        )

    send_and_wait = send


def _left_s(deadline_s: float) -> float:
    """Time until a deadline of the monotonic clock; a little, when it has passed."""
    return max(deadline_s - time.monotonic(), 0.1)


@contextmanager
def _explained() -> Iterator[None]:
    """Turn librdkafka's exceptions into what they mean for the person who reads them."""
    try:
        yield
    except TimeoutError as error:
        raise StalledError(
            f"the polling thread has not answered for {BROKER_DEADLINE_S:.0f} s; the worker ends "
            "itself and goes on where it last committed."
        ) from error
    except KafkaException as error:
        code = error.args[0].code()
        if code in _FENCED:
            raise FencedError(
                "another worker has taken over (same worker.instance_id, or this one was away "
                f"for longer than its session): {describe(error)}."
            ) from error
        if code == KafkaError._TIMED_OUT:
            raise BrokerError(
                f"Kafka did not answer within {BROKER_DEADLINE_S:.0f} s: {describe(error)}; "
                "check kafka.brokers and that the cluster is up."
            ) from error
        raise BrokerError(f"Kafka refused: {describe(error)}.") from error
