"""The same work without a framework: consume, decode, features, ONNX, commit.

The yardstick of ``make bench``: one plain loop on librdkafka that does what every
scoring worker has to do and nothing else. No validation, no rebalancing, no restore,
no changelog, no outputs. It uses the product's kernel, features and model, so the
difference to the worker is what the worker adds.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition

from worker.assets import asset_dir
from worker.core.features import assemble
from worker.core.messages import event_type
from worker.core.state import PartitionState
from worker.core.vocabulary import STREAM_KINDS
from worker.models.bundle import load_bundle
from worker.transport.delivery import chunks_by_partition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COMMIT_EVERY_S = 0.25


SCORE = -0.6
"""About what the forest's score of an anomaly is below."""


class Stages:
    """Seconds spent by stage."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time of the block to ``stage``."""
        started_s = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - started_s


def run(brokers: str, topic: str, group: str, events: int) -> dict[str, float]:
    """Process ``events`` records of ``topic`` from its beginning.

    Returns:
        ``events_per_s``, and the share of time of each stage.
    """
    bundle = load_bundle("machine-health", asset_dir("models"))
    spec = bundle.spec
    decode: Callable[[Any], Any] = msgspec.json.Decoder(event_type(spec)).decode
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 50,
            "queued.min.messages": 100_000,
            "queued.max.messages.kbytes": 65_536,
            "fetch.queue.backoff.ms": 10,
        }
    )
    producer = Producer({"bootstrap.servers": brokers, "transactional.id": group})
    producer.init_transactions(30)
    consumer.subscribe([topic])
    states = {partition: PartitionState(spec) for partition in range(64)}
    continuous = slice(2, 2 + len(spec.continuous))
    stages, seen = Stages(), 0
    offsets: dict[int, int] = {}
    gc.freeze()
    gc.disable()
    started_s = committed_s = 0.0
    while seen < events:
        with stages.measure("consume"):
            chunks = list(chunks_by_partition(topic, consumer.consume(10_000, 0.1)))
        if not started_s:
            if not chunks:
                continue
            started_s = committed_s = time.perf_counter()
            stages.seconds.clear()
        for chunk in chunks:
            with stages.measure("decode"):
                rows = list(map(decode, chunk.values))
            with stages.measure("columns"):
                columns = list(zip(*map(msgspec.structs.astuple, rows), strict=True))
                values = np.array(columns[continuous], np.float64).T
                seconds = np.array([time.timestamp() for time in columns[1]])
                times_us = np.rint(seconds * 1e6).astype(np.int64)
            with stages.measure("features"):
                state = states[chunk.partition]
                aggregates, _ = state.add(
                    state.indices(cast("list[bytes]", chunk.keys)), times_us, values
                )
                streams = np.zeros((len(values), len(STREAM_KINDS), len(spec.signals)), np.float32)
                features = assemble(spec, values, aggregates, streams, bundle.expected)
            with stages.measure("onnx"):
                scores = bundle.model(features)
                np.flatnonzero(scores < SCORE)
            seen += len(chunk)
            offsets[chunk.partition] = int(chunk.offsets[-1]) + 1
        if time.perf_counter() - committed_s > COMMIT_EVERY_S or seen >= events:
            with stages.measure("commit"):
                producer.begin_transaction()
                producer.send_offsets_to_transaction(
                    [TopicPartition(topic, p, offset) for p, offset in offsets.items()],
                    consumer.consumer_group_metadata(),
                    30,
                )
                producer.commit_transaction(30)
            committed_s = time.perf_counter()
    duration_s = time.perf_counter() - started_s
    consumer.close()
    shares = {f"{stage}_share": s / duration_s for stage, s in stages.seconds.items()}
    return {"events_per_s": seen / duration_s, **shares}


if __name__ == "__main__":
    brokers, topic, group, events = sys.argv[1:]
    print(json.dumps(run(brokers, topic, group, int(events))))
