"""The drift reference of a training: what was usual, and how far it strays by itself.

Owns which rows of a training become the reference: those that the model was fitted on, as it
sees them when it has not learned from them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worker.core.channels import ChannelSpec
from worker.core.drift import Reference, learn_reference, watched_columns, watched_rows
from worker.core.drift.reference import FEWEST_ROWS
from worker.core.features import mask_impossible
from worker.models.bundle import OnnxModel
from worker.training.fit import Fitted
from worker.training.readings import MachineReadings
from worker.training.window import interval_us

MAX_VALUES = 16
"""A categorical channel with more values makes no groups: each would have few machines."""


def drift_reference(
    spec: ChannelSpec,
    readings: MachineReadings,
    fitted: Fitted,
    model: OnnxModel,
    anomalous: NDArray[np.bool_],
    seed: int,
) -> Reference | None:
    """Learn the reference; None: no machine has enough rows.

    Args:
        readings: those that were fitted.
        anomalous: (n,) readings in which the finished model finds an anomaly.
    """
    at = fitted.rows
    if len(at) < FEWEST_ROWS:
        return None
    columns, units, owners = watched_columns(spec)
    values = mask_impossible(spec, readings.values[at])
    machine = np.repeat(np.arange(len(readings.machine_ids)), np.diff(readings.starts))
    named = spec.categorical
    nothing = [None] * len(readings)
    recorded = {c.name: readings.categories.get(c.name, nothing) for c in named}
    return learn_reference(
        columns,
        units,
        watched_rows(spec, values, fitted.inputs, model(fitted.inputs)),
        readings.times_us[at],
        machine[at],
        round(interval_us(readings) or 1.0),
        anomalous=anomalous[at],
        categories={name: [column[i] for i in at.tolist()] for name, column in recorded.items()},
        values={c.name: c.values for c in named},
        grouped=[c.name for c in named if len(c.values) <= MAX_VALUES],
        owners=owners,
        seed=seed,
    )
