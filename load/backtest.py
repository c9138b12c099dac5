"""``make bench-backtest``: how fast are recordings applied again?

Writes a recording of simulated healthy machines, then applies it with one process and with two,
beside the least that has to be done of the same file on one core: read, decode, model. Also
how long the command takes for a file of 100 rows. Read the ratios: the machines are noisy.
Writes build/bench-backtest.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from load.feed import events
from worker.assets import asset_dir
from worker.core.events import EventDecoder
from worker.core.outgoing import partition_of
from worker.models.bundle import load_bundle
from worker.recording.files import segments_of
from worker.recording.parquet import CHUNK_ROWS, READ, Columns, chunk_of, read_batches
from worker.recording.writing import PartitionWriter
from worker.replay.partition import Source
from worker.replay.recorded import backtest_recording
from worker.settings import Settings

BUILD = Path("build")
FOLDER = BUILD / "bench-backtest"
BUNDLE = "machine-health"
TOPIC = "sensor-events"
MACHINES = 200
PARTITIONS = 4
INTERVAL_S = 10.0
START_US = 1_767_225_600_000_000
ROUNDS = 3
SMALL_ROWS = 100
GROUP_ROWS = 50_000


def record(root: Path, total: int) -> None:
    """Write a recording as a gateway's events would have become one."""
    spec = load_bundle(BUNDLE, asset_dir("models")).spec
    source = events(
        spec,
        machines=MACHINES,
        interval_s=INTERVAL_S,
        start_us=START_US,
        seed=1,
        troubled=False,
    )
    writers = [PartitionWriter(root, TOPIC, p, 0, 2**30) for p in range(PARTITIONS)]
    ends = [0] * PARTITIONS
    left, step_ms = total, INTERVAL_S * 1000 / MACHINES
    while left:
        batch = list(islice(source, min(GROUP_ROWS, left)))
        begin = total - left
        left -= len(batch)
        parts: list[list[int]] = [[] for _ in range(PARTITIONS)]
        for i, (key, _) in enumerate(batch):
            parts[partition_of(key, PARTITIONS)].append(i)
        for partition, own in enumerate(parts):
            first, end = ends[partition], ends[partition] + len(own)
            times = [START_US // 1000 + round((begin + i) * step_ms) for i in own]
            columns: Columns = {
                "offset": list(range(first, end)),
                "timestamp": times,
                "timestamp_type": ["append"] * len(own),
                "key": [batch[i][0] for i in own],
                "value": [batch[i][1] for i in own],
                "headers": [None] * len(own),
            }
            writers[partition].write(columns, end)
            ends[partition] = end
    for writer in writers:
        writer.finish()


def bare(root: Path) -> float:
    """Events/s of reading, decoding and the model alone, on one core."""
    bundle = load_bundle(BUNDLE, asset_dir("models"), threads=1)
    decoder = EventDecoder(bundle.spec)
    inputs = np.zeros((CHUNK_ROWS, len(bundle.spec.feature_names)), np.float32)
    begun_s, done = time.perf_counter(), 0
    for batch in read_batches(segments_of(root, TOPIC), CHUNK_ROWS, READ):
        readings, _ = decoder.decode(chunk_of(TOPIC, 0, batch))
        rows = len(readings.rows)
        inputs[:rows, : readings.values.shape[1]] = readings.values
        bundle.model(inputs[:rows])
        done += rows
    return done / (time.perf_counter() - begun_s)


def applied(root: Path, folder: Path, processes: int) -> float:
    """Events/s of a backtest."""
    folder.mkdir(parents=True, exist_ok=True)
    source = Source(root, TOPIC, BUNDLE, Settings())
    result = backtest_recording(source, folder / "scores.parquet", processes)
    return float(result.summary["rows_per_second"])


def start_s(root: Path, folder: Path) -> float:
    """Seconds that the command takes for a small file."""
    batch = next(iter(read_batches(segments_of(root, TOPIC), SMALL_ROWS)))
    rows: list[dict[str, object]] = [
        msgspec.json.decode(value) for value in batch.column("value").to_pylist()
    ]
    file = folder / "small.csv"
    lines = [",".join(rows[0]), *(",".join(str(x) for x in row.values()) for row in rows)]
    file.write_text("\n".join(lines))
    command = [sys.executable, "-m", "worker", "backtest", "--data", str(file)]
    command += ["--model", BUNDLE, "--out", str(folder / "small")]
    begun_s = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return time.perf_counter() - begun_s


def main() -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="make bench-backtest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--events", type=int, default=1_000_000, help="default 1000000")
    options = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    root = FOLDER / "recording"
    measures: dict[str, Callable[[], float]] = {
        "bare loop, one core": lambda: bare(root),
        "backtest, one process": lambda: applied(root, FOLDER, 1),
        "backtest, two processes": lambda: applied(root, FOLDER, 2),
    }
    found: dict[str, list[float]] = {name: [] for name in measures}
    starts: list[float] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("recording", total=ROUNDS * (len(measures) + 1))
        record(root, options.events)
        for _ in range(ROUNDS):
            for name, measure in measures.items():
                progress.update(task, description=name)
                found[name].append(measure())
                progress.advance(task)
            progress.update(task, description="start")
            starts.append(start_s(root, FOLDER))
            progress.advance(task)
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    base = medians["bare loop, one core"]
    table = Table(title=f"{options.events:,} events, {MACHINES} machines, {os.cpu_count()} cores")
    for heading in ("", "events/s", "to the bare loop"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, rate in medians.items():
        table.add_row(name, f"{rate:,.0f}", f"{rate / base:.2f}")
    Console().print(table)
    speed_up = medians["backtest, two processes"] / medians["backtest, one process"]
    start = statistics.median(starts)
    print(f"two processes {speed_up:.2f} times as fast; {SMALL_ROWS} rows take {start:.2f} s")
    path = BUILD / "bench-backtest.json"
    told = {"events": options.events, "events_per_s": found, "start_s": starts}
    path.write_text(json.dumps(told, indent=2) + "\n")
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
