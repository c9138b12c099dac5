"""From model scores to anomalies: threshold, confidence, severity, causes.

Owns the decision and its explanation. The model itself is a function handed in
(an ONNX session in production); nothing here knows what is behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from worker.core.channels import ChannelSpec
from worker.core.messages import Cause, Severity

Model = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Maps features (n, F) to anomaly scores (n,) in [-1, 1], lower is worse.

The score of a row must not depend on the other rows of the call.
"""

MAX_CAUSES = 3
NOTABLE_DEVIATION = 2.0
LARGEST_DEVIATION = 1e6
"""Larger ones are reported as this: a feature that never moved in training has no scale."""
# An isolation forest saturates: few readings get beyond a quarter of the way to -1.
MEDIUM_DEPTH = 0.05
HIGH_DEPTH = 0.15


@dataclass(frozen=True)
class Scoring:
    """What training learned besides the model.

    Attributes:
        version: ``name/version`` of the bundle, copied into every anomaly.
        threshold: scores below it are anomalies.
        expected: (F,) training median of each feature.
        spread: (F,) robust standard deviation of each feature in training, > 0.
        score_quantiles: (Q,) ascending training scores at Q evenly spaced probabilities.
    """

    version: str
    threshold: float
    expected: NDArray[np.float64]
    spread: NDArray[np.float64]
    score_quantiles: NDArray[np.float64]

    @cached_property
    def _probabilities(self) -> NDArray[np.float64]:
        return np.linspace(0.0, 1.0, len(self.score_quantiles))

    def confidence(self, score: float) -> float:
        """Share of training readings that were less abnormal than ``score``."""
        below = np.interp(score, self.score_quantiles, self._probabilities)
        return float(round(1.0 - below, 6))

    def severity(self, score: float) -> Severity:
        """Grade by how far ``score`` is on the way from the threshold to the worst score, -1."""
        depth = (self.threshold - score) / (1.0 + self.threshold)
        if depth >= HIGH_DEPTH:
            return "high"
        return "medium" if depth >= MEDIUM_DEPTH else "low"

    def causes(self, spec: ChannelSpec, features: NDArray[np.float64]) -> list[Cause]:
        """Rank what deviates most from training, one feature a channel.

        Args:
            features: (F,) one row, in the units of ``spec.feature_units``.

        Returns:
            At most ``MAX_CAUSES`` causes with at least ``NOTABLE_DEVIATION``
            robust standard deviations, largest first.
        """
        deviation = (features - self.expected) / self.spread
        units = spec.feature_units
        owners = feature_owners(spec)
        causes: dict[str, Cause] = {}
        for i in np.argsort(-np.abs(deviation), kind="stable"):
            if len(causes) == MAX_CAUSES or abs(deviation[i]) < NOTABLE_DEVIATION:
                break
            if owners[i] not in causes:
                causes[owners[i]] = Cause(
                    channel=owners[i],
                    unit=units[i],
                    value=_shortest(float(features[i])),
                    expected=float(self.expected[i]),
                    deviation=float(
                        round(np.clip(deviation[i], -LARGEST_DEVIATION, LARGEST_DEVIATION), 3)
                    ),
                    share=0.0,
                )
        return list(causes.values())


def _shortest(value: float) -> float:
    """4.3 for 4.300000190734863: what was kept in single precision, such as a window's maximum."""
    if abs(value) >= 2**24:  # whole numbers from here on have no digits to drop
        return value
    narrow = np.float32(value)
    return float(str(narrow)) if float(narrow) == value else value


def feature_owners(spec: ChannelSpec) -> tuple[str, ...]:
    """The signal that each model input belongs to."""
    return tuple(spec.signals[owner] for owner in spec.feature_owners)
