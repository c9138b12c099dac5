"""Learning of one machine's baseline from its readings, cross-fitted.

What a baseline says of the rows that it was learned from is too good: so the training
period is cut into contiguous folds, and each fold's streams are computed with a baseline
of the others. Their standard deviations and tails then include how far a machine
wanders between periods, which is what a threshold has to bear.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.core.channels import US_PER_S
from worker.core.detection import streams
from worker.core.detection.baselines import (
    MACHINE_COLUMNS,
    MEAN,
    PRECISION,
    ROWS,
    SD,
    SEASON_BINS,
    SIGNAL_COLUMNS,
    STREAMS,
    UNWATCHED,
    WINDOW,
)

FOLDS = 4
FEWEST_ROWS = 40
"""A machine with fewer counts as never seen: it learns its own place when it runs."""
FEWEST_STEPS = 20
FEW_MACHINES = 3
"""Of fewer there is no telling what machines have in common."""
FLEET_ROWS = 10.0
"""What the fleet's median weighs against a machine's own, in independent rows."""
WINDOW_ROWS = 60
LONGEST_WINDOW_US = 86_400 * US_PER_S
DAY_US = 86_400 * US_PER_S
NEIGHBOURS = 32
SEASON_DAYS = 2
SEASON_ROWS_A_DAY = 12
SEASON_GAIN = 0.6
FAST_FLOOR = 0.3
SLOW_FLOOR = 0.02

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """Readings of one machine in order of time.

    Attributes:
        times_us: (n,) event times.
        values: (n, D) signals, NaN where missing.
    """

    times_us: NDArray[np.int64]
    values: Floats

    @property
    def interval_us(self) -> float:
        """Median time between readings, a minute where there is no telling."""
        gaps = np.diff(self.times_us)
        gaps = gaps[gaps > 0]
        return float(np.median(gaps)) if len(gaps) else 60.0 * US_PER_S

    @property
    def window(self) -> float:
        """The long scale w in rows."""
        return float(np.clip(LONGEST_WINDOW_US / self.interval_us, 8, WINDOW_ROWS))


@dataclass(frozen=True)
class Place:
    """Where a machine's signals are.

    Attributes:
        location, scale: (D,) robust; scale 0 for a signal that does not move, and NaN
            locations for one that is not watched, as it has no readings or is a counter.
        memory: (D,) over how many rows each signal remembers itself.
        readings: (D,) how many independent readings of each signal they rest on.
        rows: how many independent rows, from row to row of a typical signal.
    """

    location: Floats
    scale: Floats
    memory: Floats
    readings: Floats
    rows: float


@dataclass(frozen=True)
class Baseline:
    """One row of :class:`worker.core.detection.baselines.Baselines`, without calibration."""

    location: Floats
    scale: Floats
    signals: NDArray[np.float32]
    weights: NDArray[np.float32]
    season: NDArray[np.float32]


def locate(values: Floats, window: float) -> Place:
    """Median and robust scale of each signal (n, D); see ``Series.window``."""
    count = values.shape[1]
    location, scale, phi = np.full(count, np.nan), np.zeros(count), []
    for j in range(count):
        x = values[:, j]
        x = x[~np.isnan(x)]
        if not len(x):
            continue
        location[j] = np.median(x)
        d = x - location[j]
        scale[j] = spread(d)
        if scale[j] > 0.0 and len(x) > 2:
            y = np.clip(d / scale[j], -streams.FARTHEST_EXPECTATION, streams.FARTHEST_EXPECTATION)
            phi.append(np.clip(np.mean(y[1:] * y[:-1]) / max(np.mean(y * y), 1e-12), 0.0, 0.98))
    tau = float(np.median([(1 + p) / (1 - p) for p in phi])) if phi else 1.0
    place = Place(location, scale, np.ones(count), np.ones(count), max(len(values) / tau, 1.0))
    memory = memory_of(normalise(values, place), window)
    readings = np.maximum((~np.isnan(values)).sum(axis=0) / memory, 1.0)
    return replace(place, memory=memory, readings=readings)


def spread(d: Floats) -> float:
    """Robust standard deviation of deviations from the median; 0 if none moves."""
    largest = float(np.max(np.abs(d)))
    if largest == 0.0:
        return 0.0
    low, high = np.quantile(d, [0.01, 0.99])
    s = max(1.4826 * float(np.median(np.abs(d))), float(high - low) / 4.65)
    return s if s > 1e-6 * largest else float(np.sqrt(np.mean(d * d)))


def is_counter(x: Floats) -> bool:
    """Whether readings (n,) only ever rise, or only ever fall, as a counter of hours does.

    So few different ones that they may be the steps of a setting are none.
    """
    steps = np.diff(x[~np.isnan(x)])
    return int((steps != 0.0).sum()) >= FEWEST_STEPS and bool(
        (steps >= 0).all() or (steps <= 0).all()
    )


def normalise(values: Floats, place: Place) -> Floats:
    """Clipped normalised values (n, D), 0 where missing or where the signal never moves."""
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (values - place.location) / place.scale
    limit = streams.FARTHEST_EXPECTATION
    return np.where((place.scale > 0) & ~np.isnan(z), np.clip(np.nan_to_num(z), -limit, limit), 0.0)


def covariance(
    y: Floats, rows: float, moving: NDArray[np.bool_], common: Floats | None = None
) -> Floats:
    """Covariance (D, D) of normalised values, shrunk towards the fleet's and its own diagonal.

    Args:
        common: the fleet's; None: there is no fleet.
    """
    channels = int(moving.sum())
    neff = max(10.0, rows)
    s = np.atleast_2d(np.cov(y, rowvar=False, bias=True))
    if common is not None:
        usual = FLEET_ROWS * (channels + 1)
        s = (neff * s + usual * np.where(np.outer(moving, moving), common, 0.0)) / (neff + usual)
        neff += usual
    shrink = float(np.clip((channels + 1) / (neff + channels + 1), 0.02, 0.9))
    return (1 - shrink) * s + np.diag(shrink * np.diag(s) + 1e-3)


def memory_of(x: NDArray[Any], window: float) -> Floats:
    """Over how many rows each series (n, ...) remembers itself, as autoregressions of order 1.

    Seen both from row to row and from mean to mean of a quarter of the window, because slow
    wander hides behind fast noise.
    """
    memory: Floats = np.ones(x.shape[1:])
    for step in (1, max(round(window / 4), 1)):
        blocks = len(x) // step
        means = x[: blocks * step].reshape(blocks, step, *x.shape[1:]).mean(1, dtype=np.float64)
        phi = (means[1:] * means[:-1]).sum(axis=0) / np.maximum((means**2).sum(axis=0), 1e-300)
        phi = np.clip(phi, 0.0, 0.999)
        memory = np.maximum(memory, 1.0 + step * ((1.0 + phi) / (1.0 - phi) - 1.0))
    return memory


def neighbours_of(correlation: Floats, moving: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The signals (D, N) that each one is expected from: those it correlates with most."""
    count = len(correlation)
    near = min(NEIGHBOURS, max(count - 1, 0))
    strength = np.where(moving[None, :], np.abs(correlation), -1.0)
    np.fill_diagonal(strength, -2.0)
    order = np.argsort(-strength, axis=1, kind="stable")[:, :near]
    chosen = np.take_along_axis(strength, order, axis=1) >= 0.0
    chosen &= moving[:, None]
    return np.where(chosen, order, -1).astype(np.int32)


def regress(
    s: Floats, neighbours: NDArray[np.int32], moving: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Root of the conditional precision (D,) and weights (D, N) by a covariance (D, D)."""
    count, near = neighbours.shape
    precision, weights = np.ones(count), np.zeros((count, near))
    for j in np.flatnonzero(moving):
        used = np.flatnonzero(neighbours[j] >= 0)
        chosen = np.concatenate([[j], neighbours[j, used]])
        row = np.linalg.inv(s[np.ix_(chosen, chosen)])[0]
        precision[j] = np.sqrt(row[0])
        weights[j, used] = row[1:] / precision[j]
    return precision, weights


def season_of(z: Floats, times_us: NDArray[np.int64]) -> Floats:
    """Mean (D, SEASON_BINS) of normalised values by time of day; gaps are interpolated."""
    bins = (times_us % DAY_US) * SEASON_BINS // DAY_US
    rows = np.bincount(bins, minlength=SEASON_BINS)
    filled = np.flatnonzero(rows)
    season = np.empty((z.shape[1], SEASON_BINS))
    for j in range(z.shape[1]):
        mean = np.bincount(bins, z[:, j], SEASON_BINS)[filled] / (rows[filled] + 1.0)
        season[j] = np.interp(np.arange(SEASON_BINS), filled, mean, period=SEASON_BINS)
    return season


def has_days(series: Series) -> bool:
    """Whether the readings span the days and are as dense as a season needs."""
    span_us = float(series.times_us[-1] - series.times_us[0])
    dense = DAY_US / series.interval_us >= SEASON_ROWS_A_DAY
    return dense and span_us >= SEASON_DAYS * DAY_US * 0.98


def usual_at(season: Floats, times_us: NDArray[np.int64]) -> Floats:
    """Values (n, D) of a season (D, SEASON_BINS) at given times, as the kernel expects them."""
    bins = (times_us % DAY_US) / DAY_US * SEASON_BINS - 0.5
    before = np.floor(bins).astype(np.int64)
    share = bins - before
    low, high = season[:, before % SEASON_BINS], season[:, (before + 1) % SEASON_BINS]
    return ((1.0 - share) * low + share * high).T


def baseline_of(
    series: Series,
    rows: NDArray[np.bool_],
    place: Place,
    neighbours: NDArray[np.int32],
    seasonal: NDArray[np.bool_],
    common: Floats | None = None,
) -> Baseline:
    """Learn a baseline from some of the rows, around a place.

    Args:
        seasonal: (D,) signals of which the time of day is to be expected.
        common: see :func:`covariance`.
    """
    values, times_us = series.values[rows], series.times_us[rows]
    season = np.zeros((values.shape[1], SEASON_BINS))
    if seasonal.any():
        season[seasonal] = season_of(normalise(values, place), times_us)[seasonal]
        left = values - place.location - place.scale * usual_at(season, times_us)
        scale = place.scale.copy()
        for j in np.flatnonzero(seasonal):
            x = left[:, j][~np.isnan(left[:, j])]
            scale[j] = min(spread(x - np.median(x)), scale[j])
        season[seasonal] *= (place.scale / scale)[seasonal, None]
        place = replace(place, scale=scale)
        values = values - scale * usual_at(season, times_us)
    moving = place.scale > 0.0
    y = normalise(values, place)
    precision, weights = regress(covariance(y, place.rows, moving, common), neighbours, moving)
    signals = np.zeros((SIGNAL_COLUMNS, values.shape[1]), np.float32)
    signals[MEAN], signals[PRECISION], signals[SD:] = y.mean(axis=0), precision, 1.0
    return Baseline(
        np.nan_to_num(place.location),
        np.where(np.isnan(place.location), UNWATCHED, place.scale),
        signals,
        weights.astype(np.float32),
        season.astype(np.float32),
    )


def folds_of(n: int) -> list[slice]:
    """Contiguous folds of n rows."""
    edges = np.linspace(0, n, FOLDS + 1).astype(int)
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


def follow_alone(
    series: Series,
    baseline: Baseline,
    neighbours: NDArray[np.int32],
    settings: Floats,
    learned: int = streams.KNOWN_PLACE,
) -> NDArray[np.float32]:
    """Streams (n, STREAMS, D) of one machine under a baseline, followed from the start.

    Args:
        settings: (MACHINE_COLUMNS,) see ``Baselines.machines``.
        learned: 0 for a machine that is to learn its own place.
    """
    n, count = series.values.shape
    out = np.empty((n, STREAMS, count), np.float32)
    streams.follow(
        np.zeros(n, np.int64),
        series.times_us,
        series.values,
        np.zeros(n, np.bool_),
        np.zeros(n, np.bool_),
        baseline.location[None],
        baseline.scale[None],
        baseline.signals[None],
        neighbours,
        baseline.weights[None],
        baseline.season[None],
        settings[None],
        np.zeros(1, np.int32),
        np.full((1, count), learned, np.int32),
        np.zeros((1, 2, count)),
        np.zeros((1, STREAMS, count), np.float32),
        out,
        np.empty((n, count)),
        np.empty((n, count), np.float32),
        np.empty(n, np.float32),
    )
    return out


def out_of_fold(
    series: Series, baselines: list[Baseline], neighbours: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Streams (n, STREAMS, D), each fold's by its own baseline, as if followed from the start."""
    n, count = series.values.shape
    settings = np.zeros(MACHINE_COLUMNS)
    settings[ROWS], settings[WINDOW] = n, series.window
    found = np.empty((n, STREAMS, count), np.float32)
    for fold, baseline in zip(folds_of(n), baselines, strict=True):
        until = Series(series.times_us[: fold.stop], series.values[: fold.stop])
        found[fold] = follow_alone(until, baseline, neighbours, settings)[fold]
    return found


@dataclass(frozen=True)
class Learned:
    """What one machine's readings say.

    Attributes:
        baseline: from all rows; its standard deviations are to be set yet.
        streams: (n, STREAMS, D) out of fold, not yet divided by a standard deviation.
        variance: (STREAMS, D) of them around 0.
        stretches: (STREAMS, D) how many independent values it rests on.
    """

    baseline: Baseline
    streams: NDArray[np.float32]
    variance: Floats
    stretches: Floats


def learn(
    series: Series,
    place: Place,
    neighbours: NDArray[np.int32],
    common: Floats | None = None,
) -> Learned:
    """Learn one machine, cross-fitted; ``place`` is its own, shrunk towards the fleet's.

    Args:
        common: see :func:`covariance`.
    """
    every = np.ones(len(series.times_us), np.bool_)
    places = []
    for fold in folds_of(len(every)):
        own = locate(series.values[_without(every, fold)], series.window)
        moves = (own.scale > 0.0) & (place.scale > 0.0)
        location = np.where(moves, own.location, place.location)
        scale = np.where(moves, own.scale, place.scale)
        places.append(replace(own, location=location, scale=scale))
    seasonal = find_seasons(series, places)
    parts = [
        baseline_of(series, _without(every, fold), part, neighbours, seasonal, common)
        for fold, part in zip(folds_of(len(every)), places, strict=True)
    ]
    found = out_of_fold(series, parts, neighbours)
    whole = baseline_of(series, every, place, neighbours, seasonal, common)
    variance = np.mean(found.astype(np.float64) ** 2, axis=0)
    return Learned(whole, found, variance, len(found) / memory_of(found, series.window))


def find_seasons(series: Series, places: list[Place]) -> NDArray[np.bool_]:
    """Of which signals (D,) the time of day explains enough, out of fold.

    Args:
        places: of the rows outside of each fold.
    """
    count = series.values.shape[1]
    if not has_days(series):
        return np.zeros(count, np.bool_)
    every = np.ones(len(series.times_us), np.bool_)
    unexplained, total = np.zeros(count), np.zeros(count)
    for fold, place in zip(folds_of(len(every)), places, strict=True):
        others = _without(every, fold)
        season = season_of(normalise(series.values[others], place), series.times_us[others])
        y = normalise(series.values[fold], place)
        unexplained += ((y - usual_at(season, series.times_us[fold])) ** 2).sum(axis=0)
        total += ((y - y.mean(axis=0)) ** 2).sum(axis=0)
    return unexplained < SEASON_GAIN * total


def _without(rows: NDArray[np.bool_], fold: slice) -> NDArray[np.bool_]:
    others = rows.copy()
    others[fold] = False
    return others
