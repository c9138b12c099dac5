"""``make bench-latency``: from a gateway's produce call to the anomaly in a consumer's hand.

A worker on a real Kafka gets simulated events at a steady rate. Each event has a header with
the time at which it was handed to the producer; a consumer of the anomalies, which name the
event by its offset, reads the header back. Events are judged against a threshold that makes
many of them anomalous, so that there is something to time. Prints quantiles and a histogram for
both guarantees; writes build/bench-latency.json.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from itertools import islice
from pathlib import Path

import numpy as np
from confluent_kafka import Consumer, Producer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from load.benchmark import stage, worker_settings
from load.feed import events
from load.local_kafka import LocalKafka
from load.records import QUIET, iterate_topic, unique
from load.worker_process import WorkerProcess, create_topics, load
from worker.assets import asset_dir
from worker.core.channels import US_PER_S
from worker.models.bundle import load_bundle
from worker.transport.producer import Headers

BUILD = Path("build")
HEADER = "sent-ns"
MACHINES = 5_000
THRESHOLD = "0.8"
"""A score that one reading in some twenty falls below."""
WARM_UP_S = 5.0
TICK_S = 0.002
EDGES_MS = [0, 5, 10, 20, 30, 40, 50, 75, 100, 150, 200, 250, 500, 1_000, 10_000]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=5_000, help="events a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="for how long")
    parser.add_argument("--commit-interval-ms", type=int, default=100, help="of the worker")
    arguments = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    found: dict[str, NDArray[np.float64]] = {}
    with LocalKafka(BUILD / "latency-kafka") as kafka:
        for guarantee in ("at_least_once", "exactly_once"):
            with stage(f"{guarantee} at {arguments.rate:,.0f} events/s"):
                found[guarantee] = measure(
                    kafka.bootstrap_servers,
                    guarantee,
                    arguments.rate,
                    arguments.seconds,
                    arguments.commit_interval_ms,
                )
    report(found, arguments.rate, arguments.commit_interval_ms)


def measure(
    brokers: str, guarantee: str, rate: float, seconds: float, interval_ms: int
) -> NDArray[np.float64]:
    """Time in ms from produce to anomaly, of each anomaly after the warm-up."""
    topic = unique("latency")
    settings = {
        **worker_settings(brokers, topic, topic),
        "worker.processing_guarantee": guarantee,
        "worker.commit_interval_ms": str(interval_ms),
        "detection.threshold": THRESHOLD,
        **{
            f"topics.{name}": f"{topic}-{name}"
            for name in ("anomalies", "anomaly_episodes", "sensor_health", "late_events")
        },
    }
    create_topics(settings)
    anomalies = load(settings).topics.anomalies
    arrived_ns: dict[str, int] = {}
    done = threading.Event()
    reading = threading.Thread(target=read, args=(brokers, anomalies, arrived_ns, done))
    with WorkerProcess(settings, BUILD / "bench-latency.log") as worker:
        worker.wait_until_healthy(60)
        reading.start()
        published = publish(brokers, topic, rate, seconds)
        worker.wait_for_events(published, 60)
        time.sleep(2.0)
        worker.terminate()
    done.set()
    reading.join(30)
    sent_ns = {
        f"{record.topic}-{record.partition}-{record.offset}": int(dict(record.headers)[HEADER] or 0)
        for record in iterate_topic(brokers, topic)
    }
    begun_ns = min(sent_ns.values()) + int(WARM_UP_S * 1e9)
    return np.array(
        [
            (arrived_ns[name] - sent_ns[name]) / 1e6
            for name in arrived_ns
            if sent_ns[name] >= begun_ns
        ]
    )


def publish(brokers: str, topic: str, rate: float, seconds: float) -> int:
    """Publish at a steady rate; returns how many."""
    spec = load_bundle("machine-health", asset_dir("models")).spec
    interval_s = MACHINES / rate
    start_us = int((time.time() - seconds) * US_PER_S)
    made = events(
        spec,
        machines=MACHINES,
        interval_s=interval_s,
        start_us=start_us,
        seed=1,
        troubled=False,
    )
    ready = list(islice(made, int(rate * seconds)))
    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 0}, logger=QUIET)
    begun_s, sent = time.perf_counter(), 0
    while sent < len(ready):
        due = min(int((time.perf_counter() - begun_s) * rate), len(ready))
        for key, value in ready[sent:due]:
            headers: Headers = [(HEADER, str(time.time_ns()))]
            producer.produce(topic, value, key, headers=headers)
        sent = due
        producer.poll(0)
        time.sleep(TICK_S)
    producer.flush(60)
    return sent


def read(brokers: str, topic: str, arrived_ns: dict[str, int], done: threading.Event) -> None:
    """Note when each anomaly came, by the event's name."""
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": unique("latency-reader"),
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 10,
        },
        logger=QUIET,
    )
    consumer.subscribe([topic])
    while not done.is_set():
        for message in consumer.consume(500, 0.01):
            if message.error() is None:
                name = json.loads(message.value() or b"")["id"]
                arrived_ns[name] = time.time_ns()
    consumer.close()


def report(found: dict[str, NDArray[np.float64]], rate: float, interval_ms: int) -> None:
    """Print the tables and write the JSON file."""
    title = f"produce to anomaly, {rate:,.0f} events/s, commits every {interval_ms} ms"
    table = Table(title=title)
    for column in ("", "anomalies", "median ms", "p95", "p99", "worst"):
        table.add_column(column, justify="right" if column else "left")
    figures: dict[str, object] = {"rate_per_s": rate, "commit_interval_ms": interval_ms}
    for guarantee, times_ms in found.items():
        median, p95, p99, worst = np.quantile(times_ms, [0.5, 0.95, 0.99, 1.0])
        shown = [f"{value:.1f}" for value in (median, p95, p99, worst)]
        table.add_row(guarantee.replace("_", " "), f"{len(times_ms):,}", *shown)
        figures |= {
            f"{guarantee}_median_ms": round(float(median), 1),
            f"{guarantee}_p99_ms": round(float(p99), 1),
        }
    histogram = Table(title="share of the anomalies")
    histogram.add_column("ms")
    counts = {name: np.histogram(times_ms, EDGES_MS)[0] for name, times_ms in found.items()}
    for name in found:
        histogram.add_column(name.replace("_", " "), justify="right")
    for low, high, *own in zip(EDGES_MS, EDGES_MS[1:], *counts.values(), strict=False):
        totals = [times_ms.size for times_ms in found.values()]
        shares = [f"{count / total:.1%}" for count, total in zip(own, totals, strict=True)]
        histogram.add_row(f"{low} to {high}", *shares)
    Console().print(table, histogram)
    figures["rows"] = {
        name: dict(zip(map(str, EDGES_MS[1:]), own.tolist(), strict=True))
        for name, own in counts.items()
    }
    path = BUILD / "bench-latency.json"
    path.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
