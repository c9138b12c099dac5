"""Learning of baselines and the isolation forest from a table of readings.

Owns what a fleet shares: each machine is learned on its own (:mod:`crossfit`), on all cores,
and what it cannot know well from its own rows is drawn towards the fleet's median. Medians
over machines, so that faults inside some machines' training periods do no harm.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from worker.core.channels import ChannelSpec
from worker.core.codes import CodeBook
from worker.core.detection.baselines import (
    BINS,
    CALIBRATION_COLUMNS,
    FAMILIES,
    KNOWN,
    MACHINE_COLUMNS,
    MEMORY,
    NORMALISED,
    PRECISION,
    PRIOR,
    PRIOR_ROWS,
    RESIDUAL,
    ROWS,
    SCALE_ROWS,
    SD,
    SEASON_BINS,
    SHAPE_WEIGHT,
    SIGNAL_COLUMNS,
    STREAMS,
    UNWATCHED,
    WINDOW,
    Baselines,
)
from worker.core.detection.streams import WARM_UP_WINDOWS
from worker.core.features import assemble, derive, mask_impossible
from worker.core.state import PartitionState
from worker.training.calibrate import (
    UNSURE,
    Sample,
    calibrate,
    calibrate_prior,
    own_weights,
)
from worker.training.crossfit import (
    FAST_FLOOR,
    FEW_MACHINES,
    FEWEST_ROWS,
    FLEET_ROWS,
    SLOW_FLOOR,
    Learned,
    Place,
    Series,
    covariance,
    is_counter,
    learn,
    locate,
    neighbours_of,
    normalise,
    regress,
)
from worker.training.forest import FittedForest
from worker.training.newcomers import evenly, expect_newcomers
from worker.training.readings import MachineReadings
from worker.training.suspects import without_suspects

FOREST_ROWS = 200_000
FEW_MACHINES_WEIGHT = 0.1
"""What the place of so few machines weighs that there is no telling how far they are apart."""
NEWCOMERS = 50
"""Machines that are judged as if never seen, to know what to expect of such."""
MOST_ROWS = 1e6
"""What the fleet weighs at most."""
KNOWN_SCALE_ROWS = 1e9
"""The scale of a machine of the training is not learned anew."""

Floats = NDArray[np.float64]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Fitted:
    """What training learned.

    Attributes:
        baselines: of every machine, and the fleet prior.
        forest: fitted on ``inputs``.
        inputs: (n, F) float32 model inputs, out of fold; what is expected of them where no
            machine has enough rows.
        rows: (n,) the reading that each of the inputs is of; empty where there are none.
        expected: (F,) their medians.
        codes: how rare the machines' own codes were.
    """

    baselines: Baselines
    forest: FittedForest
    inputs: NDArray[np.float32]
    rows: NDArray[np.int64]
    expected: Floats
    codes: CodeBook


def fit(
    spec: ChannelSpec,
    readings: MachineReadings,
    *,
    seed: int = 7,
    workers: int = 1,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Fitted:
    """Learn baselines and forest; same arguments, same result.

    Args:
        readings: mostly ordinary work; see :mod:`suspects` for faults among it.
        workers: processes to use.
        on_progress: called with the share that is done.
    """
    columns = _code_columns(spec, readings)
    codes = CodeBook.learn(len(readings), columns)
    series = _by_machine(spec, readings, codes.surprisals(columns, len(readings)))
    with _Pool(workers) as pool:
        fleet = _Fleet.of(series, list(pool.map(_locate, series)))
        everything = list(zip(series, fleet.places, strict=True))
        series = list(pool.map(partial(_clean, fleet.neighbours), everything))
        fleet = _Fleet.of(series, list(pool.map(_locate, series)))
        on_progress(0.1)
        long = [k for k, one in enumerate(series) if len(one.times_us) >= FEWEST_ROWS]
        jobs = [(series[k], fleet.places[k]) for k in long]
        learned: list[Learned] = []
        for one in pool.map(partial(_learn, fleet.neighbours, fleet.common), jobs):
            learned.append(one)
            on_progress(0.1 + 0.6 * len(learned) / len(long))
        baselines, widening = _assemble(readings.machine_ids, series, long, fleet, learned)
        found = [one.streams / baselines.signals[k, SD:] for k, one in enumerate(learned, 1)]
        inputs, expected = _inputs(spec, [series[k] for k in long], found)
        forest = _fit_forest(spec, inputs, seed)
        on_progress(0.8)
        samples = [
            Sample(streams, _forest_scores(forest, rows))
            for streams, rows in zip(found, inputs, strict=False)
        ]
        calibrate(baselines, samples, widening[:, NORMALISED], pool.map)
        if len(long) >= FEW_MACHINES:
            some = [series[k] for k in evenly(long, NEWCOMERS)]
            found = expect_newcomers(baselines, some, pool.map)
            inputs_then, _ = _inputs(spec, some, found)
            calibrate_prior(
                baselines,
                [
                    Sample(streams, _forest_scores(forest, rows))
                    for streams, rows in zip(found, inputs_then, strict=True)
                ],
                widening[PRIOR, NORMALISED],
                pool.map,
            )
    on_progress(1.0)
    rows = _rows(readings, [(k, series[k]) for k in long])
    return Fitted(baselines, forest, np.concatenate(inputs), rows, expected, codes)


def _rows(readings: MachineReadings, series: list[tuple[int, Series]]) -> NDArray[np.int64]:
    """Positions (n,) among the readings of what is left of some machines' series."""
    found = [np.empty(0, np.int64)]
    for k, one in series:
        a, b = readings.starts[k : k + 2]
        found.append(a + np.searchsorted(readings.times_us[a:b], one.times_us))
    return np.concatenate(found)


class _Pool:
    """Processes, or none where one is enough."""

    def __init__(self, workers: int) -> None:
        # Libraries with threads of their own, such as polars, do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self._executor = ProcessPoolExecutor(workers, context) if workers > 1 else None

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def map(self, function: Callable[[T], R], items: list[T]) -> Iterator[R]:
        if self._executor is None:
            return map(function, items)
        chunk = max(1, min(64, len(items) // 64))
        return self._executor.map(function, items, chunksize=chunk)


def _code_columns(spec: ChannelSpec, readings: MachineReadings) -> list[Sequence[str | None]]:
    """The codes (n,) of each event channel; none where it was not recorded."""
    nothing = [None] * len(readings)
    return [readings.categories.get(channel.name, nothing) for channel in spec.events]


def _by_machine(spec: ChannelSpec, readings: MachineReadings, surprisals: Floats) -> list[Series]:
    values = mask_impossible(spec, readings.values)
    signals = np.concatenate([values, derive(spec, values), surprisals], axis=1)
    signals[:, counters(signals, readings.starts)] = np.nan
    return [Series(readings.times_us[a:b], signals[a:b]) for a, b in pairwise(readings.starts)]


def counters(signals: Floats, starts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which signals (D,) are counters: where the next reading will be says nothing of a machine.

    None are where nothing else moves.

    Args:
        signals: (n, D) of all machines.
        starts: (M + 1,) where each machine's rows begin.
    """
    of_machines = [[is_counter(x) for x in signals[a:b].T] for a, b in pairwise(starts)]
    found: NDArray[np.bool_] = np.mean(of_machines, axis=0) > 0.5
    moves = np.array([len(np.unique(x[~np.isnan(x)])) > 1 for x in signals.T])
    return found if (moves & ~found).any() else np.zeros(len(found), np.bool_)


def _locate(series: Series) -> Place:
    return locate(series.values, series.window)


def _clean(neighbours: NDArray[np.int32], job: tuple[Series, Place]) -> Series:
    return without_suspects(job[0], job[1], neighbours)


def _learn(
    neighbours: NDArray[np.int32], common: Floats | None, job: tuple[Series, Place]
) -> Learned:
    return learn(job[0], job[1], neighbours, common)


@dataclass(frozen=True)
class _Fleet:
    """What machines have in common.

    Attributes:
        place: medians over machines.
        location_weight, scale_weight: (D,) how many independent readings of a machine's own
            the place weighs.
        places: of each machine, drawn towards it.
        covariance: (D, D) of normalised values, pooled.
        neighbours: (D, N) see ``Baselines``.
    """

    place: Place
    location_weight: Floats
    scale_weight: Floats
    places: list[Place]
    covariance: Floats
    neighbours: NDArray[np.int32]

    @classmethod
    def of(cls, series: list[Series], places: list[Place]) -> _Fleet:
        place, weights = _fleet_place(places)
        places = [_shrink_place(own, place, *weights) for own in places]
        moving = np.any([own.scale > 0.0 for own in places], axis=0)
        total = np.zeros((len(moving), len(moving)))
        for one, own in zip(series, places, strict=True):
            y = normalise(one.values, own)
            total += covariance(y, own.rows, own.scale > 0.0) * own.rows
        total /= sum(own.rows for own in places)
        root = np.sqrt(np.diag(total))
        neighbours = neighbours_of(total / root / root[:, None], moving)
        return cls(place, *weights, places, total, neighbours)

    @property
    def common(self) -> Floats | None:
        """What machines' covariances are drawn towards; None with too few of them."""
        return self.covariance if len(self.places) >= FEW_MACHINES else None


def _fleet_place(places: list[Place]) -> tuple[Place, tuple[Floats, Floats]]:
    """The fleet's place, and how many readings of a machine's own it weighs.

    For the locations (D,) that is the variance within machines over the variance between them
    (the weight of the prior mean of normal distributions); for the scales (D,) one over twice
    the variance between their logarithms (a logarithm of k readings' has 1 / 2k).
    """
    locations = np.array([place.location for place in places])
    scales = np.array([place.scale for place in places])
    watched = ~np.isnan(locations).all(axis=0)
    location = np.full(len(watched), np.nan)
    location[watched] = np.nanmedian(locations[:, watched], axis=0)
    scale = np.sqrt(np.median(scales**2, axis=0))
    memory = np.median([place.memory for place in places], axis=0)
    readings = np.median([place.readings for place in places], axis=0)
    rows = float(np.median([place.rows for place in places]))
    place = Place(location, scale, memory, readings, rows)
    if len(places) < FEW_MACHINES:
        return place, (np.full(len(scale), FEW_MACHINES_WEIGHT), np.full(len(scale), FLEET_ROWS))
    distance = np.abs(np.where(watched, locations - location, 0.0))
    between = _between(distance, scale**2 / readings)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(scales > 0.0, np.log(scales / scale), 0.0)
    weights = (
        np.where(between > 0.0, scale**2 / np.maximum(between, 1e-300), MOST_ROWS),
        1.0 / (2.0 * np.maximum(_between(np.abs(ratio), 0.5 / readings), 1e-300)),
    )
    return place, (
        np.minimum(weights[0], MOST_ROWS),
        np.clip(weights[1], FLEET_ROWS, MOST_ROWS),
    )


def _between(distance: Floats, chance: Floats) -> Floats:
    """Variance between machines (D,), by their distances (K, D) from the median of all.

    Args:
        chance: (D,) what of it is only that machines were seen for so long. It is left out;
            what it may have been more by chance (one standard error) counts.
    """
    between = 1.4826 * np.nanmedian(distance, axis=0)
    between = np.where(between > 0.0, between, np.sqrt(np.nanmean(distance**2, axis=0)))
    unsure = chance * np.sqrt(2.0 / len(distance))
    found: Floats = np.maximum(between**2 - chance, 0.0) + unsure
    return found


def _shrink_place(
    place: Place, fleet: Place, location_weight: Floats, scale_weight: Floats
) -> Place:
    """Draw a machine's place towards the fleet's, as far as its own readings do not tell."""
    k = place.readings
    unread = np.isnan(place.location)
    own = np.where(unread, fleet.location, place.location)
    location = (k * own + location_weight * fleet.location) / (k + location_weight)
    moves = np.where(unread, fleet.scale, place.scale) > 0.0
    # In logarithms: a quiet machine among loud ones stays quiet.
    share = np.where(unread, 1.0, scale_weight / (k + scale_weight))
    usual = np.where(fleet.scale > 0.0, fleet.scale, place.scale)
    ratio = np.divide(place.scale, usual, out=np.ones(len(k)), where=moves & ~unread)
    return replace(
        place,
        location=np.where(moves, location, own),
        scale=np.where(moves, usual * ratio ** (1.0 - share), 0.0),
    )


def _assemble(
    names: Sequence[str],
    series: list[Series],
    long: list[int],
    fleet: _Fleet,
    learned: list[Learned],
) -> tuple[Baselines, Floats]:
    """Pack the prior and the machines with enough rows; calibrations are still to come.

    Returns:
        The baselines, and by how much (K+1, STREAMS, D) standard deviations were widened.
    """
    place = fleet.place
    count = len(place.scale)
    known = len(long) + 1
    machines = np.zeros((len(series), MACHINE_COLUMNS))
    for k, one in enumerate(series):
        machines[k] = one.interval_us, len(one.times_us), one.window, 1.0
    prior = np.median(machines, axis=0)
    prior[ROWS] = max(prior[ROWS], WARM_UP_WINDOWS * prior[WINDOW])
    machines = np.concatenate([prior[None], machines[long]])
    counts = own_weights([len(own.streams) for own in learned], machines[1:, WINDOW])
    if fleet.common is not None:
        # With what they are drawn towards goes how long it took to learn that.
        machines[1:, ROWS] = counts * machines[1:, ROWS] + (1.0 - counts) * prior[ROWS]
    scale = np.array(
        [
            np.where(np.isnan(place.location), UNWATCHED, place.scale),
            *(x.baseline.scale for x in learned),
        ]
    )
    precision, weights = regress(fleet.covariance, fleet.neighbours, place.scale > 0.0)
    signals = np.zeros((known, SIGNAL_COLUMNS, count))
    for k, own in enumerate(learned):
        signals[k + 1] = own.baseline.signals
    if learned:
        signals[PRIOR] = np.median(signals[1:], axis=0)
    signals[PRIOR, PRECISION] = precision
    signals[:, MEMORY] = place.memory
    signals[PRIOR, PRIOR_ROWS] = fleet.location_weight * place.memory
    signals[PRIOR, SCALE_ROWS] = fleet.scale_weight * place.memory
    signals[1:, SCALE_ROWS] = KNOWN_SCALE_ROWS
    signals[:, SD:], widening = _deviations(counts, scale > 0.0, learned)
    shape = signals[:, [SD + NORMALISED, SD + RESIDUAL]].prod(axis=1)
    shape /= widening[:, [NORMALISED, RESIDUAL]].prod(axis=1) ** 2
    signals[:, SHAPE_WEIGHT] = shape * signals[:, PRECISION]
    baselines = Baselines(
        machine_ids=np.array([names[k] for k in long], np.str_),
        location=np.array([np.nan_to_num(place.location), *(x.baseline.location for x in learned)]),
        scale=scale,
        signals=signals.astype(np.float32),
        neighbours=fleet.neighbours,
        weights=np.array([weights, *(x.baseline.weights for x in learned)], np.float32),
        season=np.array(
            [np.zeros((count, SEASON_BINS)), *(x.baseline.season for x in learned)], np.float32
        ),
        machines=machines,
        tails=np.zeros((known, count, CALIBRATION_COLUMNS), np.float32),
        calibration=np.zeros((known, FAMILIES + 1, CALIBRATION_COLUMNS), np.float32),
        known=np.zeros((known, len(KNOWN), BINS), np.float32),
    )
    return baselines, widening


def _deviations(
    counts: Floats, moving: NDArray[np.bool_], learned: list[Learned]
) -> tuple[Floats, Floats]:
    """Standard deviations (K+1, STREAMS, D) of the streams, drawn towards the fleet's.

    Args:
        counts: (K,) how much a machine's own count.
    """
    floors = np.array([FAST_FLOOR, FAST_FLOOR, SLOW_FLOOR, SLOW_FLOOR, SLOW_FLOOR])[:, None]
    usual = np.full((STREAMS, moving.shape[1]), UNSURE**2)
    variance = np.array([own.variance for own in learned]).reshape(-1, *usual.shape)
    measured = (variance > 0.0) & moving[1:, None]
    some = measured.any(axis=0)
    usual[some] = np.nanmedian(np.where(measured, variance, np.nan)[:, some], axis=0)
    own = counts[:, None, None]
    drawn = np.where(measured, own * variance + (1.0 - own) * usual, usual)
    drawn = np.where(moving[1:, None], drawn, 1.0)
    squared = np.concatenate([usual[None], drawn])
    stretches = np.array([own.stretches for own in learned]).reshape(-1, *usual.shape)
    if len(learned) >= FEW_MACHINES:
        stretches += FLEET_ROWS
    widening = np.ones(squared.shape)
    widening[1:] = np.where(moving[1:, None], widened(stretches), 1.0)
    if learned:
        widening[PRIOR] = np.median(widening[1:], axis=0)
    return np.maximum(np.sqrt(squared), floors) * widening, widening


def widened(stretches: Floats) -> Floats:
    """By how much a standard deviation is too small that rests on few independent values.

    Student's t against the normal distribution, where one in a hundred is beyond.
    """
    p = 1e-2
    wider: Floats = stats.t.isf(p, np.maximum(stretches, 2.0)) / stats.norm.isf(p)
    return wider


def _inputs(
    spec: ChannelSpec, series: list[Series], found: list[NDArray[np.float32]]
) -> tuple[list[NDArray[np.float32]], Floats]:
    """Model inputs (n, F) of each machine, and what is expected of them (F,)."""
    unknown = np.full(len(spec.feature_names), np.nan)
    inputs = []
    for one, streams in zip(series, found, strict=True):
        state = PartitionState(spec)
        machines = np.repeat(state.indices([b"machine"]), len(one.times_us))
        values = one.values[:, : len(spec.continuous)]
        aggregates, _ = state.add(machines, one.times_us, values)
        inputs.append(assemble(spec, values, aggregates, streams, unknown))
    if not inputs:
        return [np.zeros((1, len(unknown)), np.float32)], np.zeros(len(unknown))
    everything = np.concatenate(inputs)
    known = ~np.isnan(everything).all(axis=0)
    expected = np.zeros(len(unknown))
    expected[known] = np.nanmedian(everything[:, known], axis=0)
    filled = expected.astype(np.float32)
    return [np.where(np.isnan(x), filled, x) for x in inputs], expected


def _fit_forest(spec: ChannelSpec, inputs: list[NDArray[np.float32]], seed: int) -> FittedForest:
    rows = np.concatenate(inputs)
    if len(rows) > FOREST_ROWS:
        rows = rows[np.linspace(0, len(rows) - 1, FOREST_ROWS).astype(np.int64)]
    return FittedForest.fit(rows, spec.feature_names, seed)


def _forest_scores(forest: FittedForest, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = forest.score_samples(inputs).astype(np.float32)
    return scores
