"""Rebalancing on a real Kafka: what moves is restored, what stays goes on."""

from __future__ import annotations

import re

from confluent_kafka import Producer

from tests.support.kafka import QUIET, committed_offsets, unique, wait_until
from tests.transport.conftest import Feeder, Job, simulated
from tests.transport.test_exactly_once import wait_until_all_is_committed

WAIT_S = 60.0


def test_partitions_that_stay_are_scored_while_those_that_move_are_restored(job: Job) -> None:
    settings = job.settings(unique("moved"))
    app_id = settings["worker.app_id"]
    records = simulated(job.bundle, 30_000, seed=41)
    job.feed(records[:4_000])
    feeder = Feeder(job, records[4_000:], events_per_s=1_500)
    with job.worker(settings) as first:
        first.wait_for_events(4_000, WAIT_S)
        # An open transaction in the changelog: no restore ends before it does.
        blocker = open_transaction(job, f"{app_id}-machine-state-changelog")
        feeder.start()
        with job.worker({**settings, "worker.instance_id": "1"}) as second:
            wait_until(lambda: len(gave_back(job, app_id)) == 2, "two partitions moved", WAIT_S)
            moved = gave_back(job, app_id)
            stay = {0, 1, 2, 3} - moved
            assigned = f"assigned partitions {sorted(moved)}"
            wait_until(lambda: assigned in job.log(app_id), "they are the second's", WAIT_S)
            before = committed(job, app_id)
            wait_until(
                lambda: all(committed(job, app_id)[p] > before[p] + 500 for p in stay),
                "the partitions that stay go on",
                WAIT_S,
            )
            assert {p: committed(job, app_id)[p] for p in moved} == {p: before[p] for p in moved}
            assert "starting" in second.get("/health")
            blocker.abort_transaction(30)
            second.wait_for_events(1, WAIT_S)
            feeder.join(WAIT_S)
            wait_until_all_is_committed(job, app_id)
            restores = {name: worker.metrics() for name, worker in (("0", first), ("1", second))}
    log = job.log(app_id)
    # Behind these the first may be given them back, while both end.
    restored = re.findall(r"restored .* in partitions (\[[^]]*\])", log)
    assert restored[:2] == ["[0, 1, 2, 3]", str(sorted(moved))]
    assert restores["0"]["restore_duration_seconds_count"] == 1
    assert job.published(app_id) == job.expected()[0]


def gave_back(job: Job, app_id: str) -> set[int]:
    found = re.search(r"gave back partitions \[([^]]*)\]", job.log(app_id))
    return {int(partition) for partition in found[1].split(", ")} if found else set()


def committed(job: Job, app_id: str) -> dict[int, int]:
    offsets = committed_offsets(job.kafka.bootstrap_servers, app_id, job.source)
    return {partition: offset for partition, (offset, _) in offsets.items()}


def open_transaction(job: Job, topic: str) -> Producer:
    producer = Producer(
        {
            "bootstrap.servers": job.kafka.bootstrap_servers,
            "transactional.id": unique("blocker"),
            "transaction.timeout.ms": 120_000,
        },
        logger=QUIET,
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    for partition in range(4):
        producer.produce(topic, None, b"nobody|0", partition=partition)
    assert producer.flush(30) == 0
    return producer
