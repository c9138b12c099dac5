"""Copies of other workers' state on a real Kafka: equal to the owner's, and never in the way."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient
from hypothesis import given
from hypothesis import strategies as st

from load.local_kafka import LocalKafka
from load.verdict import OnlyRestores
from load.worker_process import WorkerProcess
from tests.support.kafka import (
    QUIET,
    NewRecord,
    committed_offsets,
    create_topics,
    produce,
    read_topic,
    unique,
    wait_until,
)
from tests.transport.conftest import Feeder, Job, simulated
from tests.transport.test_exactly_once import restored, wait_until_all_is_committed
from tests.transport.test_restore import SPEC, read_back, state_with
from worker.core.changelog import StateReader
from worker.core.errors import StateError
from worker.core.rows import Row
from worker.metrics import Metrics
from worker.settings import Settings, load_settings
from worker.tracing import Untraced
from worker.transport import standby
from worker.transport.driver import Transport
from worker.transport.group import Group
from worker.transport.processor import Destinations
from worker.transport.restore import Follower, restore
from worker.transport.standby import Standbys, copies_of

WAIT_S = 60.0
GROUPS = st.integers(1, 8).flatmap(
    lambda workers: st.lists(st.integers(0, workers - 1), min_size=1, max_size=40).map(
        lambda owners: {
            f"app-{worker}": [p for p, owner in enumerate(owners) if owner == worker]
            for worker in range(workers)
        }
    )
)


@given(GROUPS, st.integers(0, 10))
def test_each_partition_has_as_many_copies_as_asked_for_and_none_at_its_owner(
    members: dict[str, list[int]], replicas: int
) -> None:
    copies = {name: copies_of(name, members, replicas) for name in members}
    for owner, partitions in members.items():
        assert not copies[owner] & set(partitions)
        for partition in partitions:
            kept_by = [name for name, kept in copies.items() if partition in kept]
            assert len(kept_by) == min(replicas, len(members) - 1)


@given(GROUPS, st.integers(1, 3))
def test_a_member_that_comes_takes_copies_and_moves_no_others(
    members: dict[str, list[int]], replicas: int
) -> None:
    grown = {**members, "app-new": []}
    for name in members:
        assert copies_of(name, grown, replicas) <= copies_of(name, members, replicas)


class Member(threading.Thread):
    """A bare member of a consumer group: it is assigned partitions, and reads nothing."""

    def __init__(self, kafka: LocalKafka, group: str, instance: str, topic: str) -> None:
        super().__init__(daemon=True)
        self._consumer = Consumer(
            {
                "bootstrap.servers": kafka.bootstrap_servers,
                "group.id": group,
                "group.instance.id": instance,
                "partition.assignment.strategy": "cooperative-sticky",
            },
            logger=QUIET,
        )
        self._topic = topic
        self._leaving = threading.Event()

    def run(self) -> None:
        self._consumer.subscribe([self._topic])
        while not self._leaving.is_set():
            self._consumer.poll(0.1)
        self._consumer.unsubscribe()
        self._consumer.close()

    def leave(self) -> None:
        self._leaving.set()
        self.join(WAIT_S)


@dataclass
class Pair:
    """A group of two members, one of which owns everything, and the other's copies."""

    kafka: LocalKafka
    group: Group
    changelog: str
    standbys: Standbys

    def write(self, rows: Sequence[Row], partition: int = 0) -> None:
        records = [NewRecord(value, key, partition) for key, value in rows]
        produce(self.kafka.bootstrap_servers, self.changelog, records)

    def wait_for_copies(self) -> None:
        """Until there are copies of both partitions, and each has read everything."""
        ends = {
            partition: end
            for partition, (_, end) in committed_offsets(
                self.kafka.bootstrap_servers, self.group.name, self.changelog
            ).items()
        }

        def done() -> bool:
            copies = dict(self.standbys._copies)
            return all(p in copies and copies[p].position >= end for p, end in ends.items())

        wait_until(done, f"copies have read up to {ends}", WAIT_S)


@pytest.fixture
def pair(kafka: LocalKafka, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    monkeypatch.setattr(standby, "LOOK_EVERY_S", 0.3)
    monkeypatch.setattr(standby, "REST_AFTER_FAILURE_S", 0.3)
    name = unique("pair")
    group = Group(name, f"{name}-source", f"{name}-idle")
    changelog = f"{name}-machine-state-changelog"
    create_topics(kafka.bootstrap_servers, group.source, f"{name}-other", changelog, partitions=2)
    settings = load_settings(
        None,
        {},
        {
            "kafka.brokers": kafka.bootstrap_servers,
            "topics.sensor_events": group.source,
            "worker.app_id": name,
            "worker.instance_id": "idle",
            "worker.standby_replicas": 1,
        },
    )
    app = SimpleNamespace(conf=SimpleNamespace(broker=None))
    destinations = Destinations(group.source, changelog, {})
    transport = Transport(app, settings, OnlyRestores(), destinations, Metrics(), Untraced())
    standbys = transport.make_standbys(lambda _: Follower(StateReader(SPEC)), list)
    assert standbys is not None
    members = [
        Member(kafka, name, f"{name}-owner", group.source),
        Member(kafka, name, group.instance, f"{name}-other"),
    ]
    for thread in (*members, standbys):
        thread.start()
    yield Pair(kafka, group, changelog, standbys)
    standbys.stop()
    assert not standbys.is_alive()
    for member in members:
        member.leave()


def test_a_copy_is_what_a_restore_would_read_and_a_take_over_reads_only_the_rest(
    pair: Pair,
) -> None:
    state = state_with(300, 30)
    pair.write(state.take_changes())
    pair.wait_for_copies()
    later = state_with(300, 40)
    rest = later.take_changes()[-500:]
    copy, other = pair.standbys.take(0), pair.standbys.take(1)
    assert copy is not None
    assert other is not None
    pair.write(rest)
    assert read_on(pair, {0: copy, 1: other}) == 500
    assert (
        copy.reader.finish(7).snapshot() == read_back(pair.kafka, pair.changelog, 2)[0].snapshot()
    )
    assert len(other.reader.finish(7)) == 0
    # What was handed over is begun again, as it is still another member's.
    pair.wait_for_copies()
    again = pair.standbys.take(0)
    assert again is not None
    assert (
        again.reader.finish(7).snapshot() == read_back(pair.kafka, pair.changelog, 2)[0].snapshot()
    )


def read_on(pair: Pair, followers: dict[int, Follower]) -> int:
    return restore(
        Consumer(
            {
                "bootstrap.servers": pair.kafka.bootstrap_servers,
                "group.id": unique("restore"),
                "enable.partition.eof": True,
            },
            logger=QUIET,
        ),
        AdminClient({"bootstrap.servers": pair.kafka.bootstrap_servers}, logger=QUIET),
        pair.changelog,
        followers,
        lambda partition: True,
    )


def test_a_damaged_row_disturbs_no_copy_and_is_reported_when_it_is_taken_over(pair: Pair) -> None:
    pair.write([*state_with(5, 5).take_changes(), (b"m|1|2", b"nonsense")])
    pair.wait_for_copies()
    copy = pair.standbys.take(0)
    assert copy is not None
    with pytest.raises(StateError, match=r"m\|1\|2"):
        copy.reader.finish(0)
    pair.wait_for_copies()


def test_copies_of_a_changelog_that_was_created_again_are_begun_anew(pair: Pair) -> None:
    pair.write(state_with(50, 5).take_changes())
    pair.wait_for_copies()
    admin = AdminClient({"bootstrap.servers": pair.kafka.bootstrap_servers}, logger=QUIET)
    admin.delete_topics([pair.changelog])[pair.changelog].result(WAIT_S)
    wait_until(
        lambda: pair.changelog not in admin.list_topics(timeout=WAIT_S).topics, "it is gone", WAIT_S
    )
    create_topics(pair.kafka.bootstrap_servers, pair.changelog, partitions=2)
    state = state_with(80, 9, seed=3)
    pair.write(state.take_changes())

    def equal() -> bool:
        pair.wait_for_copies()
        copy = pair.standbys.take(0)
        return copy is not None and copy.reader.finish(0).snapshot() == state.snapshot()

    wait_until(equal, "the copy is that of the new topic", WAIT_S)


def test_copies_are_begun_anew_from_time_to_time(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.wait_for_copies()
    old = pair.standbys._copies[0]
    monkeypatch.setattr(standby, "RENEW_AFTER_S", 0.0)
    wait_until(lambda: pair.standbys._copies[0] is not old, "another copy", WAIT_S)


def test_copies_survive_a_restart_of_the_broker(pair: Pair) -> None:
    state = state_with(100, 10)
    pair.write(state.take_changes())
    pair.wait_for_copies()
    pair.kafka.restart()
    later = state_with(100, 20)
    pair.write(later.take_changes())
    pair.wait_for_copies()
    copy = pair.standbys.take(0)
    assert copy is not None
    assert copy.reader.finish(0).snapshot() == later.snapshot()


def test_without_the_setting_there_are_no_copies() -> None:
    app = SimpleNamespace(conf=SimpleNamespace(broker=None))
    transport = Transport(
        app, Settings(), OnlyRestores(), Destinations("", "", {}), Metrics(), Untraced()
    )
    assert transport.make_standbys(lambda _: Follower(StateReader(SPEC)), list) is None


def test_a_killed_worker_is_replaced_from_the_copies_and_nothing_is_lost_or_repeated(
    job: Job,
) -> None:
    plain = job.settings(unique("standby"), worker__standby_replicas="1")
    app_id = plain["worker.app_id"]
    client = {
        "session.timeout.ms": "3000",
        "heartbeat.interval.ms": "500",
        "transaction.timeout.ms": "5000",
    }
    settings = {**plain, "kafka.client": json.dumps(client)}
    records = simulated(job.bundle, 30_000, seed=31)
    job.feed(records[:20_000])
    feeder = Feeder(job, records[20_000:], events_per_s=2_000)
    with job.worker(settings) as first:
        first.wait_for_events(20_000, WAIT_S)
        rows = len(read_topic(job.kafka.bootstrap_servers, f"{app_id}-machine-state-changelog"))
        with job.worker({**settings, "worker.instance_id": "1"}) as second:
            second.wait_until_healthy(WAIT_S)
            wait_until(lambda: has_copies(first) and has_copies(second), "copies of both", WAIT_S)
            feeder.start()
            first.wait_for_events(21_000, WAIT_S)
            second.kill()
        feeder.join(WAIT_S)
        wait_until_all_is_committed(job, app_id)
        assert first.terminate() == 0
    published, state = job.expected()
    # The transaction that was killed holds back what was published after it until it times out.
    wait_until(lambda: job.published(app_id) == published, "all is published, once", WAIT_S)
    assert restored(job, plain) == state
    _, cold, warm = restores(job.log(app_id))
    assert cold.partitions == warm.partitions
    assert cold.rows > rows / 4
    assert warm.rows < cold.rows / 2


class Restore(NamedTuple):
    rows: int
    partitions: str


def restores(log: str) -> list[Restore]:
    """What the log tells of each take-over, in order."""
    found = re.findall(r"restored (\d+) rows of \d+ machines in partitions \[([^]]*)\]", log)
    return [Restore(int(rows), partitions) for rows, partitions in found]


def has_copies(worker: WorkerProcess) -> bool:
    metrics = worker.metrics()
    return metrics.get("standby_partitions") == 2 and metrics.get("standby_lag_rows") == 0
