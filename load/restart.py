"""``make bench-restart``: how long a worker takes to come back, by the number of its machines.

Fills a worker's state with an hour of readings of each machine, kills it, and starts it
again. Also prints the memory a machine takes. Writes build/restart.json.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from load.benchmark import publish, stage, worker_settings
from load.local_kafka import LocalKafka
from load.worker_process import WorkerProcess, create_topics

BUILD = Path("build")
MINUTES = 66
"""A whole window and the grace, at a reading a minute: every slot of every machine is used."""
DEADLINE_S = 900.0


@dataclass(frozen=True)
class Restart:
    """One restart after kill -9.

    Attributes:
        ready_s: from the start of the process until /health says ready.
        first_event_s: from the start of the process until an event was scored.
        restore_s: reading the changelog, part of both.
        machine_bytes: resident memory beyond that of a worker without machines, a machine.
    """

    machines: int
    ready_s: float
    first_event_s: float
    restore_s: float
    machine_bytes: float


def measure(brokers: str, machines: int, log: Path) -> Restart:
    """Fill, kill and restart a worker twice: without anything to read, and with."""
    topic = f"restart-{machines}"
    settings = {
        **worker_settings(brokers, topic, topic),
        "worker.max_machines": str(machines),  # keys do not spread evenly
    }
    create_topics(settings)
    with WorkerProcess(settings, log) as worker:
        worker.wait_until_healthy(DEADLINE_S)
        empty_bytes = worker.metrics()["process_resident_memory_bytes"]
    events = machines * MINUTES
    with stage(f"publishing {events:,} events of {machines:,} machines, one a minute"):
        publish(brokers, topic, machines, 60.0, events)
    with (
        stage("scoring them, then kill -9 and restart"),
        WorkerProcess(settings, log) as worker,
    ):
        worker.wait_for_events(events, DEADLINE_S, 0.5)
        time.sleep(2.0)  # until the last commit
        worker.kill()
    with WorkerProcess(settings, log) as worker:
        worker.wait_until_healthy(DEADLINE_S)
        ready_s = time.perf_counter() - worker.started_s
        resting_bytes = worker.metrics()["process_resident_memory_bytes"]
        worker.kill()
    publish(brokers, topic, machines, 60.0, min(machines, 10_000), seed=2)
    with WorkerProcess(settings, log) as worker:
        end_s, metrics = worker.wait_for_events(1, DEADLINE_S)[-1]
    return Restart(
        machines=machines,
        ready_s=ready_s,
        first_event_s=end_s - worker.started_s,
        restore_s=metrics["restore_duration_seconds_sum"],
        machine_bytes=(resting_bytes - empty_bytes) / machines,
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="make bench-restart", description=__doc__)
    parser.add_argument("--machines", type=int, nargs="+", default=[10_000, 100_000])
    options = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    table = Table(title="restart after kill -9")
    for column in ("machines", "ready s", "first event s", "restore s", "bytes a machine"):
        table.add_column(column, justify="right")
    done = []
    with LocalKafka(heap_mb=1024) as kafka:
        for machines in options.machines:
            restart = measure(kafka.bootstrap_servers, machines, BUILD / "restart-worker.log")
            done.append(restart)
            table.add_row(
                f"{restart.machines:,}",
                f"{restart.ready_s:.2f}",
                f"{restart.first_event_s:.2f}",
                f"{restart.restore_s:.2f}",
                f"{restart.machine_bytes:,.0f}",
            )
    Console().print(table)
    path = BUILD / "restart.json"
    path.write_text(json.dumps([asdict(restart) for restart in done], indent=2) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
