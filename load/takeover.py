"""How long partitions wait when their worker is gone, with and without a standby copy.

Two workers share the partitions of a real Kafka under a steady load. One of them is stopped in
order or killed; from then on the committed offset of each of its partitions is watched. The table
has the time until the group has noticed (after a kill that is the session timeout, here 3 s), and
from then on until every moved partition is being committed again. The transaction timeout is as
short: the offsets of a worker that was killed within a commit are unknown until then.
Writes build/takeover.json.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from rich.console import Console
from rich.table import Table

from load.benchmark import publish, stage, worker_settings
from load.feed import Feeder, events
from load.local_kafka import LocalKafka
from load.worker_process import WorkerProcess, create_topics
from worker.assets import asset_dir
from worker.core.channels import US_PER_S
from worker.models.bundle import load_bundle

BUILD = Path("build")
TOPIC = "takeover-events"
APP_ID = "takeover"
PARTITIONS = 4
MINUTES = 66
"""A whole window and the grace, at a reading a minute."""
TIMEOUT_MS = 3_000
DEADLINE_S = 600.0
LOOK_EVERY_S = 0.02
EVENTS_PER_S = 2_000
RESTORED = re.compile(r"restored (\d+) rows of (\d+) machines in partitions .* in ([\d.]+) s")


class Watch:
    """Looks at the group from outside."""

    def __init__(self, brokers: str) -> None:
        self._admin = AdminClient({"bootstrap.servers": brokers})
        self._consumer = Consumer(
            {"bootstrap.servers": brokers, "group.id": APP_ID, "enable.auto.commit": False}
        )

    def members(self) -> dict[str, list[int]]:
        """Partitions by instance."""
        group = self._admin.describe_consumer_groups([APP_ID])[APP_ID].result(30)
        return {
            str(member.group_instance_id): [p.partition for p in member.assignment.topic_partitions]
            for member in group.members
        }

    def committed(self) -> dict[int, int]:
        """Committed offset by partition."""
        partitions = [TopicPartition(TOPIC, partition) for partition in range(PARTITIONS)]
        return {p.partition: p.offset for p in self._consumer.committed(partitions, timeout=30)}

    def lag(self) -> int:
        """Events that are not committed yet."""
        ends = {
            partition: self._consumer.get_watermark_offsets(TopicPartition(TOPIC, partition))[1]
            for partition in range(PARTITIONS)
        }
        committed = self.committed()
        return sum(end - max(committed[partition], 0) for partition, end in ends.items())


@contextmanager
def steady_load(brokers: str, machines: int) -> Iterator[None]:
    """Publish ``EVENTS_PER_S`` events a second of the machines, at their time."""
    source = events(
        load_bundle("machine-health", asset_dir("models")).spec,
        machines=machines,
        interval_s=machines / EVENTS_PER_S,
        start_us=int(time.time() * US_PER_S),
        seed=3,
        troubled=False,
    )
    feeder = Feeder(brokers, TOPIC, source, EVENTS_PER_S)
    feeder.start()
    try:
        yield
    finally:
        feeder.stop()


def settings(brokers: str, instance: str, replicas: int) -> dict[str, str]:
    """Settings of one of the two workers."""
    return {
        **worker_settings(brokers, TOPIC, APP_ID),
        "kafka.client": json.dumps(
            {
                "session.timeout.ms": str(TIMEOUT_MS),
                "transaction.timeout.ms": str(TIMEOUT_MS),
                "heartbeat.interval.ms": "500",
            }
        ),
        "worker.instance_id": instance,
        "worker.commit_interval_ms": "100",
        "worker.max_machines": "100000",
        "worker.standby_replicas": str(replicas),
    }


def wait(what: str, condition: Any) -> None:
    """Wait until ``condition()`` holds.

    Raises:
        RuntimeError: not within the deadline.
    """
    deadline_s = time.perf_counter() + DEADLINE_S
    while not condition():
        if time.perf_counter() > deadline_s:
            raise RuntimeError(f"not within {DEADLINE_S:.0f} s: {what}")
        time.sleep(LOOK_EVERY_S)


def is_balanced(watch: Watch) -> bool:
    """Whether both workers have half of the partitions."""
    owned = watch.members()
    return [len(partitions) for partitions in owned.values()] == [PARTITIONS // 2] * 2


def is_warm(worker: WorkerProcess, replicas: int) -> bool:
    """Whether the copies of a worker are there and up to date."""
    metrics = worker.metrics()
    copies = metrics.get("standby_partitions", 0.0)
    return (
        copies == replicas * PARTITIONS // 2 and metrics.get("standby_lag_rows", 0.0) < EVENTS_PER_S
    )


def lose(
    watch: Watch, survivor: WorkerProcess, log: Path, brokers: str, how: str, replicas: int
) -> dict[str, Any]:
    """Let a second worker join, wait until all is calm, end it, and watch its partitions."""
    name = f"{APP_ID}-b"
    with WorkerProcess(settings(brokers, "b", replicas), BUILD / "takeover-b.log") as victim:
        wait("both workers have half of the partitions", lambda: is_balanced(watch))
        victim.wait_until_healthy(DEADLINE_S)
        wait("the copies are warm", lambda: is_warm(survivor, replicas))
        wait("there is no lag", lambda: watch.lag() < EVENTS_PER_S)
        moved = watch.members()[name]
        told = log.stat().st_size
        lost_s = time.perf_counter()
        (victim.process.kill if how == "kill -9" else victim.process.terminate)()
        wait("the group has noticed", lambda: name not in watch.members())
        noticed_s = time.perf_counter()
        before = watch.committed()
        wait(
            "the moved partitions are committed again",
            lambda: all(now > before[p] for p, now in watch.committed().items() if p in moved),
        )
        end_s = time.perf_counter()
        victim.process.wait(DEADLINE_S)
    (restored,) = RESTORED.findall(log.read_text()[told:])[-1:]
    return {
        "how": how,
        "replicas": replicas,
        "noticed_s": noticed_s - lost_s,
        "take_over_s": end_s - noticed_s,
        "restore_s": float(restored[2]),
        "rows_read": int(restored[0]),
        "machines": int(restored[1]),
    }


def measure(brokers: str, machines: int, runs: int) -> list[dict[str, Any]]:
    """All four ways, in turn, ``runs`` times each."""
    results = []
    log = BUILD / "takeover-a.log"
    watch = Watch(brokers)
    for replicas in (0, 1):
        with WorkerProcess(settings(brokers, "a", replicas), log) as survivor:
            survivor.wait_until_healthy(DEADLINE_S)
            wait("all is processed", lambda: watch.lag() == 0)
            with steady_load(brokers, machines):
                for how in ("stop", "kill -9"):
                    for run in range(runs):
                        with stage(f"{replicas} copies, {how}, run {run + 1} of {runs}"):
                            results.append(lose(watch, survivor, log, brokers, how, replicas))
    return results


def summaries(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Median of each figure, by way of loss and copies."""
    rows = []
    for how in ("stop", "kill -9"):
        for replicas in (0, 1):
            runs = [r for r in results if (r["how"], r["replicas"]) == (how, replicas)]
            figures = [key for key in runs[0] if key not in ("how", "replicas")]
            medians = {key: statistics.median(run[key] for run in runs) for key in figures}
            rows.append({"how": how, "replicas": replicas, **medians})
    return rows


def report(rows: list[dict[str, Any]], machines: int) -> None:
    """Print the table and write build/takeover.json."""
    table = Table(title=f"one of two workers gone, {machines:,} machines")
    for column in ("lost by", "copies", "noticed", "then take-over", "its restore", "rows read"):
        table.add_column(column, justify="left" if column == "lost by" else "right")
    figures: dict[str, Any] = {"machines": machines}
    for row in rows:
        table.add_row(
            row["how"],
            str(row["replicas"]),
            *(f"{row[key]:.2f} s" for key in ("noticed_s", "take_over_s", "restore_s")),
            f"{row['rows_read']:,.0f}",
        )
        name = f"{row['how'].split()[0]}_{'with' if row['replicas'] else 'without'}_copy"
        figures[f"{name}_take_over_s"] = round(row["take_over_s"], 3)
        figures[f"{name}_restore_s"] = round(row["restore_s"], 3)
    for how in ("stop", "kill"):
        for what in ("take_over", "restore"):
            figures[f"{how}_{what}_ratio"] = round(
                figures[f"{how}_with_copy_{what}_s"] / figures[f"{how}_without_copy_{what}_s"], 3
            )
    Console().print(table)
    path = BUILD / "takeover.json"
    path.write_text(json.dumps({**figures, "rows": rows}, indent=2) + "\n")
    print(f"written to {path}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="make bench-takeover", description=__doc__)
    parser.add_argument("--machines", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3, help="of each kind")
    options = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    for name in ("takeover-a.log", "takeover-b.log"):
        (BUILD / name).unlink(missing_ok=True)
    with LocalKafka(heap_mb=1024) as kafka:
        brokers = kafka.bootstrap_servers
        create_topics(settings(brokers, "a", 0))
        count = options.machines * MINUTES
        with stage(f"publishing {count} events of {options.machines} machines, one a minute"):
            publish(brokers, TOPIC, options.machines, 60.0, count)
        report(summaries(measure(brokers, options.machines, options.runs)), options.machines)


if __name__ == "__main__":
    main()
