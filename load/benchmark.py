"""What benchmarks share: simulated events, the settings of the worker that takes them, progress."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

from rich.console import Console

from load.feed import events as simulated_events
from load.feed import make_producer, send
from worker.assets import asset_dir
from worker.core.channels import US_PER_S
from worker.models.bundle import load_bundle

console = Console(stderr=True)


@contextmanager
def stage(text: str) -> Iterator[None]:
    """Say what is going on."""
    console.print(f"[dim]{text} ...[/dim]")
    yield


def worker_settings(brokers: str, topic: str, app_id: str) -> dict[str, str]:
    """Settings of a worker whose topics, but for the input, are its own."""
    return {
        "kafka.brokers": brokers,
        "topics.sensor_events": topic,
        "worker.app_id": app_id,
        "worker.instance_id": "bench",
    }


def publish(
    brokers: str, topic: str, machines: int, interval_s: float, events: int, seed: int = 1
) -> float:
    """Publish simulated events of the last hours; returns their mean size in bytes."""
    producer = make_producer(brokers)
    span_us = int(events / machines * interval_s * US_PER_S)
    made = simulated_events(
        load_bundle("machine-health", asset_dir("models")).spec,
        machines=machines,
        interval_s=interval_s,
        start_us=int(time.time() * US_PER_S) - span_us - 120 * US_PER_S,
        seed=seed,
        troubled=False,
    )
    size = sent = 0
    while sent < events:
        batch = list(islice(made, min(10_000, events - sent)))
        send(producer, topic, batch)
        sent += len(batch)
        size += sum(len(value) for _, value in batch)
    if producer.flush(60):
        raise SystemExit("Kafka did not take all events")
    return size / events
