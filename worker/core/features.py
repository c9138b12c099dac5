"""Model inputs: from readings, window aggregates and streams to the feature matrix.

Owns how each kind of :mod:`worker.core.vocabulary` is computed, and derived signals.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from worker.core import windows
from worker.core.channels import MAX_NUMBER, ChannelSpec, Kind
from worker.core.vocabulary import FEATURE_KINDS, STREAM_KINDS

Floats = NDArray[np.float64]

FLOAT32_MAX = float(np.finfo(np.float32).max)
STREAM_LIMIT = 8.0
"""Streams beyond it look alike to the forest: a tree splits between a feature's extremes in
its training rows, and one wild row would leave all others on the same side."""

(
    _RAW,
    _ROLLING_MEAN,
    _ROLLING_STD,
    _ROLLING_MIN,
    _ROLLING_MAX,
    _ROLLING_DEVIATION,
    _DERIVED,
    _FIRST_STREAM,
) = range(len(FEATURE_KINDS) - len(STREAM_KINDS) + 1)


@njit(
    "void(f8[:, ::1], f8[:, :, ::1], f8[:, ::1], f4[:, :, ::1], i8[::1], i8[::1], f8[::1],"
    "f4[:, ::1])",
    cache=True,
    nogil=True,
)
def _lay_out(  # type: ignore[no-untyped-def]
    values, aggregates, derived, streams, kinds, positions, expected, features
):
    """Fill ``features`` (n, F); kinds and positions are those of ``spec.feature_codes``."""
    for i in range(features.shape[0]):
        for f in range(features.shape[1]):
            kind = kinds[f]
            at = positions[f]
            if kind >= _FIRST_STREAM:
                x = min(max(streams[i, kind - _FIRST_STREAM, at], -STREAM_LIMIT), STREAM_LIMIT)
            elif kind == _DERIVED:
                x = derived[i, at]
            elif aggregates[i, at, windows.COUNT] == 0.0:
                x = np.nan
            elif kind == _RAW:
                x = values[i, at]
                if np.isnan(x):
                    x = aggregates[i, at, windows.MEAN]
            elif kind == _ROLLING_MEAN:
                x = aggregates[i, at, windows.MEAN]
            elif kind == _ROLLING_STD:
                x = aggregates[i, at, windows.STD]
            elif kind == _ROLLING_MIN:
                x = aggregates[i, at, windows.MIN]
            elif kind == _ROLLING_MAX:
                x = aggregates[i, at, windows.MAX]
            else:
                x = values[i, at] - aggregates[i, at, windows.MEAN]
                if np.isnan(x):
                    x = 0.0
            if np.isnan(x):
                features[i, f] = np.float32(expected[f])
            else:
                features[i, f] = np.float32(min(max(x, -FLOAT32_MAX), FLOAT32_MAX))


def assemble(
    spec: ChannelSpec,
    values: Floats,
    aggregates: Floats,
    streams: NDArray[np.float32],
    expected: Floats,
) -> NDArray[np.float32]:
    """Lay out the model's inputs side by side.

    A reading that is missing counts as its window's mean. What cannot be computed, because a
    channel has no reading in the window, is what is expected of the feature.

    Args:
        values: (n, C) readings, NaN where missing or masked.
        aggregates: (n, C, 5) as :func:`worker.core.windows.aggregate` writes them.
        streams: (n, S, D) in the order of ``STREAM_KINDS``, in standard deviations, 0 where
            missing.
        expected: (F,) what each feature usually is, within float32's range.

    Returns:
        (n, F) in the order of ``spec.features``; what is beyond float32's range is at its end.
    """
    kinds, positions = np.array(spec.feature_codes, np.int64)
    derived = np.empty((len(values), 0))
    if _DERIVED in kinds:
        derived = derive(spec, np.where(np.isnan(values), _means(aggregates), values))
    features = np.empty((len(values), len(kinds)), np.float32)
    values = np.ascontiguousarray(values)
    _lay_out(values, aggregates, derived, streams, kinds, positions, expected, features)
    return features


def without(
    channels: NDArray[np.bool_], values: Floats, aggregates: Floats
) -> tuple[Floats, Floats]:
    """Readings (n, C) and aggregates (n, C, 5) as if some channels (C,) had never been read."""
    if not channels.any():
        return values, aggregates
    values, aggregates = values.copy(), aggregates.copy()
    values[:, channels] = np.nan
    aggregates[:, channels, windows.COUNT] = 0.0
    return values, aggregates


def derive(spec: ChannelSpec, values: Floats) -> Floats:
    """Values (n, E) of the derived signals from readings (n, C); NaN where an operand is."""
    derived = np.empty((len(values), len(spec.derived)))
    for column, (signal, (a, b)) in enumerate(zip(spec.derived, spec.operands, strict=True)):
        left, right = values[:, a], values[:, b]
        combined = left * right if signal.kind is Kind.PRODUCT else left - right
        derived[:, column] = signal.factor * combined
    return derived


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


def _means(aggregates: Floats) -> Floats:
    """Mean of each channel's window (n, C), NaN without any reading."""
    seen = aggregates[:, :, windows.COUNT] > 0
    return np.where(seen, aggregates[:, :, windows.MEAN], np.nan)
