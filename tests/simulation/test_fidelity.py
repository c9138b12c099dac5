"""The simulated broker against Apache Kafka: the same script, the same visible results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from load.local_kafka import LocalKafka
from tests.simulation.clusters import (
    Cluster,
    RealCluster,
    SimulatedCluster,
    code_of,
    join,
    poll_until,
    read_all,
)
from tests.support.kafka import unique

Script = Callable[[Any], Any]
WAIT_S = 20.0
TRIES = 600
"""Looks, 0.05 s apart."""


def begun(cluster: Any, transactional_id: str, *values: bytes, timeout_s: float = 60.0) -> Any:
    """A producer with an open transaction that the broker knows of."""
    producer = cluster.producer(transactional_id, timeout_s)
    producer.init_transactions(WAIT_S)
    producer.begin_transaction()
    publish(cluster, producer, *values)
    return producer


def publish(cluster: Any, producer: Any, *values: bytes) -> None:
    end = cluster.end()
    for value in values:
        producer.produce(cluster.topic, value, b"k", partition=0, on_delivery=lambda *_: None)
    stored(cluster, end + len(values))


def stored(cluster: Any, end: int) -> None:
    """Wait until the log has an end."""
    for _ in range(TRIES):
        if cluster.end() >= end:
            return
        cluster.sleep(0.05)
    raise AssertionError("not stored in time")


def ended(cluster: Any, offset: int) -> None:
    """Wait until everything below ``offset`` is decided, for markers are written late."""
    for _ in range(TRIES):
        if read_all(cluster)[1] >= offset:
            return
        cluster.sleep(0.05)
    raise AssertionError("not decided in time")


def aborted_records_are_passed_over(cluster: Any) -> Any:
    producer = begun(cluster, "p", b"aborted", b"aborted too")
    producer.abort_transaction(WAIT_S)
    ended(cluster, 3)
    producer.begin_transaction()
    publish(cluster, producer, b"kept")
    producer.commit_transaction(WAIT_S)
    ended(cluster, 5)
    return read_all(cluster), read_all(cluster, committed_only=False), cluster.end()


def an_open_transaction_holds_back_what_follows(cluster: Any) -> Any:
    first = begun(cluster, "first", b"open")
    second = begun(cluster, "second", b"done")
    second.commit_transaction(WAIT_S)
    cluster.sleep(0.5)
    reader = cluster.reader()
    partition = TopicPartition(cluster.topic, 0)
    held = read_all(cluster), reader.get_watermark_offsets(partition, timeout=WAIT_S), cluster.end()
    first.abort_transaction(WAIT_S)
    ended(cluster, 4)
    return held, read_all(cluster)


def a_second_producer_fences_the_first(cluster: Any) -> Any:
    first = begun(cluster, "same", b"old")
    second = begun(cluster, "same", b"new")
    refused = code_of(lambda: first.commit_transaction(WAIT_S))
    later = code_of(
        lambda: first.produce(cluster.topic, b"x", b"k", partition=0, on_delivery=lambda *_: None)
    )
    aborting = code_of(lambda: first.abort_transaction(WAIT_S))
    second.commit_transaction(WAIT_S)
    ended(cluster, 4)
    return refused, later[:2], aborting, read_all(cluster)


def a_transaction_that_stays_open_is_aborted_and_fenced(cluster: Any) -> Any:
    producer = begun(cluster, "slow", b"forgotten", timeout_s=1.0)
    cluster.sleep(4.0)
    for _ in range(40):
        if read_all(cluster)[1] >= 2:
            break
        cluster.sleep(0.5)
    return code_of(lambda: producer.commit_transaction(WAIT_S)), read_all(cluster)


def offsets(cluster: Any, offset: int) -> list[TopicPartition]:
    return [TopicPartition(cluster.topic, 0, offset)]


def committed(cluster: Any, consumer: Any) -> int:
    (found,) = consumer.committed([TopicPartition(cluster.topic, 0)], timeout=WAIT_S)
    return int(found.offset)


def a_stale_generation_commits_nothing(cluster: Any) -> Any:
    first = cluster.member("g")
    join(cluster, first)
    stale = first.consumer_group_metadata()
    producer = begun(cluster, "p", b"x")
    join(cluster, cluster.member("g"), first)  # begins the next generation
    refused = code_of(
        lambda: producer.send_offsets_to_transaction(offsets(cluster, 1), stale, WAIT_S)
    )
    then = code_of(lambda: producer.commit_transaction(WAIT_S))
    producer.abort_transaction(WAIT_S)
    ended(cluster, 2)
    before = committed(cluster, first)
    producer.begin_transaction()
    fresh = first.consumer_group_metadata()
    producer.send_offsets_to_transaction(offsets(cluster, 1), fresh, WAIT_S)
    producer.commit_transaction(WAIT_S)
    return refused, then, before, committed(cluster, first)


def a_member_that_left_is_unknown(cluster: Any) -> Any:
    first, second = cluster.member("g", "one"), cluster.member("g", "two")
    join(cluster, first)
    join(cluster, second, first)
    former = first.consumer_group_metadata()
    first.unsubscribe()
    for _ in range(40):
        first.poll(0.05)
        second.poll(0.05)
    producer = begun(cluster, "p", b"x")
    return code_of(
        lambda: producer.send_offsets_to_transaction(offsets(cluster, 1), former, WAIT_S)
    )


def who_joins_anew_leaves_to_the_others_what_it_had(cluster: Any) -> Any:
    first, second = cluster.member("g", "one"), cluster.member("g", "two")
    join(cluster, first)
    join(cluster, second, first)
    owners: list[Any] = []

    def owned_by(instance: str, *instances: str) -> bool:
        found = cluster.owners("g")
        if found == {name: [0] if name == instance else [] for name in (instance, *instances)}:
            owners.append(sorted(found.items()))
            return True
        return False

    poll_until(cluster, lambda: owned_by("one", "two"), first, second)
    first.unsubscribe()
    poll_until(cluster, lambda: owned_by("two"), first, second)
    join(cluster, first, second)
    poll_until(cluster, lambda: owned_by("two", "one"), first, second)
    return owners, cluster.owners("nobody")


def a_replaced_static_member_is_fenced(cluster: Any) -> Any:
    first = cluster.member("g", "same")
    join(cluster, first)
    former = first.consumer_group_metadata()
    second = cluster.member("g", "same")
    join(cluster, second)
    producer = begun(cluster, "p", b"x")
    refused = code_of(
        lambda: producer.send_offsets_to_transaction(offsets(cluster, 1), former, WAIT_S)
    )
    told: list[Any] = []

    def fatal() -> bool:
        message = first.poll(0.05)
        if message is not None and message.error() is not None:
            told.append((message.error().name(), message.error().fatal()))
        return bool(told)

    poll_until(cluster, fatal, second)
    return refused, told[0]


def who_claims_no_membership_may_commit_for_an_empty_group(cluster: Any) -> Any:
    nobody = cluster.member("g", "never-joined")
    producer = begun(cluster, "p", b"x")
    metadata = nobody.consumer_group_metadata()
    empty = code_of(
        lambda: producer.send_offsets_to_transaction(offsets(cluster, 1), metadata, WAIT_S)
    )
    producer.commit_transaction(WAIT_S)
    somebody = cluster.member("g", "one")
    join(cluster, somebody)
    producer.begin_transaction()
    used = code_of(
        lambda: producer.send_offsets_to_transaction(offsets(cluster, 2), metadata, WAIT_S)
    )
    return empty, used, committed(cluster, somebody)


def pending_offsets_are_waited_for(cluster: Any) -> Any:
    member = cluster.member("g", "one")
    join(cluster, member)
    producer = begun(cluster, "p", b"x")
    producer.send_offsets_to_transaction(
        offsets(cluster, 7), member.consumer_group_metadata(), WAIT_S
    )
    partition = TopicPartition(cluster.topic, 0)
    waiting = code_of(lambda: member.committed([partition], timeout=1.5))
    producer.commit_transaction(WAIT_S)
    return waiting[0], committed(cluster, member)


def compaction_keeps_offsets_and_the_newest_of_each_key(cluster: Any) -> Any:
    producer = cluster.producer("p")
    producer.init_transactions(WAIT_S)
    transactions: list[tuple[bool, dict[bytes, bytes | None]]] = [
        (True, {b"a": b"1", b"b": b"1", b"c": b"1"}),
        (True, {b"a": b"2"}),
        (False, {b"b": b"aborted", b"d": b"aborted"}),
        (True, {b"c": None}),
    ]
    for commit, rows in transactions:
        producer.begin_transaction()
        for key, value in rows.items():
            producer.produce(cluster.topic, value, key, partition=0, on_delivery=lambda *_: None)
        if not commit:
            stored(cluster, cluster.end() + len(rows))
        (producer.commit_transaction if commit else producer.abort_transaction)(WAIT_S)
    ended(cluster, 11)
    cluster.sleep(0.5)  # the next record begins a new segment, and that is never cleaned
    producer.begin_transaction()
    producer.produce(cluster.topic, b"last", b"a", partition=0, on_delivery=lambda *_: None)
    producer.commit_transaction(WAIT_S)
    ended(cluster, 13)
    cluster.compacted(upto=11)
    return read_all(cluster)


SCRIPTS = [
    aborted_records_are_passed_over,
    an_open_transaction_holds_back_what_follows,
    a_second_producer_fences_the_first,
    a_transaction_that_stays_open_is_aborted_and_fenced,
    a_stale_generation_commits_nothing,
    a_member_that_left_is_unknown,
    who_joins_anew_leaves_to_the_others_what_it_had,
    a_replaced_static_member_is_fenced,
    who_claims_no_membership_may_commit_for_an_empty_group,
    pending_offsets_are_waited_for,
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_both_brokers_give_the_same_answers(kafka: LocalKafka, script: Script) -> None:
    real: Cluster = RealCluster(kafka.bootstrap_servers, unique("fidelity"))
    simulated: Cluster = SimulatedCluster()
    assert simulated.run(script) == real.run(script)


def test_both_brokers_compact_alike(kafka: LocalKafka) -> None:
    script = compaction_keeps_offsets_and_the_newest_of_each_key
    real: Cluster = RealCluster(kafka.bootstrap_servers, unique("fidelity"), compact=True)
    assert SimulatedCluster().run(script) == real.run(script)
