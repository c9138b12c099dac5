"""Reading state back from a changelog on a real Kafka, with whatever can be in it."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from load.local_kafka import LocalKafka
from tests.support.kafka import QUIET, NewRecord, create_topics, produce, unique
from worker.core.changelog import StateReader
from worker.core.channels import parse_spec
from worker.core.errors import BrokerError, StateError
from worker.core.state import PartitionState
from worker.transport.restore import Follower, restore

SPEC = parse_spec('name = "one"\n[[channel]]\nname = "a"\n')
Rows = list[tuple[bytes, bytes]]


def state_with(machines: int, minutes: int, seed: int = 1) -> PartitionState:
    state = PartitionState(SPEC)
    indices = state.indices([b"m|%d" % number for number in range(machines)])
    values = np.random.default_rng(seed).normal(size=(minutes, machines, 1))
    for minute in range(minutes):
        times_us = np.full(machines, 1_700_000_000_000_000 + minute * SPEC.pane_us, np.int64)
        state.add(indices, times_us, values[minute])
    return state


def read_back(kafka: LocalKafka, topic: str, partitions: int) -> dict[int, PartitionState]:
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "group.id": unique("restore"),
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        },
        logger=QUIET,
    )
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers}, logger=QUIET)
    followers = {
        number: Follower(StateReader(SPEC, source=f"{topic} partition {number}"))
        for number in range(partitions)
    }
    restore(consumer, admin, topic, followers, lambda partition: True)
    return {number: follower.reader.finish(0) for number, follower in followers.items()}


def transactional(kafka: LocalKafka) -> Producer:
    producer = Producer(
        {"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": unique("writer")},
        logger=QUIET,
    )
    producer.init_transactions(30)
    return producer


def send(producer: Producer, topic: str, rows: Rows) -> None:
    for key, value in rows:
        producer.produce(topic, value, key, partition=0)


def test_committed_rows_come_back_bit_for_bit_and_aborted_ones_do_not(kafka: LocalKafka) -> None:
    topic = unique("changelog")
    create_topics(kafka.bootstrap_servers, topic, partitions=2)
    state, other = state_with(300, 70), state_with(300, 70, seed=2)
    producer = transactional(kafka)
    producer.begin_transaction()
    send(producer, topic, state.snapshot())
    producer.commit_transaction(30)
    producer.begin_transaction()
    send(producer, topic, other.snapshot())
    producer.flush(30)
    producer.abort_transaction(30)
    states = read_back(kafka, topic, 2)
    assert states[0].snapshot() == state.snapshot()
    assert states[1].snapshot() == []


def test_rows_of_a_transaction_that_is_still_open_are_waited_for(kafka: LocalKafka) -> None:
    topic = unique("changelog")
    create_topics(kafka.bootstrap_servers, topic, partitions=1)
    state = state_with(10, 5)
    producer = transactional(kafka)
    producer.begin_transaction()
    send(producer, topic, state.snapshot())
    producer.flush(30)
    committed_s = []

    def commit_later() -> None:
        time.sleep(1.5)
        producer.commit_transaction(30)
        committed_s.append(time.monotonic())

    thread = threading.Thread(target=commit_later)
    thread.start()
    states = read_back(kafka, topic, 1)
    ended_s = time.monotonic()
    thread.join(30)
    assert states[0].snapshot() == state.snapshot()
    assert ended_s >= committed_s[0] - 0.5


def test_a_transaction_that_does_not_end_is_a_failure_of_the_brokers_not_of_the_state(
    kafka: LocalKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = unique("changelog")
    create_topics(kafka.bootstrap_servers, topic, partitions=1)
    producer = transactional(kafka)
    producer.begin_transaction()
    send(producer, topic, state_with(1, 1).snapshot())
    producer.flush(30)
    monkeypatch.setattr("worker.transport.restore.STALLED_AFTER_S", 0.5)
    with pytest.raises(BrokerError, match="hanging transaction"):
        read_back(kafka, topic, 1)
    producer.abort_transaction(30)
    monkeypatch.undo()
    assert read_back(kafka, topic, 1)[0].snapshot() == []


def test_a_row_that_this_version_did_not_write_stops_the_restore(kafka: LocalKafka) -> None:
    topic = unique("changelog")
    create_topics(kafka.bootstrap_servers, topic, partitions=1)
    rows = state_with(3, 3).snapshot()
    damaged = [NewRecord(value=value, key=key, partition=0) for key, value in rows]
    damaged.append(NewRecord(value=b"nonsense", key=b"m|1|2", partition=0))
    produce(kafka.bootstrap_servers, topic, damaged)
    told = rf"{topic} partition 0: .* offset {len(rows)} .* b'm\|1\|2'"
    with pytest.raises(StateError, match=told):
        read_back(kafka, topic, 1)
    produce(kafka.bootstrap_servers, topic, [NewRecord(value=None, key=b"m|1|2", partition=0)])
    assert read_back(kafka, topic, 1)[0].snapshot() == rows


def test_an_empty_changelog_gives_an_empty_state_at_once(kafka: LocalKafka) -> None:
    topic = unique("changelog")
    create_topics(kafka.bootstrap_servers, topic, partitions=4)
    started_s = time.monotonic()
    states = read_back(kafka, topic, 4)
    assert all(len(state) == 0 for state in states.values())
    assert time.monotonic() - started_s < 20
