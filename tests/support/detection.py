"""Training on arrays, and scoring of arrays, for tests of detection."""

from __future__ import annotations

import numpy as np

from worker.core.channels import ChannelSpec, spec_from_dict
from worker.core.detection.detector import Detector, Scores
from worker.core.state import PartitionState
from worker.core.table import MachineTable
from worker.training.fit import Fitted
from worker.training.readings import MachineReadings

MINUTE_US = 60_000_000


def spec_of(channels: int) -> ChannelSpec:
    """Channels c0, c1, ... without ranges."""
    return spec_from_dict({"name": "pump", "channel": [{"name": f"c{i}"} for i in range(channels)]})


def readings_of(values: list[np.ndarray]) -> MachineReadings:
    """Readings of machines m0, m1, ..., one a minute."""
    sizes = [len(rows) for rows in values]
    times_us = [np.arange(size, dtype=np.int64) * MINUTE_US for size in sizes]
    return MachineReadings(
        source="test",
        machine_ids=tuple(f"m{k}" for k in range(len(values))),
        starts=np.cumsum([0, *sizes]),
        times_us=np.concatenate(times_us),
        values=np.concatenate(values),
        impossible=np.zeros((sum(sizes), values[0].shape[1]), np.bool_),
        categories={},
        rows=np.arange(sum(sizes)),
    )


def score(
    spec: ChannelSpec,
    fitted: Fitted,
    machine_id: str,
    values: np.ndarray,
    *,
    maintained: slice = slice(0),
    relearn: int | None = None,
) -> Scores:
    """Scores of a machine's readings (n, C), one a minute, from fresh state.

    Args:
        maintained: rows under planned maintenance.
        relearn: the row from which the level is learned anew.
    """
    detector = Detector(
        spec,
        fitted.baselines,
        fitted.codes,
        lambda x: fitted.forest.score_samples(x).astype(np.float32),
        fitted.expected,
    )
    signals = detector.signals(values, [])
    table = MachineTable(
        detector.fields, {"channel": values.shape[1], "signal": signals.shape[1]}, 1
    )
    table.reset(0)
    detector.begin(table, np.array([0]), [machine_id])
    n = len(values)
    planned, anew = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    planned[maintained] = True
    if relearn is not None:
        anew[relearn] = True
    times_us = np.arange(n, dtype=np.int64) * MINUTE_US
    state = PartitionState(spec)
    aggregates, _ = state.add(np.repeat(state.indices([b"m"]), n), times_us, values)
    machines = np.zeros(n, np.int64)
    return detector.score(table, machines, times_us, signals, aggregates, planned, anew)
