"""Calibration: how extreme each statistic was out of fold, machine by machine.

Owns what turns a statistic into -log10 of a tail probability; how it is applied is
:mod:`worker.core.detection.decision`'s business. What a machine's own rows cannot say is
drawn towards the fleet's median, and where no machine has enough rows, statistics are
taken to be those of independent Gaussian streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from worker.core.detection import decision
from worker.core.detection.baselines import (
    BINS,
    CALIBRATION_COLUMNS,
    CLUSTER_ROWS,
    FAMILIES,
    KNOTS,
    KNOWN,
    LONG,
    MARGINAL,
    NORMALISED,
    PEAK,
    PRIOR,
    SHAPE,
    SHORT,
    STATE,
    WINDOW,
    Baselines,
)
from worker.training.crossfit import FEW_MACHINES, FLEET_ROWS

STRETCHES = 4.0
"""Independent values of slow streams in a window."""
CLUSTER_SHARE = 0.02
"""Share of the rows that count as extreme where it is measured how they come together."""
UNSURE = 1.2
"""Standard deviation of streams where no machine has enough rows to measure it."""

Floats = NDArray[np.float64]
Map = Callable[[Callable[[Any], Any], list[Any]], Iterable[Any]]


class Sample(NamedTuple):
    """What one machine did in training.

    Attributes:
        streams: (n, STREAMS, D) out of fold, in standard deviations.
        forest: (n,) the model's scores.
    """

    streams: NDArray[np.float32]
    forest: NDArray[np.float32]


def own_weights(rows: Sequence[int], windows: Floats) -> Floats:
    """How much each machine's own statistics count (K,).

    Args:
        rows: (K,) from which they are.
        windows: (K,) the long scales in rows.
    """
    stretches = STRETCHES * np.array(rows) / windows
    weights: Floats = stretches / (stretches + FLEET_ROWS)
    return weights


def calibrate(baselines: Baselines, samples: list[Sample], widening: Floats, pool_map: Map) -> None:
    """Fill in calibrations, and what the surprise score knows at first.

    Args:
        samples: of the machines of the baselines.
        widening: (K+1, D) by how much tails of normalised values are longer than they look.
        pool_map: applies a function to a list, in order.
    """
    rows = [len(sample.streams) for sample in samples]
    weights = own_weights(rows, baselines.machines[1:, WINDOW])
    moving = np.maximum((baselines.scale > 0.0).sum(axis=1), 1)
    tails = list(pool_map(_signal_tails, [sample.streams for sample in samples]))
    gaussian = _tail_by(lambda p: UNSURE * stats.norm.isf(p / 2.0))
    _draw(baselines.tails, tails, np.tile(gaussian, (baselines.scale.shape[1], 1)), weights)
    baselines.tails[:, :, -1] *= widening
    jobs = [
        (sample, baselines.signals[k], baselines.tails[k], float(moving[k]))
        for k, sample in enumerate(samples, 1)
    ]
    families = list(pool_map(_families, jobs))
    own = [np.array([_tail_of(x) for x in found.T]) for found in families]
    _draw(baselines.calibration[:, :STATE], own, _gaussian(int(moving[PRIOR])), weights)
    states, clusters = [], []
    for k, found in enumerate(families, 1):
        evidence = np.zeros(found.shape)
        combined = decision.combine_all(found, baselines.calibration[k], evidence)
        states.append(_tail_of(combined))
        clusters.append(np.array([_cluster_rows(combined, baselines.machines[k, WINDOW])]))
        baselines.known[k] = _bins_of(evidence)
    if families:
        baselines.known[PRIOR] = np.median(baselines.known[1:], axis=0)
    if len(families) >= FEW_MACHINES:
        baselines.known[1:] += (1.0 - weights)[:, None, None] * baselines.known[PRIOR]
    nothing = _tail_by(lambda p: -2.0 * np.log10(p))
    _draw(baselines.calibration[:, STATE], states, nothing, weights)
    _draw(baselines.machines[:, CLUSTER_ROWS:], clusters, np.ones(1), weights)


def calibrate_prior(
    baselines: Baselines, samples: list[Sample], widening: Floats, pool_map: Map
) -> None:
    """Calibrate the prior anew, by machines that were followed as if never seen.

    Their rows are taken together, not machine by machine: a prior has to bear the
    machine that differs most.

    Args:
        widening: (D,) see :func:`calibrate`.
    """
    together = np.concatenate([sample.streams for sample in samples])
    tails = _signal_tails(together)
    tails = np.where(np.isnan(tails), baselines.tails[PRIOR], tails)
    tails[:, -1] *= widening
    baselines.tails[PRIOR] = tails
    moving = float(max((baselines.scale[PRIOR] > 0.0).sum(), 1))
    jobs = [(x, baselines.signals[PRIOR], baselines.tails[PRIOR], moving) for x in samples]
    families = list(pool_map(_families, jobs))
    own = np.array([_tail_of(x) for x in np.concatenate(families).T])
    usual = baselines.calibration[PRIOR, :STATE]
    baselines.calibration[PRIOR, :STATE] = np.where(np.isnan(own), usual, own)
    states, clusters = [], []
    known = np.zeros((len(KNOWN), BINS))
    for found in families:
        evidence = np.zeros(found.shape)
        states.append(decision.combine_all(found, baselines.calibration[PRIOR], evidence))
        clusters.append(_cluster_rows(states[-1], baselines.machines[PRIOR, WINDOW]))
        known += _bins_of(evidence)
    baselines.calibration[PRIOR, STATE] = _tail_of(np.concatenate(states))
    baselines.machines[PRIOR, CLUSTER_ROWS] = np.median(clusters)
    baselines.known[PRIOR] = known / len(samples)


def _bins_of(evidence: Floats) -> Floats:
    """How many rows (len(KNOWN), BINS) were how extreme, by the evidence (n, FAMILIES)."""
    filled = np.zeros((len(KNOWN), BINS))
    for i, f in enumerate(KNOWN):
        bins = decision.BINS_PER_DOUBLING * np.log2(1.0 + evidence[:, f])
        filled[i] = np.bincount(np.minimum(bins.astype(np.int64), BINS - 1), minlength=BINS)
    return filled


def _cluster_rows(x: Floats, window: float) -> float:
    """How many of the most extreme rows (n,) come in one episode.

    One over the extremal index by runs (Embrechts, Kluppelberg and Mikosch, "Modelling
    Extremal Events", 1997, section 8.1): a budget counts episodes, of which a signal that
    remembers makes fewer than rows.
    """
    extreme = np.flatnonzero(x > np.quantile(x, 1.0 - CLUSTER_SHARE))
    runs = 1 + int((np.diff(extreme) > 1.0 + decision.CALM_SHARE * window).sum())
    return max(len(extreme), 1) / runs


def _draw(table: NDArray[Any], own: list[Floats], usual: Floats, weights: Floats) -> None:
    """Write calibrations (K+1, ...) drawn towards the fleet's medians, which are the prior.

    Args:
        own: K calibrations, NaN where there was nothing to measure.
        usual: one, for what no machine has measured.
        weights: (K,) of the machines' own.
    """
    measured = np.array(own).reshape(-1, *usual.shape)
    known = ~np.isnan(measured)
    prior = usual.copy()
    some = known.any(axis=0)
    if len(own) >= FEW_MACHINES:
        prior[some] = np.nanmedian(measured[:, some], axis=0)
    table[PRIOR] = prior
    with np.errstate(invalid="ignore"):
        for k, one in enumerate(measured):
            drawn = weights[k] * one + (1.0 - weights[k]) * prior
            table[k + 1] = np.where(known[k], drawn, prior)


def _tail_of(x: Floats) -> Floats:
    """A calibration (CALIBRATION_COLUMNS,) from a sample (n,); NaN where it is all zero."""
    if not x.any():
        return np.full(CALIBRATION_COLUMNS, np.nan)
    quantiles = np.quantile(x, 1.0 - np.array(KNOTS))
    last = quantiles[-1]
    excess = x[x > last]
    mean_excess = float(np.mean(excess - last)) if len(excess) else 0.0
    slope = (last - quantiles[2]) / np.log(KNOTS[2] / KNOTS[-1])
    scale = max(slope, mean_excess, 1e-3 * max(last, 1e-3))
    return np.append(quantiles, scale)


def _tail_by(quantile: Callable[[Floats], Floats]) -> Floats:
    """A calibration from the values that are exceeded with given probabilities."""
    found = quantile(np.array([*KNOTS, KNOTS[-1] / np.e]))
    found[-1] -= found[-2]
    return found


def _gaussian(moving: int) -> Floats:
    """Calibrations (FAMILIES, CALIBRATION_COLUMNS) of independent Gaussian streams."""
    peak = _tail_by(lambda p: UNSURE * stats.norm.isf((1.0 - (1.0 - p) ** (1.0 / moving)) / 2.0))
    table = np.full((FAMILIES, CALIBRATION_COLUMNS), np.inf)
    table[PEAK] = _tail_by(lambda p: -np.log10(1.0 - (1.0 - p) ** (1.0 / moving)))
    table[SHAPE] = _tail_by(lambda p: UNSURE**2 * stats.chi2.isf(p, moving) / moving)
    table[SHORT] = table[LONG] = table[MARGINAL] = peak
    return table


def _signal_tails(streams: NDArray[np.float32]) -> Floats:
    return np.array([_tail_of(x) for x in np.abs(streams[:, NORMALISED].astype(np.float64)).T])


def _families(
    job: tuple[Sample, NDArray[np.float32], NDArray[np.float32], float],
) -> Floats:
    sample, signals, tails, moving = job
    streams = np.ascontiguousarray(sample.streams)
    found: Floats = decision.summarise_all(streams, sample.forest, signals, tails, moving)
    return found
