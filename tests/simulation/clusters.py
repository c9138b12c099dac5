"""The same clients on a real Kafka and on the simulated broker, for scripts that run on both."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from typing import Any, Protocol, TypeVar

import confluent_kafka
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from load.simulation import consumer as simulated_consumer
from load.simulation import producer as simulated_producer
from load.simulation.broker import Broker
from load.simulation.faults import Faults
from load.simulation.network import Network
from load.simulation.scheduler import Process, Scheduler, activate
from tests.support.kafka import QUIET, create_topics
from worker.transport.group import Group, ask_members

T = TypeVar("T")
Seen = list[tuple[int, bytes | None, bytes | None]]
"""Offset, key and value."""

SESSION_S = 6.0


class Cluster(Protocol):
    """Clients of one cluster; topic ``t`` has one partition."""

    def producer(self, transactional_id: str, timeout_s: float = 60.0) -> Any: ...
    def member(self, group: str, instance: str | None = None) -> Any: ...
    def reader(self, committed_only: bool = True) -> Any: ...
    def end(self) -> int: ...
    def owners(self, group: str) -> dict[str, list[int]] | None: ...
    def compacted(self, upto: int) -> None: ...
    def sleep(self, seconds: float) -> None: ...
    def run(self, script: Callable[[Cluster], T]) -> T: ...


class RealCluster:
    """librdkafka on Apache Kafka; ``prefix`` keeps scripts apart."""

    def __init__(self, brokers: str, prefix: str, compact: bool = False) -> None:
        self._brokers, self._prefix = brokers, prefix
        self.topic = f"{prefix}-t"
        # Segments roll at once, so that the cleaner may touch all but the last.
        compaction = {
            "cleanup.policy": "compact",
            "segment.ms": "100",
            "min.cleanable.dirty.ratio": "0.01",
        }
        create_topics(brokers, self.topic, partitions=1, config=compaction if compact else None)
        self._open: list[Any] = []

    def producer(self, transactional_id: str, timeout_s: float = 60.0) -> Any:
        return confluent_kafka.Producer(
            {
                "bootstrap.servers": self._brokers,
                "transactional.id": f"{self._prefix}-{transactional_id}",
                "transaction.timeout.ms": int(timeout_s * 1000),
            },
            logger=QUIET,
        )

    def member(self, group: str, instance: str | None = None) -> Any:
        config = {
            "group.id": f"{self._prefix}-{group}",
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": int(SESSION_S * 1000),
        }
        if instance is not None:
            config["group.instance.id"] = instance
        return self._consumer(config)

    def reader(self, committed_only: bool = True) -> Any:
        level = "read_committed" if committed_only else "read_uncommitted"
        config = {"group.id": "reader", "isolation.level": level, "enable.partition.eof": True}
        return self._consumer(config)

    def _consumer(self, config: dict[str, Any]) -> Any:
        common = {"bootstrap.servers": self._brokers, "enable.auto.commit": False}
        consumer = confluent_kafka.Consumer({**common, **config}, logger=QUIET)
        self._open.append(consumer)
        return consumer

    def end(self) -> int:
        admin = AdminClient({"bootstrap.servers": self._brokers}, logger=QUIET)
        futures = admin.list_offsets({TopicPartition(self.topic, 0): OffsetSpec.latest()})
        return int(next(iter(futures.values())).result(30.0).offset)

    def owners(self, group: str) -> dict[str, list[int]] | None:
        admin = AdminClient({"bootstrap.servers": self._brokers}, logger=QUIET)
        return owners(admin, Group(f"{self._prefix}-{group}", self.topic, ""))

    def compacted(self, upto: int) -> None:
        """Wait until the cleaner has left one record a key below ``upto``."""
        deadline_s = time.monotonic() + 60.0
        while True:
            keys = [
                key for offset, key, _ in read_all(self, committed_only=False)[0] if offset < upto
            ]
            if len(keys) == len(set(keys)):
                return
            assert time.monotonic() < deadline_s, f"the log cleaner has left {keys}"
            time.sleep(0.2)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def run(self, script: Callable[[Cluster], T]) -> T:
        try:
            return script(self)
        finally:
            for consumer in self._open:
                consumer.close()


class SimulatedCluster:
    """The simulation's broker and clients, without faults."""

    def __init__(self) -> None:
        self._scheduler = Scheduler(limit=100_000)
        activate(self._scheduler)
        faults = Faults(Random(0), self._scheduler, SESSION_S)
        faults.on = False
        later = lambda call: self._scheduler.at(faults.marker_latency_s(), call)  # noqa: E731
        self._broker = Broker(lambda: self._scheduler.now_s, later)
        self._network = Network(self._scheduler, self._broker, faults)
        self.topic = "t"
        self._broker.create(self.topic, 1)
        self._process = Process("script")

    def producer(self, transactional_id: str, timeout_s: float = 60.0) -> Any:
        return simulated_producer.Producer(
            self._network, self._process, transactional_id, timeout_s
        )

    def member(self, group: str, instance: str | None = None) -> Any:
        return simulated_consumer.Consumer(self._network, self._process, group, instance, SESSION_S)

    def reader(self, committed_only: bool = True) -> Any:
        return simulated_consumer.Consumer(
            self._network, self._process, "reader", tell_end=True, committed_only=committed_only
        )

    def end(self) -> int:
        admin = simulated_producer.Admin(self._network, self._process)
        futures = admin.list_offsets({TopicPartition(self.topic, 0): None}, 30.0)
        return int(next(iter(futures.values())).result(30.0).offset)

    def owners(self, group: str) -> dict[str, list[int]] | None:
        admin = simulated_producer.Admin(self._network, self._process)
        return owners(admin, Group(group, self.topic, ""))

    def compacted(self, upto: int) -> None:
        log = self._broker.log(self.topic, 0)
        assert log.compact(self._scheduler.now_s, upto, keep_tombstones_s=3600.0)

    def sleep(self, seconds: float) -> None:
        self._scheduler.wait(None, seconds)

    def run(self, script: Callable[[Cluster], T]) -> T:
        results: list[T] = []
        task = self._scheduler.spawn(self._process, lambda: results.append(script(self)))
        self._scheduler.at(1.0, self._every_second)
        self._scheduler.run(lambda: task.done.is_set)
        return results[0]

    def _every_second(self) -> None:
        self._broker.expire()
        for group in self._broker.groups.values():
            group.expire(self._scheduler.now_s)
        self._scheduler.at(1.0, self._every_second)


def read_all(cluster: Any, committed_only: bool = True) -> tuple[Seen, int]:
    """All records, and the position at which the end was told."""
    reader = cluster.reader(committed_only)
    beginning = 0 if isinstance(cluster, SimulatedCluster) else OFFSET_BEGINNING
    reader.assign([TopicPartition(cluster.topic, 0, beginning)])
    seen: Seen = []
    for _ in range(300):
        for message in reader.consume(100, 0.1):
            if message.error() is None:
                seen.append((message.offset(), message.key(), message.value()))
            elif message.error().code() == KafkaError._PARTITION_EOF:
                reader.close()
                return seen, message.offset()
    raise AssertionError("the end was never told")


def owners(admin: Any, group: Group) -> dict[str, list[int]] | None:
    """Partitions of each member as the worker itself asks for them."""
    members = ask_members(admin, group)
    return members and {member: list(owned) for member, owned in members.items()}


def code_of(call: Callable[[], object]) -> tuple[str, bool, bool, bool]:
    """Name of the error of a call, and whether it is fatal, retriable, or asks for an abort."""
    try:
        call()
    except KafkaException as raised:
        error: KafkaError = raised.args[0]
        return error.name(), error.fatal(), error.retriable(), error.txn_requires_abort()
    return "none", False, False, False


def join(cluster: Any, consumer: Any, *others: Any) -> None:
    """Subscribe a member, and poll all until it has been assigned something, or told nothing is."""
    told: list[bool] = []

    def on_assign(member: Any, partitions: list[TopicPartition]) -> None:
        told.append(True)
        for partition in partitions:
            partition.offset = 0
        member.incremental_assign(partitions)

    def on_revoke(member: Any, partitions: list[TopicPartition]) -> None:
        member.incremental_unassign(partitions)

    consumer.subscribe([cluster.topic], on_assign=on_assign, on_revoke=on_revoke, on_lost=on_revoke)
    poll_until(cluster, lambda: bool(told), consumer, *others)


def poll_until(cluster: Any, condition: Callable[[], bool], *consumers: Any) -> None:
    """Poll until something holds."""
    for _ in range(600):
        if condition():
            return
        for consumer in consumers:
            consumer.poll(0.05)
    raise AssertionError("not in time")
