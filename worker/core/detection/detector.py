"""Detection of one partition's events: both kernels around the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.core.channels import US_PER_S, ChannelSpec, Kind
from worker.core.detection import decision, streams
from worker.core.detection.baselines import (
    INTERVAL_US,
    PRIOR,
    RESIDUAL,
    SEASONAL,
    STREAMS,
    Baselines,
)
from worker.core.table import Field, Fields, MachineTable

DAY_US = 86_400 * US_PER_S
BUDGET = 0.1
"""False episodes per machine and day that are tolerated unless told otherwise."""

Floats = NDArray[np.float64]
Model = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Maps inputs (n, F) to scores (n,) in [-1, 0], lower is worse; row by row."""

FIELDS: Fields = {"baseline": Field("<i4"), **streams.FIELDS, **decision.FIELDS}


class Scores(NamedTuple):
    """What detection says of n events with D signals.

    Attributes:
        anomaly_score: (n,) in [-1, 1], lower is worse.
        threshold: (n,) an event is an anomaly exactly where its score is below.
        confidence: (n,) probability that a normal reading would have been less
            abnormal; lower while the machine warms up.
        contributions: (n, D) >= 0.
        expected: (n, D) in the signal's unit.
        deviation: (n, D) distance from the expected value, in standard deviations.
        experience: (n,) share of the warm-up that is done, 1 for machines of the training.
    """

    anomaly_score: Floats
    threshold: Floats
    confidence: Floats
    contributions: NDArray[np.float32]
    expected: Floats
    deviation: NDArray[np.float32]
    experience: NDArray[np.float32]


class Detector:
    """Scores events of machines whose moving state is in a :class:`MachineTable`.

    Args:
        baselines: what training learned.
        model: the isolation forest, or None to do without.
        budget: false episodes per machine and day that are tolerated.
        threshold: score that pins the threshold instead.
    """

    fields: Fields = FIELDS

    def __init__(
        self,
        baselines: Baselines,
        model: Model | None = None,
        *,
        budget: float = BUDGET,
        threshold: float | None = None,
    ) -> None:
        self.baselines = baselines
        self._model = model
        self._rows = {name: k + 1 for k, name in enumerate(baselines.machine_ids.tolist())}
        self._moving = np.maximum((baselines.scale > 0.0).sum(axis=1), 1).astype(np.float64)
        if threshold is None:
            opportunities = DAY_US / baselines.machines[:, INTERVAL_US]
            self._opens_at = np.maximum(-np.log10(budget / opportunities), 1.0)
        else:
            self._opens_at = np.full(
                len(baselines) + 1, 4.0 * (1.0 - threshold) / (1.0 + threshold)
            )

    def begin(
        self, table: MachineTable, rows: NDArray[np.int64], machine_ids: Sequence[str]
    ) -> None:
        """Give table rows that were just reset (n,) the baselines of their machines."""
        baseline = np.array([self._rows.get(name, PRIOR) for name in machine_ids], np.int32)
        table["baseline"][rows] = baseline
        table["learned"][rows] = np.where(baseline == PRIOR, 0, streams.KNOWN_PLACE)[:, None]
        table["known"][rows] = self.baselines.known[baseline]

    def follow(
        self,
        table: MachineTable,
        machines: NDArray[np.int64],
        times_us: NDArray[np.int64],
        signals: Floats,
        maintained: NDArray[np.bool_],
        relearn: NDArray[np.bool_],
    ) -> tuple[NDArray[np.float32], Floats, NDArray[np.float32]]:
        """Streams (n, STREAMS, D), expected values (n, D) and experience (n,) of events.

        Args:
            machines: (n,) table rows.
            times_us: (n,) event times.
            signals: (n, D) NaN where missing.
            maintained: (n,) nothing is learned from these.
            relearn: (n,) from here on the location is learned anew.
        """
        known = self.baselines
        out = np.empty((len(signals), STREAMS, signals.shape[1]), np.float32)
        expected = np.empty(signals.shape)
        experience = np.empty(len(signals), np.float32)
        streams.follow(
            machines,
            times_us,
            np.ascontiguousarray(signals),
            maintained,
            relearn,
            known.location,
            known.scale,
            known.signals,
            known.neighbours,
            known.weights,
            known.season,
            known.machines,
            table["baseline"],
            table["learned"],
            table["place"],
            table["streams"],
            out,
            expected,
            experience,
        )
        return out, expected, experience

    def score(
        self,
        table: MachineTable,
        machines: NDArray[np.int64],
        times_us: NDArray[np.int64],
        signals: Floats,
        maintained: NDArray[np.bool_],
        relearn: NDArray[np.bool_],
    ) -> Scores:
        """Score events in arrival order; arguments as in :meth:`follow`."""
        found, expected, experience = self.follow(
            table, machines, times_us, signals, maintained, relearn
        )
        forest = np.full(len(signals), np.nan, np.float32)
        if self._model is not None and len(signals):
            forest = self._model(inputs_of(found))
        known = self.baselines
        n = len(signals)
        scores, thresholds, confidence = np.empty(n), np.empty(n), np.empty(n)
        contributions = np.empty(signals.shape, np.float32)
        decision.decide(
            machines,
            found,
            forest,
            maintained,
            experience,
            known.signals,
            self._moving,
            known.machines,
            known.calibration,
            self._opens_at,
            table["baseline"],
            table["known"],
            table["calm"],
            scores,
            thresholds,
            confidence,
            contributions,
        )
        return Scores(
            scores,
            thresholds,
            confidence,
            contributions,
            expected,
            found[:, RESIDUAL].copy(),
            experience,
        )


def inputs_of(found: NDArray[np.float32]) -> NDArray[np.float32]:
    """Model inputs (n, 4 D) from streams (n, STREAMS, D)."""
    return np.clip(found[:, :SEASONAL].reshape(len(found), -1), -8.0, 8.0)


def signals_of(spec: ChannelSpec, values: Floats) -> Floats:
    """Signals (n, D) from readings (n, C): the readings, then what is derived from them."""
    position = {channel.name: c for c, channel in enumerate(spec.continuous)}
    columns = [values]
    for feature in spec.derived:
        a, b = (values[:, position[name]] for name in feature.operands)
        combined = a * b if feature.kind is Kind.PRODUCT else a - b
        columns.append((feature.factor * combined)[:, None])
    return np.concatenate(columns, axis=1)
