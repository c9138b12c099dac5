"""Learning the reference from the training's rows.

Owns how each part of a :class:`~worker.core.drift.reference.Reference` is estimated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from worker.core.drift import contrasts
from worker.core.drift.calibration import LongRun
from worker.core.drift.cells import CELLS, EDGES, MISSING, locate
from worker.core.drift.cycles import learn_profiles
from worker.core.drift.partial import FLEET, MACHINE
from worker.core.drift.reference import GroupReference, Reference, embed
from worker.core.errors import ConfigError

Floats = NDArray[np.float64]

SAMPLE_ROWS = 1000
FEWEST_ROWS = 200
"""Of a group with fewer rows nothing is known."""
MAX_PAIRS = 2016
CHUNK_ROWS = 65_536
FREQUENCIES = 32


def learn_reference(
    columns: Sequence[str],
    units: Sequence[str],
    rows: NDArray[np.float32],
    times_us: NDArray[np.int64],
    machines: NDArray[np.int64],
    interval_us: int,
    *,
    anomalous: NDArray[np.bool_] | None = None,
    categories: Mapping[str, Sequence[str | None]] | None = None,
    values: Mapping[str, tuple[str, ...]] | None = None,
    grouped: Sequence[str] | None = None,
    machine_ids: Sequence[str] = (),
    owners: Sequence[str] | None = None,
    remembering: Sequence[bool] | None = None,
    stride_us: int | None = None,
    seed: int = 7,
) -> Reference:
    """Learn the reference from n rows, in any order; same arguments, same result.

    Args:
        columns, units: of the F columns.
        rows: (n, F), NaN where missing.
        times_us: (n,) event times.
        machines: (n,) a number for each machine.
        interval_us: usual time between two rows of a machine.
        anomalous: (n,) whether the model found an anomaly; default: never.
        categories: n values of each categorical channel.
        values: which values each of them can have.
        grouped: those whose values make groups of their own; default: all.
        machine_ids: names of the machines by their number, if each with enough rows shall be a
            group of its own.
        owners: the channel of each column; default: the columns themselves.
        remembering: columns that remember for longer than a window, which have no daily or weekly
            profile; default: none.
        stride_us: how rows were thinned, and those that are watched will be; default: half the
            interval, so that all rows count which do not come twice as often.
        seed: of the embedding's frequencies.

    Raises:
        ConfigError: there are too few rows.
    """
    if len(rows) < FEWEST_ROWS:
        raise ConfigError(
            f"{len(rows)} rows are too few for a reference; give at least {FEWEST_ROWS}."
        )
    order = np.lexsort((machines, times_us))
    rows = np.ascontiguousarray(rows[order], np.float32)
    edges, center, scale = _cut(rows)
    cells = np.empty(rows.shape, np.uint8)
    locate(rows, edges, center, scale, cells, np.empty(rows.shape, np.int32))
    known = tuple((values or {}).items())
    codes = [
        np.array([own.index(v) if v in own else len(own) for v in (categories or {})[name]])[order]
        for name, own in known
    ]
    alarm = np.zeros(len(rows), np.bool_) if anomalous is None else anomalous[order]
    shares = [(code == k)[:, None] for (_, own), code in zip(known, codes, strict=True)
              for k in range(len(own) + 1)]  # fmt: skip
    indicators = np.concatenate([*shares, alarm[:, None]], axis=1)
    everything = _Rows(rows, cells, times_us[order], machines[order], indicators)
    chosen = np.random.default_rng(seed).normal(size=(FREQUENCIES, rows.shape[1]))
    kinds = len(contrasts.KINDS)
    without = np.zeros(rows.shape[1] * kinds + indicators.shape[1], np.bool_)
    if remembering is not None:
        without[: rows.shape[1] * kinds] = np.repeat(np.array(remembering, np.bool_), kinds)
    groups = {FLEET: _learn_group(everything, interval_us, chosen, without)}
    for (name, own), code in zip(known, codes, strict=True):
        for k, value in enumerate(own if grouped is None or name in grouped else ()):
            at = code == k
            if FEWEST_ROWS <= at.sum() < len(rows):
                groups[f"{name}={value}"] = _learn_group(
                    everything.take(at), interval_us, chosen, without
                )
    for k, machine_id in enumerate(machine_ids):
        at = everything.machines == k
        if FEWEST_ROWS <= at.sum() < len(rows):
            groups[f"{MACHINE}={machine_id}"] = _learn_group(
                everything.take(at), interval_us, chosen, without
            )
    owned = tuple(columns if owners is None else owners)
    stride_us = max(interval_us // 2, 1) if stride_us is None else stride_us
    return Reference(
        tuple(columns), tuple(units), owned, edges, center, scale, known, groups, stride_us
    )


@dataclass(frozen=True)
class _Rows:
    """n rows in order of time: values and cells (n, F), times, machines, indicators (n, V)."""

    values: NDArray[np.float32]
    cells: NDArray[np.uint8]
    times_us: NDArray[np.int64]
    machines: NDArray[np.int64]
    indicators: NDArray[np.bool_]

    def take(self, at: NDArray[np.bool_]) -> _Rows:
        """Some of them."""
        return _Rows(
            self.values[at],
            self.cells[at],
            self.times_us[at],
            self.machines[at],
            self.indicators[at],
        )


def _cut(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], Floats, Floats]:
    """Edges (F, 63) at the quantiles of rows (n, F), and their centre and scale (F,)."""
    count = rows.shape[1]
    edges = np.zeros((count, EDGES), np.float32)
    center, scale = np.zeros(count), np.ones(count)
    levels = np.linspace(0.0, 1.0, EDGES)
    for f in range(count):
        present = rows[:, f][np.isfinite(rows[:, f])]
        if not len(present):
            continue
        distinct = np.unique(present)
        if len(distinct) < EDGES:
            # Each value gets a cell of its own.
            own = np.concatenate([distinct, np.full(EDGES - 1 - len(distinct), distinct[-1])])
        else:
            own = np.quantile(present, levels[1:], method="higher").astype(np.float32)
        edges[f] = np.concatenate([[np.nextafter(distinct[0], np.float32(-np.inf))], own])
        low, middle, high = np.quantile(present, [0.01, 0.5, 0.99]).tolist()
        center[f] = middle
        width = (high - low) / 4.65 if high > low else float(present.astype(np.float64).std())
        scale[f] = width if width > 0.0 else max(abs(middle), 1e-6) * 1e-3
    return edges, center, scale


def _learn_group(
    rows: _Rows, interval_us: int, chosen: Floats, without: NDArray[np.bool_]
) -> GroupReference:
    n, count = rows.cells.shape
    slot = rows.times_us // max(interval_us, 1)
    begun, slot = np.unique(slot, return_inverse=True)
    slots = int(slot[-1]) + 1
    counts = np.stack([np.bincount(rows.cells[:, f], minlength=CELLS + 1) for f in range(count)])
    scores = contrasts.score_cells(counts)
    mean, sd, values = _describe(rows, counts)
    machines, machine = np.unique(rows.machines, return_inverse=True)
    kinds = len(contrasts.KINDS)
    size = count * kinds + rows.indicators.shape[1]
    series, centers, between = np.empty((slots, size)), np.empty(size), np.zeros(size)
    for f in range(count):
        own = scores[f, rows.cells[:, f]]
        at = slice(f * kinds, (f + 1) * kinds)
        series[:, at], centers[at] = _slot_means(own, slot, slots), own.mean(axis=0)
        between[at] = _between(own, machine, len(machines))
    at = slice(count * kinds, size)
    indicators = rows.indicators.astype(np.float64)
    series[:, at], centers[at] = _slot_means(indicators, slot, slots), indicators.mean(axis=0)
    between[at] = _between(indicators, machine, len(machines))
    daily, weekly, series = learn_profiles(series, begun * max(interval_us, 1), without)
    normal = _Normal(rows.cells, np.ascontiguousarray(scores[:, :, contrasts.LOCATION]))
    alike = _correlations(normal.chunks(), count)
    pairs, correlation, pair_rows, pair_series = _pairs(normal, alike, slot, slots)
    step = max(n // SAMPLE_ROWS, 1)
    sample = rows.cells[::step][:SAMPLE_ROWS]
    frequencies = chosen / normal.median_distance(step)
    embedded_alike = _correlations(normal.embedded(frequencies), 2 * len(frequencies))
    sums, squares = np.zeros((slots, 2 * len(frequencies))), np.zeros(2 * len(frequencies))
    first = 0
    for chunk in normal.embedded(frequencies):
        np.add.at(sums, slot[first : first + len(chunk)], chunk)
        squares += (chunk**2).sum(axis=0)
        first += len(chunk)
    embedded = sums.sum(axis=0) / n
    return GroupReference(
        rows=n,
        machines=len(machines),
        slots=slots,
        interval_us=interval_us,
        counts=counts,
        values=values,
        mean=mean,
        sd=sd,
        centers=centers,
        between=between,
        long_run=LongRun.learn(series),
        daily=daily,
        weekly=weekly,
        pairs=pairs,
        correlation=correlation,
        pair_rows=pair_rows,
        pair_run=LongRun.learn(pair_series),
        frequencies=frequencies,
        embedded=embedded,
        embedded_rows=squares / n - embedded**2,
        embedded_run=LongRun.learn(sums / np.bincount(slot)[:, None]),
        embedded_alike=embedded_alike,
        alike=alike,
        sample=sample,
    )


def _describe(rows: _Rows, counts: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
    """Mean and standard deviation (F,), and mean value in each cell (F, 64)."""
    count = rows.cells.shape[1]
    mean, sd, values = np.zeros(count), np.zeros(count), np.zeros((count, CELLS))
    for f in range(count):
        x = rows.values[:, f].astype(np.float64)
        cell = rows.cells[:, f]
        inside = (cell != MISSING) & np.isfinite(x)
        if inside.any():
            mean[f], sd[f] = x[inside].mean(), x[inside].std()
            sums = np.bincount(cell[inside], x[inside], minlength=CELLS)[:CELLS]
            own = counts[f, :CELLS]
            values[f] = np.where(own > 0, sums / np.maximum(own, 1), mean[f])
    return mean, sd, values


def _slot_means(values: Floats, slot: NDArray[np.int64], slots: int) -> Floats:
    """Means (T, K) of values (n, K) over the rows of each slot."""
    if slots == len(values):
        return values
    starts = np.searchsorted(slot, np.arange(slots))
    sizes = np.diff(np.append(starts, len(values)))
    found: Floats = np.add.reduceat(values, starts, axis=0) / sizes[:, None]
    return found


def _between(values: Floats, machine: NDArray[np.int64], machines: int) -> Floats:
    """Variance (K,) between the means of machines."""
    if machines < 2:
        return np.zeros(values.shape[1])
    sizes = np.bincount(machine, minlength=machines)
    own = np.stack(
        [np.bincount(machine, column, minlength=machines) / sizes for column in values.T], axis=1
    )
    variance: Floats = own.var(axis=0, ddof=1)
    return variance


@dataclass(frozen=True)
class _Normal:
    """Normal scores (F, 65) of cells (n, F), a chunk of rows at a time: all would not fit."""

    cells: NDArray[np.uint8]
    scores: Floats

    def chunks(self) -> Iterator[Floats]:
        """Normal scores (k, F)."""
        columns = np.arange(self.cells.shape[1])
        for a in range(0, len(self.cells), CHUNK_ROWS):
            yield self.scores[columns, self.cells[a : a + CHUNK_ROWS]]

    def embedded(self, frequencies: Floats) -> Iterator[Floats]:
        """Random Fourier features (k, 2 D)."""
        for chunk in self.chunks():
            yield embed(chunk, frequencies)

    def median_distance(self, step: int) -> float:
        """Between some rows: the width of the embedding's kernel."""
        some = self.scores[np.arange(self.cells.shape[1]), self.cells[::step][:SAMPLE_ROWS]]
        distance = float(np.median(np.sqrt(((some[1:] - some[:-1]) ** 2).sum(axis=1))))
        return distance if distance > 0.0 else 1.0


def _correlations(chunks: Iterable[Floats], count: int) -> Floats:
    """Correlations (K, K) of values (n, K); 0 of those that never change."""
    rows, sums, outer = 0, np.zeros(count), np.zeros((count, count))
    for chunk in chunks:
        rows += len(chunk)
        sums += chunk.sum(axis=0)
        outer += chunk.T @ chunk
    mean = sums / rows
    covariance = outer / rows - mean[:, None] * mean
    root = np.sqrt(np.maximum(covariance.diagonal(), 0.0))
    root = np.where(root > 1e-6, root, np.inf)
    found: Floats = covariance / root / root[:, None]
    np.fill_diagonal(found, 1.0)
    return found


def _pairs(
    normal: _Normal, alike: Floats, slot: NDArray[np.int64], slots: int
) -> tuple[NDArray[np.int64], Floats, Floats, Floats]:
    """The pairs (P, 2) of columns that move, correlations, and their influence by row and slot.

    The influence of a row on a correlation r is ``a b - r (a^2 + b^2) / 2``
    (Devlin, Gnanadesikan and Kettenring, Biometrika 1975).
    """
    moving = np.flatnonzero(np.abs(normal.scores).max(axis=1) > 0.0)
    i, j = np.triu_indices(len(moving), 1)
    pairs = np.stack([moving[i], moving[j]], axis=1).astype(np.int64)
    correlation = alike[pairs[:, 0], pairs[:, 1]]
    # Of columns that are one another nothing can be learned.
    chosen = np.flatnonzero(np.abs(correlation) < 0.999)
    if len(chosen) > MAX_PAIRS:
        closest = np.argsort(-np.abs(correlation[chosen]), kind="stable")[:MAX_PAIRS]
        chosen = np.sort(chosen[closest])
    pairs, correlation = np.ascontiguousarray(pairs[chosen]), correlation[chosen]
    series, squares = np.zeros((slots, len(pairs))), np.zeros(len(pairs))
    first = 0
    for chunk in normal.chunks():
        own = slot[first : first + len(chunk)]
        _influences(np.ascontiguousarray(chunk), pairs, correlation, own, series, squares)
        first += len(chunk)
    series /= np.bincount(slot, minlength=slots)[:, None]
    return pairs, correlation, squares / first, series


@njit("void(f8[:, ::1], i8[:, ::1], f8[::1], i8[::1], f8[:, ::1], f8[::1])", cache=True, nogil=True)
def _influences(normal, pairs, correlation, slot, series, squares):  # type: ignore[no-untyped-def]
    """Add up influences of rows (n, F) by slot (T, P), and their squares (P,)."""
    for row in range(normal.shape[0]):
        own = normal[row]
        t = slot[row]
        for p in range(pairs.shape[0]):
            a, b = own[pairs[p, 0]], own[pairs[p, 1]]
            x = a * b - 0.5 * correlation[p] * (a * a + b * b)
            series[t, p] += x
            squares[p] += x * x
