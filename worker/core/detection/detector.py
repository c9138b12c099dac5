"""Detection of one partition's events: both kernels around the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.core.channels import US_PER_S, ChannelSpec
from worker.core.codes import Code, CodeBook
from worker.core.detection import decision, streams
from worker.core.detection.baselines import (
    CLUSTER_ROWS,
    FOREST,
    INTERVAL_US,
    PRIOR,
    ROWS,
    STREAMS,
    UNWATCHED,
    WINDOW,
    Baselines,
)
from worker.core.explanation import with_forest
from worker.core.features import assemble, derive, without
from worker.core.forest import Forest
from worker.core.table import Field, Fields, MachineTable

DAY_US = 86_400 * US_PER_S
BUDGET = 0.1
"""False episodes per machine and day that are tolerated unless told otherwise."""
FARTHEST_PERIODS = 100.0
"""A budget of less than one false episode in so many times the training's length is taken as
that: of what is rarer, nothing is known."""

FOREST_COUNTS = 0.25
"""The forest is asked why from this share of the largest contribution on; less would change
that by 3 % at most, and in nine anomalies of ten it is less."""

Floats = NDArray[np.float64]
Model = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Maps inputs (n, F) to scores (n,) in [-1, 0], lower is worse; row by row."""

FIELDS: Fields = {"baseline": Field("<i4"), **streams.FIELDS, **decision.FIELDS}


class Scores(NamedTuple):
    """What detection says of n events with D signals.

    Attributes:
        anomaly_score: (n,) in [-1, 1], lower is worse.
        threshold: (n,) an event is an anomaly exactly where its score is below. Where it is
            above in any case, what a surprising event would have had to be below.
        confidence: (n,) probability that a normal reading would have been less
            abnormal; lower while the machine warms up.
        contributions: (n, D) >= 0; all 0 for ordinary events.
        expected: (n, D) in the signal's unit, by the machine's own level or by its other
            signals, whichever the value is farther from.
        deviation: (n, D) distance from the expected value, in standard deviations.
        experience: (n,) share of the warm-up that is done, 1 for machines of the training.
        inputs: (n, F) what the model was given.
        forest: (n,) what it said, in [-1, 0], lower is worse.
    """

    anomaly_score: Floats
    threshold: Floats
    confidence: Floats
    contributions: NDArray[np.float32]
    expected: Floats
    deviation: NDArray[np.float32]
    experience: NDArray[np.float32]
    inputs: NDArray[np.float32]
    forest: NDArray[np.float32]


class Detector:
    """Scores events of machines whose moving state is in a :class:`MachineTable`.

    Args:
        baselines: what training learned.
        model: the isolation forest.
        expected: (F,) what each of the model's inputs usually is.
        forest: the model's trees, from which anomalies are explained; None: by all else.
        codes: how rare status codes were in training.
        budget: false episodes per machine and day that are tolerated.
        threshold: score that pins the threshold instead.
    """

    fields: Fields = FIELDS

    def __init__(
        self,
        spec: ChannelSpec,
        baselines: Baselines,
        codes: CodeBook,
        model: Model,
        expected: Floats,
        forest: Forest | None = None,
        *,
        budget: float = BUDGET,
        threshold: float | None = None,
    ) -> None:
        self.spec = spec
        self.baselines = baselines
        self.codes = codes
        self._model = model
        self.usual_inputs = expected
        self._forest = forest
        self._rows = {name: k + 1 for k, name in enumerate(baselines.machine_ids.tolist())}
        self._unwatched = baselines.scale[PRIOR, : len(spec.continuous)] == UNWATCHED
        self._moving = np.maximum((baselines.scale > 0.0).sum(axis=1), 1).astype(np.float64)
        if threshold is None:
            self._opens_at = opening_states(baselines.machines, budget)
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

    def signals(self, values: Floats, codes: Sequence[Sequence[Code | None]]) -> Floats:
        """Signals (n, D) from readings (n, C) and the codes of the event channels."""
        derived, surprisals = derive(self.spec, values), self.codes.surprisals(codes, len(values))
        return np.concatenate([values, derived, surprisals], axis=1)

    def scales_us(self, table: MachineTable, machines: NDArray[np.int64]) -> NDArray[np.int64]:
        """The long scale (n,) of the machines in table rows (n,)."""
        known = self.baselines.machines[table["baseline"][machines]]
        scales_us: NDArray[np.int64] = (known[:, INTERVAL_US] * known[:, WINDOW]).astype(np.int64)
        return scales_us

    def follow(
        self,
        table: MachineTable,
        machines: NDArray[np.int64],
        times_us: NDArray[np.int64],
        signals: Floats,
        maintained: NDArray[np.bool_],
        relearn: NDArray[np.bool_],
    ) -> tuple[NDArray[np.float32], Floats, NDArray[np.float32], NDArray[np.float32]]:
        """Streams (n, STREAMS, D) of events, and what ``Scores`` says of them.

        Returns:
            Streams, then ``expected``, ``deviation`` and ``experience``.

        Args:
            machines: (n,) table rows.
            times_us: (n,) event times.
            signals: (n, D) NaN where missing.
            maintained: (n,) nothing is learned from these.
            relearn: (n,) from here on the location is learned anew.
        """
        known = self.baselines
        out = np.empty((len(signals), STREAMS, signals.shape[1]), np.float32)
        expected, deviation = np.empty(signals.shape), np.empty(signals.shape, np.float32)
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
            deviation,
            experience,
        )
        return out, expected, deviation, experience

    def score(
        self,
        table: MachineTable,
        machines: NDArray[np.int64],
        times_us: NDArray[np.int64],
        signals: Floats,
        aggregates: Floats,
        maintained: NDArray[np.bool_],
        relearn: NDArray[np.bool_],
    ) -> Scores:
        """Score events in arrival order.

        Args:
            aggregates: (n, C, 5) of their windows; see :func:`worker.core.windows.aggregate`.
            machines, times_us, signals, maintained, relearn: as in :meth:`follow`.
        """
        found, expected, deviation, experience = self.follow(
            table, machines, times_us, signals, maintained, relearn
        )
        values = signals[:, : len(self.spec.continuous)]
        values, aggregates = without(self._unwatched, values, aggregates)
        inputs = assemble(self.spec, values, aggregates, found, self.usual_inputs)
        forest = self._model(inputs)
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
            known.tails,
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
        if self._forest is not None:
            baseline = table["baseline"][machines]
            for i in np.flatnonzero(scores < thresholds):
                weight = decision.tail(-float(forest[i]), known.calibration[baseline[i]], FOREST)
                if weight > FOREST_COUNTS * contributions[i].max():
                    shapley = self._forest.shapley(inputs[i])
                    contributions[i] = with_forest(self.spec, contributions[i], shapley, weight)
        return Scores(
            scores,
            thresholds,
            confidence,
            contributions,
            expected,
            deviation,
            experience,
            inputs,
            forest,
        )


def opening_states(machines: Floats, budget: float) -> Floats:
    """The A (K+1,) at which anomalies open, so that false episodes keep to a budget.

    Args:
        machines: see ``Baselines``.
        budget: false episodes per machine and day.
    """
    periods = DAY_US / (machines[:, INTERVAL_US] * machines[:, ROWS])
    per_day = np.maximum(budget, periods / FARTHEST_PERIODS)
    chances = DAY_US / (machines[:, INTERVAL_US] * machines[:, CLUSTER_ROWS])
    return np.maximum(-np.log10(per_day / chances), 1.0)
