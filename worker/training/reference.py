"""The drift reference of a training: what was usual, and how far it strays by itself.

Owns which rows of a training become the reference: those that the model was fitted on, as it
sees them when it has not learned from them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worker.core.channels import ChannelSpec
from worker.core.detection.detector import Model
from worker.core.drift import (
    Reference,
    learn_reference,
    remembering,
    thinning,
    watched_columns,
    watched_rows,
)
from worker.core.drift.learning import FEWEST_ROWS
from worker.core.features import mask_impossible
from worker.training.fit import Fitted
from worker.training.readings import MachineReadings
from worker.training.window import interval_us

MAX_VALUES = 16
"""A categorical channel with more values makes no groups: each would have few machines."""
MAX_MACHINES = 64
"""So many machines can be groups of their own: all groups share the tolerated false alarms."""


def drift_reference(
    spec: ChannelSpec,
    readings: MachineReadings,
    fitted: Fitted,
    model: Model,
    anomalous: NDArray[np.bool_],
    seed: int,
    machine_groups: bool = False,
) -> Reference | None:
    """Learn the reference; None: no machine has enough rows.

    Args:
        readings: those that were fitted.
        anomalous: (n,) readings in which the finished model finds an anomaly.
        machine_groups: whether each machine is also a group of its own.
    """
    if len(fitted.rows) < FEWEST_ROWS:
        return None
    machine = np.repeat(np.arange(len(readings.machine_ids)), np.diff(readings.starts))
    slot_us = max(round(interval_us(readings) or 1.0), 1)
    own, times_us = machine[fitted.rows], readings.times_us[fitted.rows]
    stride_us = thinning.choose_stride_us(fitted.inputs, times_us, slot_us)
    previous_us = thinning.previous_times(times_us, own)
    counted = np.flatnonzero(thinning.counts(times_us, previous_us, stride_us))
    if len(counted) < FEWEST_ROWS:
        stride_us, counted = max(slot_us // 2, 1), np.arange(len(own))
    at, inputs = fitted.rows[counted], fitted.inputs[counted]
    columns, units, owners = watched_columns(spec)
    values = mask_impossible(spec, readings.values[at])
    named = spec.categorical
    nothing = [None] * len(readings)
    recorded = {c.name: readings.categories.get(c.name, nothing) for c in named}
    return learn_reference(
        columns,
        units,
        watched_rows(spec, values, inputs, model(inputs)),
        readings.times_us[at],
        machine[at],
        max(slot_us, stride_us),
        anomalous=anomalous[at],
        categories={name: [column[i] for i in at.tolist()] for name, column in recorded.items()},
        values={c.name: c.values for c in named},
        grouped=[c.name for c in named if len(c.values) <= MAX_VALUES],
        machine_ids=readings.machine_ids if machine_groups else (),
        owners=owners,
        remembering=remembering(spec),
        stride_us=stride_us,
        seed=seed,
    )
