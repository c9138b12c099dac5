"""``make equality``: does a backtest say what the worker published, byte for byte?

Publishes simulated events with faults, late ones and garbage to a real Kafka, lets a worker score
them that is killed some times on its way, records the input, and lets a backtest of the recording
say what it would have published. Exits 1 unless each stream is the same, record by record.
Writes build/equality.json; logs are in build/equality/.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice, zip_longest
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from load.feed import events, make_producer, send
from load.local_kafka import LocalKafka
from load.records import committed_offsets, iterate_topic
from load.worker_process import WorkerProcess, create_topics, load
from worker.assets import asset_dir
from worker.cluster import Cluster
from worker.core.channels import US_PER_S
from worker.gateway import now_us
from worker.models.bundle import load_bundle
from worker.recording.files import Lock, segments_of
from worker.recording.parquet import read_batches
from worker.recording.recorder import Recorder
from worker.replay.partition import Source
from worker.replay.recorded import backtest_recording
from worker.settings import Settings

BUILD = Path("build")
FOLDER = BUILD / "equality"
BUNDLE = "machine-health"
EVENTS_A_MACHINE = 4_000
MAX_MACHINES = 500
INTERVAL_S = 10.0
PROCESS_S = 1_200.0
BATCH = 50_000
STREAMS = ("anomalies", "anomaly_episodes", "sensor_health", "late_events", "dead_letters")


@dataclass(frozen=True)
class Compared:
    """One stream: how many records there are, and how many of them differ."""

    stream: str
    published: int
    differing: int


@dataclass(frozen=True)
class Result:
    """What a run showed; ``restarts``: how often the worker was killed."""

    events: int
    restarts: int
    streams: list[Compared]
    backtest_events_per_s: float

    @property
    def passed(self) -> bool:
        """Whether all is the same, and there was something of each stream."""
        return all(one.published and not one.differing for one in self.streams)


def run(total: int, restarts: int, folder: Path, tell: Callable[[str], None]) -> Result:
    """Compare a worker with a backtest of what it read.

    Raises:
        RuntimeError: the worker ended by itself, or stood still.
    """
    with LocalKafka(folder / "kafka") as kafka:
        values = {"kafka.brokers": kafka.bootstrap_servers, "worker.app_id": "equality"}
        create_topics(values)
        settings = load(values)
        tell("publishing events")
        _publish(kafka.bootstrap_servers, settings.topics.sensor_events, total)
        _score(values, total, restarts, folder, tell)
        tell("recording")
        recording = folder / "recording"
        with Cluster(settings) as cluster, Lock(recording):
            recorder = Recorder(cluster, recording)
            topic = settings.topics.sensor_events
            recorder.run(recorder.plan({topic: cluster.ranges(topic)}))
        tell("backtest")
        source = Source(recording, topic, BUNDLE, settings, folder / "messages")
        begun_s = time.perf_counter()
        backtest_recording(source, folder / "scores.parquet", 2)
        taken_s = time.perf_counter() - begun_s
        tell("comparing")
        compared = [
            _compare(kafka.bootstrap_servers, folder / "messages", getattr(settings.topics, name))
            for name in STREAMS
        ]
        return Result(total, restarts, compared, total / taken_s)


def _publish(brokers: str, topic: str, total: int) -> None:
    spec = load_bundle(BUNDLE, asset_dir("models")).spec
    machines = max(min(total // EVENTS_A_MACHINE, MAX_MACHINES), 10)
    span_us = int(total / machines * INTERVAL_S * US_PER_S)
    source = events(
        spec,
        machines=machines,
        interval_s=INTERVAL_S,
        start_us=now_us() - span_us - 3600 * US_PER_S,
        seed=1,
        troubled=True,
    )
    producer = make_producer(brokers)
    for begin in range(0, total, BATCH):
        send(producer, topic, list(islice(source, min(BATCH, total - begin))))
    if producer.flush(120.0):
        raise RuntimeError("Kafka did not take all events within 2 minutes")


def _score(
    values: dict[str, str], total: int, restarts: int, folder: Path, tell: Callable[[str], None]
) -> None:
    """Let a worker score everything; kill it at even steps, in the midst of work."""
    for life in range(restarts + 1):
        tell(f"scoring, life {life + 1} of {restarts + 1}")
        with WorkerProcess(values, folder / "worker.log") as worker:
            if life < restarts:
                step = total / (restarts + 1)
                worker.wait_for_events(int(step), PROCESS_S, 0.01)
                worker.kill()
                continue
            _wait_until_read(worker, load(values))
            worker.terminate()


def _wait_until_read(worker: WorkerProcess, settings: Settings) -> None:
    deadline_s = time.monotonic() + PROCESS_S
    brokers, topic = settings.kafka.brokers, settings.topics.sensor_events
    while time.monotonic() < deadline_s:
        if worker.process.poll() is not None:
            raise RuntimeError(f"the worker ended with status {worker.process.returncode}")
        offsets = committed_offsets(brokers, settings.worker.app_id, topic)
        if all(committed == end for committed, end in offsets.values() if end):
            return
        time.sleep(0.2)
    raise RuntimeError(f"the worker did not read everything in {PROCESS_S:.0f} s")


def _compare(brokers: str, messages: Path, topic: str) -> Compared:
    published = differing = 0
    by_partition: dict[int, list[tuple[bytes | None, bytes | None]]] = {}
    for record in iterate_topic(brokers, topic):
        by_partition.setdefault(record.partition, []).append((record.key, record.value))
    segments = segments_of(messages, topic)
    for partition in sorted(by_partition.keys() | {segment.partition for segment in segments}):
        own = [segment for segment in segments if segment.partition == partition]
        live = by_partition.get(partition, [])
        said = (
            (row["key"], row["value"])
            for batch in read_batches(own, 10_000)
            for row in batch.select(["key", "value"]).to_pylist()
        )
        published += len(live)
        differing += sum(a != b for a, b in zip_longest(live, said))
    return Compared(topic, published, differing)


def figures(result: Result) -> Iterator[tuple[str, str, str]]:
    """A row for each stream, as text."""
    for one in result.streams:
        yield one.stream, f"{one.published:,}", f"{one.differing:,}"


def main() -> int:
    """Run the comparison; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="make equality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--events", type=int, default=2_000_000, help="default 2000000")
    parser.add_argument("--restarts", type=int, default=3, help="default 3")
    options = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=None)
        result = run(
            options.events,
            options.restarts,
            FOLDER,
            lambda what: progress.update(task, description=what),
        )
    table = Table(title=f"{result.events:,} events, worker killed {result.restarts} times")
    for heading in ("stream", "published", "differing"):
        table.add_column(heading, justify="left" if heading == "stream" else "right")
    for row in figures(result):
        table.add_row(*row)
    Console().print(table)
    print(f"backtest: {result.backtest_events_per_s:,.0f} events/s on two processes")
    path = BUILD / "equality.json"
    path.write_text(json.dumps(asdict(result), indent=2) + "\n")
    print(f"written to {path}")
    return 0 if result.passed else 1


if __name__ == "__main__":
    sys.exit(main())
