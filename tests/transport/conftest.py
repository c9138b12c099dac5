"""Feeding workers on a real Kafka, and what they must have published in the end."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from load.local_kafka import LocalKafka
from load.verdict import STREAMS
from load.worker_process import WorkerProcess, create_topics
from tests.support.kafka import NewRecord, produce, read_topic, unique
from worker.assets import asset_dir
from worker.core.events import Chunk
from worker.core.state import PartitionState
from worker.models.bundle import Bundle, load_bundle
from worker.simulator import FaultRates, Simulator

US_PER_S = 1_000_000

Published = dict[tuple[str, int], Counter[tuple[bytes | None, bytes | None]]]
"""Multiset of (key, value) by stream and partition."""


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return load_bundle("machine-health", asset_dir("models"))


@dataclass
class Job:
    """One input topic, and any number of workers that score it under names of their own."""

    kafka: LocalKafka
    bundle: Bundle
    source: str
    folder: Path

    def settings(self, app_id: str, **more: str) -> dict[str, str]:
        """Settings of a worker; its topics exist when this returns."""
        settings = {
            "kafka.brokers": self.kafka.bootstrap_servers,
            "topics.sensor_events": self.source,
            **{key: f"{app_id}-{stream}" for stream, key in STREAMS.items()},
            "worker.app_id": app_id,
            "worker.instance_id": "0",
        }
        create_topics(settings)
        return {**settings, **{key.replace("__", "."): value for key, value in more.items()}}

    def worker(self, settings: dict[str, str]) -> WorkerProcess:
        """Start a worker."""
        return WorkerProcess(settings, self.folder / f"{settings['worker.app_id']}.log")

    def log(self, app_id: str) -> str:
        """What the workers of an application logged."""
        return (self.folder / f"{app_id}.log").read_text()

    def feed(self, records: list[NewRecord]) -> None:
        """Publish sensor events."""
        produce(self.kafka.bootstrap_servers, self.source, records)

    def published(self, app_id: str) -> Published:
        """What an application's committed output holds."""
        result: Published = {}
        for stream in STREAMS:
            for record in read_topic(self.kafka.bootstrap_servers, f"{app_id}-{stream}"):
                counts = result.setdefault((stream, record.partition), Counter())
                counts[record.key, record.value] += 1
        return result

    def expected(self) -> tuple[Published, dict[int, dict[bytes, bytes]]]:
        """Outputs and rows that one step over each whole partition gives, without any worker."""
        pipeline = self.bundle.pipeline()
        partitions: dict[int, list[tuple[int, int, bytes | None, bytes | None]]] = {}
        for record in read_topic(self.kafka.bootstrap_servers, self.source):
            partitions.setdefault(record.partition, []).append(
                (record.offset, record.timestamp_ms, record.key, record.value)
            )
        published: Published = {}
        rows = {}
        for partition, records in partitions.items():
            offsets, times_ms, keys, values = zip(*records, strict=True)
            state = PartitionState(self.bundle.spec)
            outputs = pipeline.step(
                state,
                Chunk(
                    self.source,
                    partition,
                    np.array(offsets),
                    np.array(times_ms),
                    list(keys),
                    list(values),
                ),
            )
            for output in outputs.records:
                counts = published.setdefault((output.stream, partition), Counter())
                counts[output.key, output.value] += 1
            rows[partition] = dict(state.snapshot())
        return published, rows


@pytest.fixture
def job(kafka: LocalKafka, bundle: Bundle, tmp_path: Path) -> Job:
    job = Job(kafka, bundle, unique("sensor-events"), tmp_path)
    job.settings(unique("unused"))
    return job


def simulated(
    bundle: Bundle, events: int, machines: int = 200, seed: int = 5, *, troubled: bool = True
) -> list[NewRecord]:
    """Events of the last hours in order of publication.

    Args:
        troubled: with faults, late events and garbage.
    """
    interval_s = 15.0
    span_us = int(events / machines * interval_s * US_PER_S)
    start_us = int(time.time() * US_PER_S) - span_us - 3600 * US_PER_S
    simulator = Simulator(
        bundle.spec,
        machines=machines,
        interval_s=interval_s,
        start_us=start_us,
        seed=seed,
        faults=FaultRates(5.0, 2.0, 0.2) if troubled else FaultRates.none(),
        late_rate=0.002 if troubled else 0.0,
        garbage_rate=0.002 if troubled else 0.0,
    )
    return [NewRecord(value=value, key=key) for key, value in simulator.advance(start_us + span_us)]


class Feeder(threading.Thread):
    """Publishes events at a steady rate, beside the workers under test."""

    def __init__(self, job: Job, records: list[NewRecord], events_per_s: int) -> None:
        super().__init__(name="feeder", daemon=True)
        self._job = job
        self._records = records
        self._batch = max(events_per_s // 5, 1)

    def run(self) -> None:
        for batch in self._batches():
            next_s = time.monotonic() + 0.2
            self._job.feed(batch)
            time.sleep(max(0.0, next_s - time.monotonic()))

    def _batches(self) -> Iterator[list[NewRecord]]:
        for start in range(0, len(self._records), self._batch):
            yield self._records[start : start + self._batch]
