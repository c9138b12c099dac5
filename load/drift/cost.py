"""What drift costs: rows a second into partials, a window's close, memory over many windows."""

from __future__ import annotations

import gc
import time
from dataclasses import replace
from typing import Any

import numpy as np
import psutil

from load.drift.campaign import SECOND_US, learn
from load.drift.series import Plan, draw
from worker.core.drift import Collector, DriftMonitor, Partial, Reference, Settings
from worker.core.drift.judge import judge

COLUMNS = 32
CHUNK_ROWS = 10_000
MACHINES = 1_000
CHUNKS = 200
CLOSES = 100
MINUTE_US = 60 * SECOND_US
JUDGED_EVERY = 50
SPARSE_ROWS = 20


def measure(windows: int) -> dict[str, float]:
    """Everything; ``windows``: how many to close while memory is watched."""
    rows, found = draw(Plan(0.9, 20_000, (600,), COLUMNS), 1)
    reference = learn(rows, 1)
    return {
        "rows_per_s": _rows_per_s(reference, rows),
        **_close(reference, found[600][0]),
        **_memory(reference, found[600][0], windows),
    }


def _rows_per_s(reference: Reference, rows: Any) -> float:
    """Into the partials of one group, one core, chunks of 10,000 rows of 1,000 machines."""
    collector = Collector(reference.layout, 0, MINUTE_US)
    rng = np.random.default_rng(5)
    values = rows[:CHUNK_ROWS]
    machines = rng.integers(0, MACHINES, CHUNK_ROWS)
    ids = [b"machine-%d" % m for m in range(MACHINES)]
    kinds = ["A"] * CHUNK_ROWS
    anomalous = np.zeros(CHUNK_ROWS, np.bool_)
    fleet = {"kind": kinds}
    best = 0.0
    for _ in range(3):
        begin = time.perf_counter()
        for chunk in range(CHUNKS):
            times = np.arange(CHUNK_ROWS) * 500 + chunk * CHUNK_ROWS * 500
            collector.add(times, machines, ids, values, anomalous, fleet)
        best = max(best, CHUNKS * CHUNK_ROWS / (time.perf_counter() - begin))
        collector.take(1)
    return best


def _partial(reference: Reference, window: Any) -> Partial:
    collector = Collector(reference.layout, 0, 600 * SECOND_US)
    n = len(window)
    times, machine = np.arange(n) * SECOND_US, np.zeros(n, np.int64)
    collector.add(times, machine, [b"m"], window, np.zeros(n, np.bool_), {"kind": ["A"] * n})
    return next(p for p in collector.take(1) if p.group == "fleet")


def _close(reference: Reference, window: Any) -> dict[str, float]:
    partial = _partial(reference, window)
    group = reference.groups["fleet"]
    taken = []
    for _ in range(CLOSES):
        begin = time.perf_counter()
        judge(reference, group, partial, 0.01, 30)
        taken.append((time.perf_counter() - begin) * 1e3)
    begin = time.perf_counter()
    packed = partial.to_bytes()
    pack_ms = (time.perf_counter() - begin) * 1e3
    return {
        "close_median_ms": float(np.median(taken)),
        "close_p99_ms": float(np.quantile(taken, 0.99)),
        "pack_ms": pack_ms,
        "partial_bytes": float(len(packed)),
    }


def _memory(reference: Reference, window: Any, windows: int) -> dict[str, float]:
    """Resident memory after a tenth of the windows and after all, one in fifty of them judged.

    The others have too few rows, for judging a million windows takes hours; they are closed,
    reported and saved all the same.
    """
    settings = Settings(windows_us=(600 * SECOND_US,), grace_us=0)
    monitor = DriftMonitor(reference, "fleet", settings, "bench/1.0.0")
    judged, sparse = _partial(reference, window), _partial(reference, window[:SPARSE_ROWS])
    process, sizes = psutil.Process(), []
    for k in range(windows):
        base = judged if k % JUDGED_EVERY == 0 else sparse
        start_us = k * 600 * SECOND_US
        monitor.add(replace(base, start_us=start_us, end_us=start_us + 600 * SECOND_US, sequence=k))
        monitor.changes()
        if k in (windows // 10, windows - 1):
            gc.collect()
            sizes.append(process.memory_info().rss / 2**20)
    return {"windows": float(windows), "memory_early_mib": sizes[0], "memory_late_mib": sizes[-1]}
