"""A worker and a drift agent on a real Kafka: the one's trouble is not the other's."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import msgspec
import numpy as np

from load.local_kafka import LocalKafka
from load.worker_process import WorkerProcess, create_topics, load
from tests.drift.conftest import AFTER_US, MACHINES, US_PER_HOUR, US_PER_MIN, agent, events, told
from tests.support.kafka import (
    NewRecord,
    committed_offsets,
    produce,
    read_topic,
    unique,
    wait_until,
)
from worker.core.drift import Partial
from worker.core.drifting import DriftState
from worker.core.events import Chunk
from worker.core.outgoing import Record, partition_of
from worker.models.bundle import Bundle
from worker.settings import TopicSettings
from worker.simulator import FleetChange

WAIT_S = 60.0
HOURS = 14
HALF_HOUR = MACHINES * 30
STEP = FleetChange("step", ("pressure",), AFTER_US + 9 * US_PER_HOUR, 1.5)


def expected(bundle: Bundle, brokers: str, topic: str) -> Iterator[Record]:
    """What an agent gives that reads each partition of the partials in one go."""
    everything = sorted(read_topic(brokers, topic), key=lambda r: (r.partition, r.offset))
    for number, group in groupby(everything, lambda record: record.partition):
        records = list(group)
        chunk = Chunk(
            topic,
            number,
            np.array([record.offset for record in records]),
            np.array([record.timestamp_ms for record in records]),
            [record.key for record in records],
            [record.value for record in records],
        )
        yield from agent(bundle, patience_us=44_640 * US_PER_MIN).step(DriftState(), chunk).records


def test_an_agent_that_is_killed_behind_and_fed_garbage_counts_each_row_once(
    kafka: LocalKafka, watched: Bundle, tmp_path: Path
) -> None:
    brokers, name = kafka.bootstrap_servers, unique("drift")
    settings = {
        "kafka.brokers": brokers,
        **{f"topics.{key}": f"{name}-{topic}" for key, topic in TopicSettings()},
        "worker.app_id": name,
        "worker.instance_id": "0",
        "worker.bundle": str(watched.path),
        "drift.windows_min": "[60, 360]",
        # Commits may come in between, so partitions can be more than an hour apart.
        "drift.patience_min": "44640",
    }
    create_topics(settings)
    known = load(settings)
    source, partials = known.topics.sensor_events, known.partials_topic
    sent = [NewRecord(value=value, key=key) for key, value in events(HOURS, [STEP])]

    def catch_up(group: str, topic: str) -> None:
        def done() -> bool:
            offsets = committed_offsets(brokers, group, topic).values()
            # Behind the last record of a transaction is its marker.
            return all(offset >= end - (topic == partials) for offset, end in offsets if end)

        wait_until(done, f"{group} has committed all of {topic}", WAIT_S)

    def send(scoring: WorkerProcess, begin: int, end: int) -> None:
        """Half an hour at a time, so that partitions stay side by side as they do in life."""
        for first in range(begin, end, HALF_HOUR):
            last = min(first + HALF_HOUR, end)
            produce(brokers, source, sent[first:last])
            scoring.wait_for_events(last, WAIT_S)

    log = tmp_path / "log"
    with WorkerProcess(settings, log) as scoring:
        with WorkerProcess(settings, log, command="drift") as drifting:
            send(scoring, 0, len(sent) // 2)
            wait_until(
                lambda: drifting.metrics().get("drift_windows_total", 0) > 0, "a window", WAIT_S
            )
            drifting.kill()
        garbage = NewRecord(value=b"garbage", key=b"fleet", partition=partition_of(b"fleet", 4))
        produce(brokers, partials, [garbage])
        send(scoring, len(sent) // 2, len(sent))
        catch_up(name, source)
        assert '"healthy"' in scoring.get("/health")
        with WorkerProcess(settings, log, command="drift") as drifting:
            drifting.wait_until_healthy(WAIT_S)
            catch_up(f"{name}-drift", partials)
            metrics = drifting.get("/metrics")
            assert drifting.terminate() == 0
        assert scoring.terminate() == 0

    assert 'dead_letters_total{reason="invalid-partial"} 1.0' in metrics
    assert 'data_drift_score{feature="pressure",group="fleet",window="60m"}' in metrics
    rows = [r.value for r in read_topic(brokers, partials) if r.value != b"garbage"]
    counted = [Partial.from_bytes(value or b"") for value in rows]
    assert sum(one.rows for one in counted if one.group == "fleet") == len(sent)
    wanted = list(expected(watched, brokers, partials))
    for stream, topic in (
        ("drift-events", known.topics.drift_events),
        ("retraining-requests", known.topics.retraining_requests),
    ):
        published = sorted((r.key, r.value) for r in read_topic(brokers, topic))
        assert published == sorted((r.key, r.value) for r in wanted if r.stream == stream)
    (opened,) = [event for event in told(wanted).opened if event["group"] == "fleet"]
    assert "pressure" in opened["features"][0]["feature"]
    (letter,) = read_topic(brokers, known.topics.dead_letters)
    told_of = msgspec.json.decode(letter.value or b"")
    assert (told_of["reason"], told_of["origin"]["topic"]) == ("invalid-partial", partials)
