"""``make bench``: throughput and restart of the worker on a real Kafka.

Prints events/s exactly-once and at-least-once beside the bare loop of the same run
(the machines are noisy: read the ratios), and how long a worker that was killed
takes to score again with the state of 10,000 machines. Writes build/bench.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from load.benchmark import console, publish, stage, worker_settings
from load.local_kafka import LocalKafka
from load.restart import measure
from load.worker_process import WorkerProcess, create_topics

BUILD = Path("build")
LOG = BUILD / "bench-worker.log"
DEADLINE_S = 300.0
LOOK_EVERY_S = 0.25
"""Often enough for a rate, seldom enough not to be what is measured."""
PARTITIONS = 4


def worker_rate(
    brokers: str, topic: str, events: int, guarantee: str, round_: int
) -> dict[str, float]:
    """Events/s of a fresh worker over the middle of the run, and its shares of time."""
    app_id = f"bench-{guarantee.replace('_', '-')}-{round_}"
    create_topics(worker_settings(brokers, topic, app_id))
    settings = {**worker_settings(brokers, topic, app_id), "worker.processing_guarantee": guarantee}
    with WorkerProcess(settings, LOG) as worker:
        samples = worker.wait_for_events(events, DEADLINE_S, LOOK_EVERY_S)

    def processed(sample: dict[str, float]) -> float:
        return sample.get("events_processed_total", 0.0)

    middle = [s for s in samples if 0.1 * events <= processed(s[1]) <= 0.95 * events]
    (first_s, first), (last_s, last) = middle[0], middle[-1]
    duration_s = last_s - first_s

    def share(name: str) -> float:
        return (
            last[f"{name}_duration_seconds_sum"] - first[f"{name}_duration_seconds_sum"]
        ) / duration_s

    return {
        "events_per_s": (processed(last) - processed(first)) / duration_s,
        "step_share": share("step"),
        "commit_share": share("commit"),
    }


def bare_rate(brokers: str, topic: str, events: int, round_: int) -> dict[str, Any]:
    """Events/s of the bare loop, and its shares of time."""
    command = [
        sys.executable,
        "-m",
        "load.bare_loop",
        brokers,
        topic,
        f"bare-{round_}",
        str(events),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def report(rows: list[dict[str, Any]], restart: dict[str, float], path: Path) -> None:
    """Print the table and write the JSON file."""
    by_name = {row["name"]: row for row in rows}
    bare = by_name["bare loop"]["events_per_s"]
    table = Table(title=f"driftdetector on {os.cpu_count()} cores, Kafka beside it")
    for column in ("", "events/s", "range", "of the bare loop", "share of time by stage"):
        table.add_column(
            column, justify="left" if column in ("", "share of time by stage") else "right"
        )
    for row in rows:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in row["shares"].items())
        table.add_row(
            row["name"],
            f"{row['events_per_s']:,.0f}",
            f"{row['lowest']:,.0f} to {row['highest']:,.0f}",
            f"{row['events_per_s'] / bare:.0%}",
            shares,
        )
    Console().print(table)
    print(
        "restart after kill -9 with 10,000 machines: first scored event after "
        f"{restart['restart_10k_machines_s']:.2f} s, of which restore "
        f"{restart['restore_10k_machines_s']:.2f} s"
    )
    exactly_once = by_name["exactly once"]["events_per_s"]
    at_least_once = by_name["at least once"]["events_per_s"]
    figures = {
        "exactly_once_events_per_s": round(exactly_once),
        "at_least_once_events_per_s": round(at_least_once),
        "bare_loop_events_per_s": round(bare),
        "exactly_once_of_bare_loop_ratio": round(exactly_once / bare, 3),
        "exactly_once_of_at_least_once_ratio": round(exactly_once / at_least_once, 3),
        **{name: round(seconds, 3) for name, seconds in restart.items()},
        "rows": rows,
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"written to {path}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--events", type=int, default=1_500_000, help="per run")
    parser.add_argument("--machines", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=3, help="of each kind")
    options = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    with LocalKafka(heap_mb=1024) as kafka:
        brokers, topic = kafka.bootstrap_servers, "bench-events"
        create_topics(worker_settings(brokers, topic, "bench"))
        with stage(f"publishing {options.events} events of {options.machines} machines"):
            size = publish(brokers, topic, options.machines, 2.4, options.events)
        console.print(f"[dim]mean size {size:.0f} bytes[/dim]")
        runs: dict[str, list[dict[str, Any]]] = {}
        for round_ in range(options.runs):
            with stage(f"round {round_ + 1} of {options.runs}"):
                runs.setdefault("bare loop", []).append(
                    bare_rate(brokers, topic, options.events, round_)
                )
                for guarantee in ("exactly_once", "at_least_once"):
                    runs.setdefault(guarantee.replace("_", " "), []).append(
                        worker_rate(brokers, topic, options.events, guarantee, round_)
                    )
            console.print({name: round(done[-1]["events_per_s"]) for name, done in runs.items()})
        report(
            [_summary(name, done) for name, done in runs.items()],
            _restart_10k(brokers),
            BUILD / "bench.json",
        )


def _restart_10k(brokers: str) -> dict[str, float]:
    restart = measure(brokers, 10_000, LOG)
    return {
        "restart_10k_machines_s": restart.first_event_s,
        "restore_10k_machines_s": restart.restore_s,
    }


def _summary(name: str, done: list[dict[str, Any]]) -> dict[str, Any]:
    rates = [run["events_per_s"] for run in done]
    shares = [key for key in done[0] if key.endswith("_share")]
    return {
        "name": name,
        "events_per_s": statistics.median(rates),
        "lowest": min(rates),
        "highest": max(rates),
        "shares": {
            key.removesuffix("_share"): statistics.median(run[key] for run in done)
            for key in shares
        },
    }


if __name__ == "__main__":
    main()
