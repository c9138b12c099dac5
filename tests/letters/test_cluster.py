from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer

from tests.support.kafka import QUIET, NewRecord, wait_until
from tests.support.letters import Desk
from worker.cluster import Cluster, Record
from worker.core.messages import Origin
from worker.letters.replays import Replays
from worker.settings import load_settings

STREAM = "dead_letters"


@pytest.fixture
def cluster(desk: Desk) -> Iterator[Cluster]:
    with Cluster(load_settings(None, {}, desk.settings)) as cluster:
        yield cluster


@pytest.fixture
def transaction(desk: Desk) -> Producer:
    """A producer whose transaction is open and holds one record of partition 0."""
    producer = Producer(
        {"bootstrap.servers": desk.brokers, "transactional.id": desk.settings["worker.app_id"]},
        logger=QUIET,
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(desk.topic(STREAM), b"open", partition=0)
    assert producer.flush(30) == 0
    return producer


def values(batches: Iterator[list[Record]]) -> list[bytes | None]:
    return [record.value for batch in batches for record in batch]


def test_reading_ends_where_the_topic_ended_when_it_began(desk: Desk, cluster: Cluster) -> None:
    topic = desk.topic(STREAM)
    desk.write(STREAM, [NewRecord(b"%d" % n, partition=n % 3) for n in range(9)])
    ranges = cluster.ranges(topic)
    desk.write(STREAM, [NewRecord(b"later", partition=n) for n in range(4)])
    passed: list[int] = []
    found = values(cluster.read(topic, ranges, passed.append))
    assert sorted(found) == [b"%d" % n for n in range(9)]
    assert passed[-1] == 9
    assert len(values(cluster.read(topic, cluster.ranges(topic)))) == 13


def test_since_leaves_out_what_is_older(desk: Desk, cluster: Cluster) -> None:
    topic = desk.topic(STREAM)
    for value in (b"old", b"new", b"newest"):
        desk.write(STREAM, [NewRecord(value, partition=1)])
        time.sleep(0.02)  # the broker stamps them, in milliseconds
    _, new, newest = [r for batch in cluster.read(topic, cluster.ranges(topic)) for r in batch]
    since_new = cluster.read(topic, cluster.ranges(topic, new.time_ms))
    assert values(since_new) == [b"new", b"newest"]
    assert values(cluster.read(topic, cluster.ranges(topic, newest.time_ms + 1))) == []


def test_an_open_transaction_is_not_waited_for(
    desk: Desk, cluster: Cluster, transaction: Producer
) -> None:
    topic = desk.topic(STREAM)
    desk.write(STREAM, [NewRecord(b"behind it", partition=0), NewRecord(b"there", partition=1)])
    assert values(cluster.read(topic, cluster.ranges(topic))) == [b"there"]
    transaction.abort_transaction(30)
    wait_until(lambda: cluster.ranges(topic)[0].end == 3, "the abort has reached the partition")
    found = values(cluster.read(topic, cluster.ranges(topic)))
    assert sorted(found, key=str) == [b"behind it", b"there"]


def test_a_range_of_what_is_written_waits_for_the_transaction(
    desk: Desk, cluster: Cluster, transaction: Producer
) -> None:
    topic = desk.topic(STREAM)
    ranges = cluster.written(topic)
    assert ranges[0].end == 1
    transaction.commit_transaction(30)
    assert values(cluster.read(topic, ranges)) == [b"open"]


def test_one_record_is_found_by_its_place_or_not_at_all(
    desk: Desk, cluster: Cluster, transaction: Producer
) -> None:
    topic = desk.topic(STREAM)
    headers = (("h", b"v"),)
    desk.write(STREAM, [NewRecord(b"a", b"k", 1, headers=headers), NewRecord(b"b", b"k", 1)])
    found = cluster.fetch(Origin(topic, 1, 0))
    assert found is not None
    assert found == Record(topic, 1, 0, found.time_ms, b"k", b"a", headers)
    assert cluster.fetch(Origin(topic, 1, 1)) is not None
    for place in [(topic, 1, 2), (topic, 1, 10**9), (topic, 0, 0), (topic, 9, 0), ("none", 0, 0)]:
        assert cluster.fetch(Origin(*place)) is None
    transaction.abort_transaction(30)
    assert cluster.fetch(Origin(topic, 0, 0)) is None


def test_what_is_no_replay_is_left_out_of_the_history(desk: Desk, cluster: Cluster) -> None:
    source = desk.topic("sensor_events")
    place = f'{{"topic": "{source}", "partition": 0, "offset": %d}}'
    other = place.replace(source, "another")
    mark = '{"letter": "a-0-0", "origin": %s, "published": %s, "attempt": %d, "replayed_at": ""}'
    desk.write(
        "replays",
        [
            NewRecord((mark % (place % 1, place % 7, 1)).encode(), b"a"),
            NewRecord((mark % (other % 2, other % 8, 1)).encode(), b"b"),
            NewRecord(b"nonsense", b"c"),
            NewRecord(None, b"d"),
        ],
    )
    replays = Replays(source)
    replays.read(cluster, pending=True)
    attempts = [replays.attempts(Origin(source, 0, offset)) for offset in (1, 7, 2, 8)]
    assert attempts == [(1, True), (1, False), (0, False), (0, False)]
    desk.write("replays", [NewRecord((mark % (place % 7, place % 9, 2)).encode(), b"e")])
    replays.read(cluster, pending=True)
    assert replays.attempts(Origin(source, 0, 7)) == (2, True)
    only = Replays(source, only={(0, 9)})
    only.read(cluster, pending=False)
    assert only.attempts(Origin(source, 0, 9)) == (2, False)
    assert only.attempts(Origin(source, 0, 1)) == (0, False)
