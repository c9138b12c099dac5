"""What is said of each column of a window."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.core.drift import calibration, contrasts, detectable, statistics
from worker.core.drift.cells import CELLS, MISSING
from worker.core.drift.comparison import Comparison
from worker.core.drift.distances import Distances
from worker.core.drift.outputs import Direction, FeatureDrift, Test
from worker.core.drift.streams import Stream

Floats = NDArray[np.float64]

KINDS = len(contrasts.KINDS)
OF_COLUMNS = (*contrasts.KINDS, "range")
"""Tests of each column that vote."""


@dataclass(frozen=True)
class Votes:
    """Of the K tests of F columns: :data:`OF_COLUMNS`, then those over several windows.

    Attributes:
        p_values, adjusted, levels: (F, K) chance, the same corrected for all that was tested, and
            the level at which a test votes by itself.
        voted: (F, K).
        over: tests over several windows.
    """

    p_values: Floats
    adjusted: Floats
    levels: Floats
    voted: NDArray[np.bool_]
    over: dict[str, Stream]


def describe(held: Comparison, votes: Votes) -> tuple[FeatureDrift, ...]:
    """All columns, the most significant first."""
    distances = Distances(held.reference, held.group, held.window)
    rows, reference_rows = held.effective_rows, held.effective_reference
    told = distances.tests(rows * reference_rows / (rows + reference_rows))
    scores = distances.score()
    effects, least = _effects(held, distances), _smallest(held, votes.levels)
    values = np.column_stack(
        [held.means[: held.count * KINDS].reshape(held.count, KINDS), distances.outside]
    )
    moved = held.group.centers[: held.count * KINDS].reshape(held.count, KINDS)
    found = []
    for f, (name, unit) in enumerate(
        zip(held.reference.columns, held.reference.units, strict=True)
    ):
        units = (unit, unit, "", "", "", "")
        own = tuple(
            Test(
                name=kind,
                value=float(values[f, k]),
                p_value=float(votes.p_values[f, k]),
                effect=float(effects[f, k]),
                unit=units[k],
                effective_rows=float(rows[f]),
                smallest_detectable=float(least[f, k]),
                voted=bool(votes.voted[f, k]),
            )
            for k, kind in enumerate(OF_COLUMNS)
        )
        shift = np.append(values[f, :KINDS] - moved[f], 0.0)
        shift = np.append(shift, [one.moved[f] for one in votes.over.values()])
        found.append(
            FeatureDrift(
                feature=name,
                unit=unit,
                drifted=bool(votes.voted[f].any()),
                score=float(scores[f]),
                direction=_direction(votes.voted[f], votes.adjusted[f], shift, distances.side(f)),
                effect=float(effects[f, contrasts.LOCATION]),
                p_value=float(votes.adjusted[f].min()),
                effective_rows=float(rows[f]),
                smallest_detectable=float(least[f, contrasts.LOCATION]),
                tests=(*own, *_over(votes, f, unit, float(rows[f])), *told[f]),
            )
        )
    found.sort(key=lambda one: (not one.drifted, one.p_value, -one.score))
    return tuple(found)


def _over(votes: Votes, f: int, unit: str, rows: float) -> list[Test]:
    """Tests of a column over several windows; ``rows``: independent ones in a window."""
    return [
        Test(
            name=name,
            value=float(one.value[f]),
            p_value=float(one.p_value[f]),
            effect=float(one.moved[f]),
            unit=unit,
            effective_rows=rows * float(one.windows[f]),
            smallest_detectable=float(one.least[f]),
            voted=bool(votes.voted[f, len(OF_COLUMNS) + k]),
        )
        for k, (name, one) in enumerate(votes.over.items())
    ]


def _wider(spread: Floats) -> Floats:
    """Share by which a normal distribution is wider whose spread's contrast is the given one.

    The contrast is ``(u^2 - 1) / sqrt(2)``: of k times the deviation, ``(k^2 - 1) / sqrt(2)``.
    """
    wider: Floats = np.sqrt(np.maximum(1.0 + math.sqrt(2.0) * spread, 0.0)) - 1.0
    return wider


def _effects(held: Comparison, distances: Distances) -> Floats:
    """Effects (F, 6): mean and deviation in the columns' units, the others plain numbers."""
    own = (held.means - held.group.centers)[: held.count * KINDS].reshape(held.count, KINDS)
    effects = np.column_stack([own, distances.outside])
    effects[:, contrasts.LOCATION] = distances.shift()
    effects[:, contrasts.SPREAD] = _wider(own[:, contrasts.SPREAD]) * held.group.sd
    return effects


def _smallest(held: Comparison, levels: Floats) -> Floats:
    """The smallest effects (F, 6) that are found nine times in ten, each by its own test."""
    group, columns = held.group, held.count * KINDS
    shape = (held.count, KINDS)
    error = held.departure.error[:columns].reshape(shape)
    limits = calibration.limit_of(
        levels[:, :KINDS].ravel(), held.departure.freedom[:columns]
    ).reshape(shape)
    least = (limits + detectable.FOUND_NINE_IN_TEN) * error
    spread = detectable.of_spread(limits[:, contrasts.SPREAD], error[:, contrasts.SPREAD])
    wider = _wider(spread)
    share = statistics.shares(group.counts[:, :CELLS])
    for f, sd in enumerate(group.sd):
        present = share[f] > 0.0
        usual = detectable.Usual(group.values[f, present], share[f, present])
        of_location, of_spread = group.scores[f, :CELLS, : contrasts.SKEW][present].T
        target = least[f, contrasts.LOCATION]
        if sd > 0.0:
            least[f, contrasts.LOCATION] = usual.shift(of_location, target, target * sd)
            wider[f] = usual.widening(of_spread, spread[f], wider[f])
    least[:, contrasts.SPREAD] = wider * group.sd
    missing = contrasts.MISSINGNESS
    gone = group.counts[:, MISSING] / group.rows
    rows = held.worth(gone, np.arange(held.count) * KINDS + missing)
    limit = gone + limits[:, missing] * error[:, missing]
    least[:, missing] = detectable.of_share(limit, rows) - gone
    outside = detectable.of_range(levels[:, KINDS], held.effective_rows, held.effective_reference)
    return np.column_stack([least, outside])


def _direction(
    votes: NDArray[np.bool_], p_values: Floats, shift: Floats, side: Direction
) -> Direction:
    """What happened, by the most significant vote."""
    if not votes.any():
        return "none"
    first = int(np.argmin(np.where(votes, p_values, np.inf)))
    if votes[contrasts.LOCATION]:
        first = contrasts.LOCATION
    if first == KINDS:
        return side
    choices: dict[int, tuple[Direction, Direction]] = {
        contrasts.LOCATION: ("down", "up"),
        contrasts.SPREAD: ("narrower", "wider"),
        contrasts.SKEW: ("shape", "shape"),
        contrasts.TAILS: ("shape", "shape"),
        contrasts.MISSINGNESS: ("missing", "missing"),
    }
    return choices.get(first, ("down", "up"))[int(shift[first] > 0.0)]
