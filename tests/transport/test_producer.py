"""The commit cycle on a real Kafka: one transaction, a stale generation, a fenced instance."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka import Producer as LibrdkafkaProducer

from load.local_kafka import LocalKafka
from tests.support.kafka import QUIET, committed_offsets, create_topics, read_topic, unique
from worker.core.errors import FencedError
from worker.transport.producer import Publisher

WAIT_S = 30.0


class Member:
    """A member of a consumer group; may first answer with metadata of an earlier generation."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.stale: list[Any] = []

    def call(self, request: Callable[[Consumer], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(self.stale.pop() if self.stale else request(self.consumer))
        return future


class Cluster:
    """Topics and clients of one test."""

    def __init__(self, kafka: LocalKafka) -> None:
        self.brokers = kafka.bootstrap_servers
        self.source, self.target = unique("source"), unique("target")
        self.group, self.instance = unique("group"), unique("instance")
        self.consumers: list[Consumer] = []
        create_topics(self.brokers, self.source, self.target, partitions=2)

    def publisher(
        self, transactional: bool = True, more: Mapping[str, str | int] | None = None
    ) -> Publisher:
        config: dict[str, Any] = {"bootstrap.servers": self.brokers, **(more or {})}
        if transactional:
            config["transactional.id"] = self.instance
        publisher = Publisher(lambda: LibrdkafkaProducer(config, logger=QUIET), transactional)
        publisher.connect()
        return publisher

    def member(self) -> Member:
        consumer = Consumer(
            {
                "bootstrap.servers": self.brokers,
                "group.id": self.group,
                "enable.auto.commit": False,
                "partition.assignment.strategy": "cooperative-sticky",
            },
            logger=QUIET,
        )
        consumer.subscribe([self.source])
        self.consumers.append(consumer)
        self.poll_until(lambda: bool(consumer.assignment()))
        return Member(consumer)

    def poll_until(self, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline_s
            for consumer in self.consumers:
                consumer.poll(0.05)

    def values(self) -> list[bytes | None]:
        return [record.value for record in read_topic(self.brokers, self.target)]

    def committed(self) -> dict[int, int]:
        offsets = committed_offsets(self.brokers, self.group, self.source)
        return {partition: offset for partition, (offset, _) in offsets.items()}


@pytest.fixture
def cluster(kafka: LocalKafka) -> Iterator[Cluster]:
    cluster = Cluster(kafka)
    yield cluster
    for consumer in cluster.consumers:
        consumer.close()


@pytest.mark.parametrize("transactional", [True, False])
def test_records_and_offsets_become_final_together(cluster: Cluster, transactional: bool) -> None:
    publisher, member = cluster.publisher(transactional), cluster.member()
    publisher.publish(cluster.target, 1, b"k", b"v")
    publisher.commit(member, [TopicPartition(cluster.source, 0, 17)])
    assert cluster.values() == [b"v"]
    assert cluster.committed() == {0: 17, 1: -1}


def test_what_was_not_committed_is_seen_by_nobody(cluster: Cluster) -> None:
    publisher = cluster.publisher()
    publisher.publish(cluster.target, 0, b"k", b"v")
    publisher.abort()
    assert cluster.values() == []


def test_a_commit_that_meets_a_new_generation_is_repeated_as_a_whole(cluster: Cluster) -> None:
    publisher, member = cluster.publisher(), cluster.member()
    member.stale.append(member.consumer.consumer_group_metadata())
    cluster.member()  # its joining begins a new generation
    cluster.poll_until(lambda: len(member.consumer.assignment()) == 1)
    publisher.publish(cluster.target, 0, b"k", b"first")
    publisher.publish(cluster.target, 1, None, b"second")
    publisher.commit(member, [TopicPartition(cluster.source, 0, 5)])
    assert member.stale == []
    assert cluster.values() == [b"first", b"second"]
    assert cluster.committed() == {0: 5, 1: -1}
    publisher.publish(cluster.target, 0, b"k", b"third")
    publisher.commit(member, [TopicPartition(cluster.source, 0, 6)])
    assert cluster.values() == [b"first", b"third", b"second"]


def test_an_instance_that_was_replaced_can_commit_nothing(cluster: Cluster) -> None:
    replaced, member = cluster.publisher(), cluster.member()
    replaced.publish(cluster.target, 0, b"k", b"old")
    successor = cluster.publisher()
    with pytest.raises(FencedError, match="another worker has taken over"):
        replaced.commit(member, [TopicPartition(cluster.source, 0, 1)])
    successor.publish(cluster.target, 0, b"k", b"new")
    successor.commit(member, [TopicPartition(cluster.source, 0, 2)])
    assert cluster.values() == [b"new"]
    assert cluster.committed() == {0: 2, 1: -1}


def test_a_replaced_instance_whose_records_were_not_delivered_learns_it_too(
    cluster: Cluster,
) -> None:
    replaced = cluster.publisher(more={"topic.metadata.propagation.max.ms": 100})
    member = cluster.member()
    replaced.publish(unique("nowhere"), 0, b"k", b"never delivered")
    deadline_s = time.monotonic() + WAIT_S
    while replaced._failure is None:
        assert time.monotonic() < deadline_s
        replaced._client.poll(0.1)
    cluster.publisher()
    with pytest.raises(FencedError, match="another worker has taken over"):
        replaced.commit(member, [TopicPartition(cluster.source, 0, 1)])
    assert cluster.committed() == {0: -1, 1: -1}


def test_a_replaced_instance_learns_it_while_publishing_too(cluster: Cluster) -> None:
    replaced = cluster.publisher()
    replaced.publish(cluster.target, 0, b"k", b"old")
    cluster.publisher()

    def publish_until_it_fails() -> None:
        deadline_s = time.monotonic() + WAIT_S
        while time.monotonic() < deadline_s:
            replaced.publish(cluster.target, 0, b"k", b"old")
            time.sleep(0.05)

    with pytest.raises(FencedError, match="another worker has taken over"):
        publish_until_it_fails()
    assert cluster.values() == []
