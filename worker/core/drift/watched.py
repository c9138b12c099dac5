"""What is watched for drift: the model's inputs, and what the model makes of them.

Owns how rows are made of what scoring has at hand anyway, the same in training and in the worker.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worker.core.channels import ChannelSpec
from worker.core.drift.reference import SCORE

REMEMBERING = ("slow_mean_short", "slow_mean", "slow_normalised")
"""Kinds of inputs that remember."""


def watched_columns(spec: ChannelSpec) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Names, units and owners (F + 1) of the columns.

    The owner is the channel that a column alone depends on; "" for derived signals, residuals and
    the score, which depend on several.
    """
    owners = []
    for feature in spec.features:
        alone = feature.owner < len(spec.continuous) and "residual" not in feature.kind
        owners.append(spec.signals[feature.owner] if alone else "")
    return (*spec.feature_names, SCORE), (*spec.feature_units, ""), (*owners, "")


def remembering(spec: ChannelSpec) -> tuple[bool, ...]:
    """Which of the columns (F + 1) remember for longer than a window.

    Where they are in a day depends on when their machine's state began, so what was usual at an
    hour of the training says nothing of them.
    """
    return (*(feature.kind in REMEMBERING for feature in spec.features), False)


def watched_rows(
    spec: ChannelSpec,
    values: NDArray[np.float64],
    inputs: NDArray[np.float32],
    scores: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Rows (n, F + 1) for :class:`worker.core.drift.partial.Collector`.

    Inputs stand in for what is missing; to drift, missing is missing.

    Args:
        values: (n, C) readings of the continuous channels, NaN where missing or masked.
        inputs: (n, F) of the model.
        scores: (n,) by the isolation forest alone.
    """
    missing = np.isnan(values)
    if spec.derived:
        pairs = np.array(spec.operands)
        missing = np.concatenate([missing, missing[:, pairs].any(axis=2)], axis=1)
    events = np.zeros((len(values), len(spec.events)), np.bool_)
    missing = np.concatenate([missing, events], axis=1)
    rows = np.empty((len(inputs), inputs.shape[1] + 1), np.float32)
    rows[:, :-1] = np.where(missing[:, list(spec.feature_owners)], np.float32(np.nan), inputs)
    rows[:, -1] = scores
    return rows
