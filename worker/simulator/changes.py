"""Changes of a whole fleet, after which machines do not behave as before: what drift is.

Owns how each kind shows in readings. Unlike faults they hit every machine, and stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ChangeKind = Literal["step", "slow-drift", "recalibrated-sensor", "regime-change"]

GAIN = 0.1
WIDER = 0.5


class FleetChange(msgspec.Struct, frozen=True):
    """One change, as the truth file records it.

    Attributes:
        kind: a step and a regime change shift the level, the latter of several channels that also
            scatter more; a slow drift gets there gradually; a recalibrated sensor has another gain.
        channels: names of those that it shows in.
        start_us: event time from which on it is there.
        size: in ordinary standard deviations, of a recalibrated sensor in tenths of the reading.
        ramp_us: how long a slow drift takes until it has its size.
    """

    kind: ChangeKind
    channels: tuple[str, ...]
    start_us: int
    size: float
    ramp_us: int = 0


def apply_changes(
    changes: Sequence[FleetChange],
    channels: Sequence[str],
    scales: Floats,
    times_us: NDArray[np.int64],
    values: Floats,
) -> None:
    """Change readings (B, M, C) of ticks (B,) in place.

    Args:
        channels, scales: names of the C channels, and their ordinary standard deviations.
    """
    for change in changes:
        since_us = times_us - change.start_us
        grown = np.where(since_us >= 0, 1.0, 0.0)
        if change.ramp_us:
            grown *= np.clip(since_us / change.ramp_us, 0.0, 1.0)
        size = (change.size * grown)[:, None]
        for name in change.channels:
            c = channels.index(name)
            if change.kind == "recalibrated-sensor":
                values[:, :, c] *= 1.0 + GAIN * size
                continue
            if change.kind == "regime-change":
                spread = values[:, :, c] - np.median(values[:, :, c])
                values[:, :, c] += WIDER * grown[:, None] * spread
            values[:, :, c] += size * scales[c]
