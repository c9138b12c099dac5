"""``make fuzz``: hostile payloads through a real worker on a real Kafka, each accounted for.

The worker runs with a bundle that calls every event an anomaly, so that each record
shows in exactly one output topic. Exits 1 unless that is so, the metrics say the same,
every clear case was judged as it must be, and the worker is the process that was started.
Writes build/fuzz.json; logs are in build/fuzz/.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from load.feed import FLUSH_S, make_producer
from load.hostile import Generator
from load.local_kafka import MAX_MESSAGE_BYTES, LocalKafka
from load.records import iterate_topic
from load.torture.recovery import Watch
from load.verdict import EVERY_EVENT, revealing_bundle
from load.worker_process import WorkerProcess, create_topics
from worker.assets import asset_dir
from worker.core.messages import DEAD_LETTER_REASONS, Origin
from worker.gateway import now_us
from worker.models.bundle import load_bundle

BUILD = Path("build")
FOLDER = BUILD / "fuzz"
APP_ID = "fuzz"
SOURCE = "fuzz-events"
EXPECTED = "expected"
"""Header of a record whose outcome is clear: what it must be."""
BATCH = 1_000
START_S = 60.0
DEADLINE_S = 600.0
MIB = 1024 * 1024

Tell = Callable[[int], None]


class _Output(msgspec.Struct):
    """The part of an output that says what became of which record."""

    id: str = ""
    reason: str = ""
    origin: Origin | None = None


@dataclass
class Account:
    """What became of every payload, "scored", "late" or a reason of a dead letter.

    Attributes:
        metrics, topics: how many of each outcome, as the worker counted and as it published.
        clear: how many of each outcome are certain beforehand.
        unaccounted, doubled: records with no outcome, or more than one.
        misjudged: clear ones with another outcome; some of them in words.
        alive: whether the worker was still the process that was started.
        status: its exit status when it was asked to end.
        memory_mib: resident memory when it was ready, at most, and in the end.
    """

    produced: int
    seed: int
    metrics: Counter[str] = field(default_factory=Counter)
    topics: Counter[str] = field(default_factory=Counter)
    clear: Counter[str] = field(default_factory=Counter)
    unaccounted: int = 0
    doubled: int = 0
    misjudged: int = 0
    examples: list[str] = field(default_factory=list)
    alive: bool = False
    status: int | None = None
    memory_mib: list[float] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether everything is as it must be."""
        return (
            self.metrics == self.topics
            and self.topics.total() == self.produced
            and not (self.unaccounted or self.doubled or self.misjudged)
            and self.alive
            and self.status == 0
        )


def run(payloads: int, seed: int, folder: Path, tell: Tell) -> Account:
    """Publish payloads, wait until the worker has applied them, and account for each.

    Args:
        tell: is given how many were applied so far.

    Raises:
        RuntimeError, TimeoutError: the worker ended, or did not apply them in time.
    """
    bundle_folder = revealing_bundle(folder / "bundle", EVERY_EVENT)
    bundle = load_bundle(bundle_folder, asset_dir("models"))
    account = Account(payloads, seed)
    with LocalKafka(folder / "kafka") as kafka:
        settings = {
            "kafka.brokers": kafka.bootstrap_servers,
            "topics.sensor_events": SOURCE,
            "worker.app_id": APP_ID,
            "worker.instance_id": "0",
            "worker.bundle": str(bundle_folder.resolve()),
        }
        create_topics(settings, {"sensor-events": {"max.message.bytes": str(MAX_MESSAGE_BYTES)}})
        generator = Generator(bundle.spec, seed, now_us() // 1000)
        with (
            Watch(kafka.bootstrap_servers, APP_ID, SOURCE) as watch,
            WorkerProcess(settings, folder / "worker.log") as worker,
        ):
            worker.wait_until_healthy(START_S)
            memory = [_memory_mib(worker)]
            _publish(kafka.bootstrap_servers, generator, payloads, worker, memory, tell)
            samples = worker.wait_for_events(payloads, DEADLINE_S, 0.5)
            memory += [metrics["process_resident_memory_bytes"] / MIB for _, metrics in samples]
            tell(payloads)
            watch.wait_for_all(DEADLINE_S)
            account.memory_mib = [round(m, 1) for m in (memory[0], max(memory), memory[-1])]
            account.metrics = _counted(worker)
            account.alive = worker.process.poll() is None
            account.status = worker.terminate()
            partitions = sorted(watch.ends())
        for partition in partitions:
            _account(account, settings, partition)
    return account


def _publish(
    brokers: str,
    generator: Generator,
    payloads: int,
    worker: WorkerProcess,
    memory: list[float],
    tell: Tell,
) -> None:
    producer = make_producer(brokers, {"queue.buffering.max.kbytes": 256 * 1024})
    source = islice(generator, payloads)
    while batch := list(islice(source, BATCH)):
        for key, value, expected in batch:
            headers: Any = [] if expected is None else [(EXPECTED, expected.encode())]
            while True:
                try:
                    producer.produce(SOURCE, value, key, headers=headers)
                    break
                except BufferError:
                    producer.poll(0.1)
        producer.poll(0)
        metrics = worker.metrics()
        memory.append(metrics.get("process_resident_memory_bytes", 0.0) / MIB)
        tell(int(metrics.get("events_processed_total", 0)))
    left = producer.flush(FLUSH_S)
    if left:
        raise RuntimeError(f"{left} payloads were not taken by Kafka within {FLUSH_S:.0f} s")


def _memory_mib(worker: WorkerProcess) -> float:
    return worker.metrics()["process_resident_memory_bytes"] / MIB


def _counted(worker: WorkerProcess) -> Counter[str]:
    """Outcomes as the worker's metrics have them."""
    metrics = worker.metrics()
    outcomes = Counter(
        scored=int(metrics["events_scored_total"]), late=int(metrics["late_events_total"])
    )
    pattern = r'^dead_letters_total\{reason="([\w-]+)"\} ([\d.e+]+)$'
    for reason, count in re.findall(pattern, worker.get("/metrics"), re.MULTILINE):
        outcomes[reason] += int(float(count))
    return +outcomes


def _account(account: Account, settings: dict[str, str], partition: int) -> None:
    """Find the outcome of every record of one partition."""
    brokers = settings["kafka.brokers"]
    decode = msgspec.json.Decoder(_Output).decode
    outcomes: dict[int, str] = {}
    for stream, scored_or_late in STREAM_OUTCOMES.items():
        for record in iterate_topic(brokers, stream, [partition]):
            output = decode(record.value or b"")
            offset = output.origin.offset if output.origin else int(output.id.split("-")[-1])
            outcome = scored_or_late or output.reason
            account.doubled += offset in outcomes
            account.topics[outcome] += 1
            outcomes[offset] = outcome
    for record in iterate_topic(brokers, SOURCE, [partition]):
        found = outcomes.get(record.offset)
        account.unaccounted += found is None
        expected = dict(record.headers).get(EXPECTED)
        if expected is None:
            continue
        account.clear[expected.decode()] += 1
        if found != expected.decode():
            account.misjudged += 1
            example = f"{expected.decode()} was {found}: {record.key!r:.100} {record.value!r:.300}"
            account.examples = [*account.examples, example][:5]


STREAM_OUTCOMES = {"anomalies": "scored", "late-events": "late", "dead-letters": ""}
"""Of a record that one of the streams tells of; of a dead letter it is its reason."""


def figures(account: Account) -> dict[str, Any]:
    """For build/fuzz.json."""
    dead = sum(account.topics[reason] for reason in DEAD_LETTER_REASONS)
    return {
        "payloads": account.produced,
        "scored": account.topics["scored"],
        "late": account.topics["late"],
        "dead": dead,
        "unaccounted": account.unaccounted,
        "duplicated": account.doubled,
        "misjudged": account.misjudged,
        "crashes": 0 if account.alive and account.status == 0 else 1,
        "memory_ready_mib": account.memory_mib[0],
        "memory_peak_mib": account.memory_mib[1],
        "memory_end_mib": account.memory_mib[2],
        "passed": account.passed,
        "detail": vars(account),
    }


def table(account: Account) -> Table:
    """For people."""
    result = Table(title=f"{account.produced} payloads, seed {account.seed}", show_footer=True)
    result.add_column("outcome", "all")
    columns = {"in metrics": account.metrics, "in topics": account.topics, "known": account.clear}
    for name, counts in columns.items():
        result.add_column(name, f"{counts.total()}", justify="right")
    for outcome in ("scored", "late", *DEAD_LETTER_REASONS):
        result.add_row(outcome, *(f"{counts[outcome]}" for counts in columns.values()))
    return result


def main() -> int:
    """Run the campaign; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="make fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--payloads", type=int, default=1_000_000, help="default 1000000")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    options = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    Console(stderr=True).print(f"seed {options.seed}; logs in {FOLDER}")
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("payloads applied", total=options.payloads)
        account = run(
            options.payloads,
            options.seed,
            FOLDER,
            lambda applied: progress.update(task, completed=applied),
        )
    Console().print(table(account))
    told = figures(account)
    print(
        f"{told['unaccounted']} unaccounted, {told['duplicated']} duplicated, "
        f"{told['misjudged']} misjudged, {told['crashes']} crashes; memory "
        f"{told['memory_ready_mib']} MiB when ready, {told['memory_peak_mib']} at most, "
        f"{told['memory_end_mib']} in the end"
    )
    for example in account.examples:
        print(f"misjudged: {example}")
    path = BUILD / "fuzz.json"
    path.write_text(json.dumps(told, indent=2) + "\n")
    print(f"written to {path}")
    return 0 if account.passed else 1


if __name__ == "__main__":
    sys.exit(main())
