"""Model inputs: from readings and their window aggregates to the feature matrix.

Owns the order and meaning of the features that ``ChannelSpec.feature_names`` names.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worker.core import windows
from worker.core.channels import MAX_NUMBER, STATISTICS, ChannelSpec, Kind
from worker.core.state import PartitionState

Floats = NDArray[np.float64]

FLOAT32_MAX = float(np.finfo(np.float32).max)


def assemble(spec: ChannelSpec, values: Floats, aggregates: Floats, expected: Floats) -> Floats:
    """Lay out readings, window statistics and derived features side by side.

    A reading that is missing counts as its window's mean; a channel without any
    reading in the window takes the expected value of each of its features.

    Args:
        values: (n, C) readings, NaN where missing.
        aggregates: (n, C, 5) as :func:`worker.core.windows.aggregate` writes them.
        expected: (F,) what each feature usually is.

    Returns:
        (n, F) in the order of ``spec.feature_names``.
    """
    n, channels = values.shape
    mean = aggregates[:, :, windows.MEAN]
    raw = np.where(np.isnan(values), mean, values)
    statistics = np.empty((n, channels, len(STATISTICS)))
    statistics[:, :, 0] = mean
    statistics[:, :, 1] = aggregates[:, :, windows.STD]
    statistics[:, :, 2] = aggregates[:, :, windows.MIN]
    statistics[:, :, 3] = aggregates[:, :, windows.MAX]
    statistics[:, :, 4] = raw - mean

    unseen = aggregates[:, :, windows.COUNT] == 0
    if unseen.any():
        end = channels * (1 + len(STATISTICS))
        raw = np.where(unseen, expected[:channels], raw)
        usual = expected[channels:end].reshape(channels, len(STATISTICS))
        statistics = np.where(unseen[:, :, None], usual, statistics)

    position = {channel.name: c for c, channel in enumerate(spec.continuous)}
    derived = np.empty((n, len(spec.derived)))
    for column, feature in enumerate(spec.derived):
        a, b = (raw[:, position[name]] for name in feature.operands)
        combined = a * b if feature.kind is Kind.PRODUCT else a - b
        derived[:, column] = feature.factor * combined
    return np.concatenate([raw, statistics.reshape(n, channels * len(STATISTICS)), derived], axis=1)


def to_model_input(features: Floats) -> NDArray[np.float32]:
    """Narrow features to what models take; beyond float32's range they stay at its end."""
    return np.clip(features, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)


def features_of(
    spec: ChannelSpec,
    machine_ids: Sequence[str],
    times_us: NDArray[np.int64],
    values: Floats,
    expected: Floats | None = None,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Compute the features of a whole table of readings, as training needs them.

    Args:
        machine_ids: n ids; rows of a machine in arrival order.
        times_us: (n,) event times.
        values: (n, C) readings of ``spec.continuous``, NaN where missing.
        expected: (F,) stand-ins for channels without any reading; default NaN.

    Returns:
        Features (n, F), and which rows (n,) have them: late rows do not.
    """
    state = PartitionState(spec)
    machines = state.indices([machine_id.encode() for machine_id in machine_ids])
    values = mask_impossible(spec, values)
    aggregates, watermarks_us = state.add(machines, times_us, values)
    if expected is None:
        expected = np.full(len(spec.feature_names), np.nan)
    features = assemble(spec, values, aggregates, expected)
    return features, watermarks_us == windows.EMPTY


def mask_impossible(spec: ChannelSpec, values: Floats) -> Floats:
    """Replace readings outside their channel's physical range by NaN.

    Channels without a range are bounded by ``MAX_NUMBER``, so that squares stay finite.

    Returns:
        The readings (n, C).
    """
    low = np.array([-MAX_NUMBER if c.min is None else c.min for c in spec.continuous])
    high = np.array([MAX_NUMBER if c.max is None else c.max for c in spec.continuous])
    impossible = (values < low) | (values > high)
    return np.where(impossible, np.nan, values) if impossible.any() else values
