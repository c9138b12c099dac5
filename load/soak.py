"""``make soak``: does the worker's memory stay where it is, over tens of millions of events?

1,000 machines, the same ones from the beginning to the end, so that state has its full
size once each has filled its hour. The load keeps a bounded lead over the worker, and the
input topic is cut by size, so that neither disk nor page cache grows with the events.
Exits 1 unless resident memory in the end is within 5 % of that after the first quarter
(5 million of the default 20). Writes build/soak.json; logs are in build/soak/.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from load.feed import FLUSH_S, events, make_producer, send
from load.local_kafka import LocalKafka
from load.worker_process import WorkerProcess, create_topics
from worker.assets import asset_dir
from worker.core.channels import US_PER_S
from worker.gateway import now_us
from worker.models.bundle import load_bundle

BUILD = Path("build")
FOLDER = BUILD / "soak"
SOURCE = "soak-events"
MACHINES = 1_000
INTERVAL_S = 2.4
WINDOW_S = 66 * 60
"""Until a machine has filled its window and the panes that the grace adds."""
BATCH = 10_000
MAX_LEAD = 100_000
SETTLED_SHARE = 0.25
SPAN_SHARE = 0.025
"""Memory at a point is the median of the samples over so much of the events before it."""
ROWS = 20
SAMPLE_EVERY_S = 0.2
BOUND = 0.05
START_S = 60.0
STALLED_S = 120.0
MIB = 1024 * 1024
INPUT = {"segment.bytes": str(16 * MIB), "retention.bytes": str(64 * MIB)}
CHANGELOG = {"segment.bytes": str(16 * MIB), "segment.ms": "60000"}
BROKER = {"log.retention.check.interval.ms": "5000", "log.initial.task.delay.ms": "5000"}


class Sample(NamedTuple):
    """The worker at one moment; ``memory_mib`` is its resident memory."""

    time_s: float
    events: int
    memory_mib: float


@dataclass
class Result:
    """What a run showed; ``disk_mib`` is the largest that the broker's data were."""

    total: int
    samples: list[Sample]
    disk_mib: float
    status: int

    def memory_mib(self, share: float) -> float:
        """When ``share`` of the events were done: the median of the samples just before."""
        end = share * self.total
        begin = end - SPAN_SHARE * self.total
        near = [s.memory_mib for s in self.samples if begin < s.events <= end]
        return statistics.median(near or [self._first_from(end).memory_mib])

    def _first_from(self, events: float) -> Sample:
        return next(s for s in self.samples if s.events >= events)

    @property
    def growth(self) -> float:
        """Change of memory from the settled state to the end, as a share."""
        return self.memory_mib(1.0) / self.memory_mib(SETTLED_SHARE + SPAN_SHARE) - 1.0

    @property
    def passed(self) -> bool:
        """Whether memory stayed and the worker ended in order."""
        return abs(self.growth) <= BOUND and self.status == 0


def run(total: int, folder: Path, tell: Callable[[Sample], None]) -> Result:
    """Let a worker score ``total`` events, and sample it.

    Args:
        tell: is given each sample.

    Raises:
        RuntimeError: the worker ended or stood still.
    """
    spec = load_bundle("machine-health", asset_dir("models")).spec
    # Short runs take longer steps, so that windows are full before memory is first judged.
    interval_s = max(INTERVAL_S, WINDOW_S * MACHINES / (SETTLED_SHARE * total))
    span_us = int(total / MACHINES * interval_s * US_PER_S)
    source = events(
        spec,
        machines=MACHINES,
        interval_s=interval_s,
        start_us=now_us() - span_us - 3600 * US_PER_S,
        seed=1,
        troubled=True,
    )
    with LocalKafka(folder / "kafka", overrides=BROKER) as kafka:
        settings = {
            "kafka.brokers": kafka.bootstrap_servers,
            "topics.sensor_events": SOURCE,
            "worker.app_id": "soak",
            "worker.instance_id": "0",
        }
        create_topics(settings, {"sensor-events": INPUT, "machine-state-changelog": CHANGELOG})
        with WorkerProcess(settings, folder / "worker.log") as worker:
            worker.wait_until_healthy(START_S)
            producer = make_producer(kafka.bootstrap_servers)
            samples = [_sample(worker)]
            sent, disk_mib = 0, 0.0
            while samples[-1].events < total:
                while sent < min(total, samples[-1].events + MAX_LEAD):
                    batch = list(islice(source, min(BATCH, total - sent)))
                    send(producer, SOURCE, batch)
                    sent += len(batch)
                if sent == total and producer.flush(FLUSH_S):
                    raise RuntimeError(f"Kafka did not take all events within {FLUSH_S:.0f} s")
                time.sleep(SAMPLE_EVERY_S)
                samples.append(_sample(worker))
                _check_progress(samples)
                disk_mib = max(disk_mib, _size_mib(folder / "kafka"))
                tell(samples[-1])
            return Result(total, samples, disk_mib, worker.terminate())


def _sample(worker: WorkerProcess) -> Sample:
    metrics = worker.metrics()
    if not metrics:
        raise RuntimeError(
            f"the worker does not answer; its exit status is {worker.process.poll()}"
        )
    return Sample(
        time.perf_counter(),
        int(metrics.get("events_processed_total", 0)),
        metrics["process_resident_memory_bytes"] / MIB,
    )


def _check_progress(samples: list[Sample]) -> None:
    last = samples[-1]
    moved_s = next(s.time_s for s in samples if s.events == last.events)
    if last.time_s - moved_s > STALLED_S:
        raise RuntimeError(f"the worker stands still at {last.events} events")


def _size_mib(folder: Path) -> float:
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # segments come and go
            size += path.stat().st_blocks * 512
    return size / MIB


def figures(result: Result) -> dict[str, Any]:
    """For build/soak.json."""
    first, last = result.samples[0], result.samples[-1]
    settled = SETTLED_SHARE * result.total
    rows = [
        {"events": int(share * result.total), "memory_mib": round(result.memory_mib(share), 1)}
        for share in [n / ROWS for n in range(1, ROWS + 1)]
    ]
    return {
        "events": result.total,
        "events_per_s": round(result.total / (last.time_s - first.time_s)),
        "settled_events": int(settled),
        "memory_settled_mib": round(result.memory_mib(SETTLED_SHARE + SPAN_SHARE), 1),
        "memory_end_mib": round(result.memory_mib(1.0), 1),
        "memory_peak_mib": round(max(s.memory_mib for s in result.samples), 1),
        "memory_growth_ratio": round(result.growth, 4),
        "disk_peak_mib": round(result.disk_mib),
        "passed": result.passed,
        "rows": rows,
    }


def main() -> int:
    """Run the soak; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="make soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--events", type=int, default=20_000_000, help="default 20000000")
    options = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=options.events)

        def tell(sample: Sample) -> None:
            memory = f"events scored, {sample.memory_mib:.0f} MiB"
            progress.update(task, completed=sample.events, description=memory)

        result = run(options.events, FOLDER, tell)
    told = figures(result)
    table = Table(title=f"{MACHINES} machines, {result.total} events")
    table.add_column("events", justify="right")
    table.add_column("resident memory", justify="right")
    for row in told["rows"]:
        table.add_row(f"{row['events']:,}", f"{row['memory_mib']:.1f} MiB")
    Console().print(table)
    print(
        f"{told['events_per_s']} events/s; memory after {told['settled_events']} events "
        f"{told['memory_settled_mib']} MiB, in the end {told['memory_end_mib']} MiB "
        f"({result.growth:+.1%}, bound {BOUND:.0%}); Kafka took {told['disk_peak_mib']} MiB of disk"
    )
    path = BUILD / "soak.json"
    path.write_text(json.dumps(told, indent=2) + "\n")
    print(f"written to {path}")
    return 0 if result.passed else 1


if __name__ == "__main__":
    sys.exit(main())
