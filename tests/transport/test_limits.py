"""More than a worker can take at once: a backlog, and messages as large as Kafka allows."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from pathlib import Path

import psutil

from load.local_kafka import LocalKafka
from load.worker_process import create_topics
from tests.support.kafka import NewRecord, read_topic, unique, wait_until
from tests.transport.conftest import Job, simulated
from tests.transport.test_exactly_once import wait_until_all_is_committed
from worker.models.bundle import Bundle

WAIT_S = 90.0
MIB = 1024 * 1024


def test_a_hot_partition_after_an_outage_starves_no_other_and_is_told_once(job: Job) -> None:
    records = simulated(job.bundle, 200_000, seed=41)
    hot, quiet = records[:-3_000], records[-3_000:]
    job.feed([dataclasses.replace(record, partition=0) for record in hot])
    job.feed([dataclasses.replace(r, partition=1 + n % 3) for n, r in enumerate(quiet)])
    settings = job.settings(unique("backlog"))
    with job.worker(settings) as worker:
        counts: dict[int, float] = {}
        while sum(counts.get(partition, 0) for partition in (1, 2, 3)) < len(quiet):
            counts = by_partition(worker.get("/metrics"))
        assert counts.get(0, 0) < len(hot) / 2
        wait_until_all_is_committed(job, settings["worker.app_id"])
        wait_until(lambda: "caught up" in job.log(settings["worker.app_id"]), "it says so", WAIT_S)
        assert worker.terminate() == 0
    log = job.log(settings["worker.app_id"])
    assert log.count("reading on only as fast as they are scored") == 1
    assert log.count("caught up; it was behind by up to ") == 1
    published, _ = job.expected()
    assert job.published(settings["worker.app_id"]) == published


def by_partition(metrics: str) -> dict[int, float]:
    """Events processed."""
    found = re.findall(r'^events_processed_total\{partition="(\d)"\} (\S+)$', metrics, re.MULTILINE)
    return {int(partition): float(events) for partition, events in found}


def test_messages_as_large_as_kafka_allows_cost_bounded_memory_and_become_dead_letters(
    kafka: LocalKafka, bundle: Bundle, tmp_path: Path
) -> None:
    job = Job(kafka, bundle, unique("sensor-events"), tmp_path)
    settings = {
        "kafka.brokers": kafka.bootstrap_servers,
        "topics.sensor_events": job.source,
        "worker.app_id": unique("large"),
        "worker.instance_id": "0",
        "topics.dead_letters": unique("dead-letters"),
    }
    create_topics(settings, {"sensor-events": {"max.message.bytes": str(12 * MIB)}})
    large = os.urandom(10 * MIB)
    count = 80
    with job.worker(settings) as worker:
        worker.wait_until_healthy(WAIT_S)
        process = psutil.Process(worker.process.pid)
        before = most = process.memory_info().rss
        for number in range(0, count, 10):
            keys = [b"k%d" % number, large[:MIB], *[b"m%d" % i for i in range(8)]]
            job.feed([NewRecord(value=large, key=key) for key in keys])
        deadline_s = time.monotonic() + WAIT_S
        while worker.metrics().get("events_processed_total", 0) < count:
            assert time.monotonic() < deadline_s
            most = max(most, process.memory_info().rss)
        assert worker.terminate() == 0
    # All of them at once would be 800 MiB.
    assert most - before < 450 * MIB
    letters = [json.loads(r.value or b"") for r in read_topic(*dead_letters(settings))]
    assert (
        len({(letter["origin"]["partition"], letter["origin"]["offset"]) for letter in letters})
        == count
    )
    assert len(letters) == count
    assert {letter["reason"] for letter in letters} == {"too-large"}


def dead_letters(settings: dict[str, str]) -> tuple[str, str]:
    return settings["kafka.brokers"], settings["topics.dead_letters"]
