"""Tests that look at more than one column, or at none: rows as a whole, categories, alarms.

Owns the classifier of window against reference, the correlations, the maximum mean discrepancy,
and what is told of categories and the alarm rate.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import special

from worker.core.drift import calibration, contrasts, detectable, statistics
from worker.core.drift.comparison import Comparison
from worker.core.drift.outputs import Test
from worker.core.drift.reference import embed

Floats = NDArray[np.float64]

FEWEST_SAMPLED = 30
PRODUCTS = 12.0
"""Twice the excess kurtosis of the product of two independent normal values."""


def of_rows(held: Comparison, chances: dict[str, float]) -> list[Test]:
    """Tests of all columns together, none of which voted yet.

    Args:
        chances: by a test's name, what it may take of the false alarms.
    """
    found = []
    moving = held.moving
    if moving.sum() >= 2:
        found.append(_domain(held, moving, chances["domain"]))
    # Of an accepted change only the contrasts are known.
    if held.base is not None:
        return found
    if len(held.window.keys) >= FEWEST_SAMPLED and moving.sum() >= 2:
        every = np.arange(held.count)
        rows = held.group.scores[every, held.window.sample, contrasts.LOCATION]
        found.append(_correlation(held, rows, moving, chances["correlation"]))
        if not held.gone.any():
            found.append(_embedding(held, rows, chances["mmd"]))
    return found


def _domain(held: Comparison, moving: NDArray[np.bool_], chance: float) -> Test:
    """A linear classifier of window against reference (Hotelling's T squared).

    Its AUC is that of the best direction between two normal distributions.
    """
    group, at = held.group, held.locations[moving]
    z = held.departure.standard[at]
    alike = group.alike[np.ix_(moving, moving)]
    shrunk = 0.5 * alike + 0.5 * np.eye(len(z))
    squared = float(z @ np.linalg.solve(shrunk, z))
    # Under no drift, z has correlations ``alike``: the statistic's mean and variance.
    weights = np.linalg.eigvalsh(np.linalg.solve(shrunk, alike)).clip(0.0)
    freedom = float(np.min(group.long_run.freedom[at, 0]))
    p_value = _quadratic(squared, weights, freedom)
    effective = float(np.median(1.0 / np.maximum(held.in_full[at], 1e-12)))
    excess = max(squared - float(weights.sum()), 0.0) / effective
    auc = _auc(excess)
    least = detectable.of_quadratic(_quadratic_limit(chance, weights, freedom), weights)
    return Test(
        name="domain",
        value=auc,
        p_value=p_value,
        effect=auc - 0.5,
        unit="",
        effective_rows=effective,
        smallest_detectable=_auc(least / effective) - 0.5,
        voted=False,
    )


def _auc(squared: float) -> float:
    """Of two normal distributions at that squared distance, in standard deviations."""
    return float(special.ndtr(math.sqrt(squared / 2.0)))


def _sampled(held: Comparison, run: calibration.LongRun, rows: Floats) -> tuple[Floats, Floats]:
    """Variance of a sample's mean against the reference's, and its degrees of freedom."""
    variance, freedom = run.of_mean(np.full(len(run.variance), held.slots))
    whole = held.of_window(run, held.group.slots)
    variance = variance * max(held.group.machines / held.machines, 1.0)
    fewer = max(1.0 / len(held.window.keys) - 1.0 / held.window.rows, 0.0)
    return variance + whole + rows * fewer, freedom


def _correlation(
    held: Comparison, rows: Floats, complete: NDArray[np.bool_], chance: float
) -> Test:
    """The pair of columns whose correlation changed most."""
    group = held.group
    usable = complete[group.pairs].all(axis=1)
    centred = rows - rows.mean(axis=0)
    length = np.sqrt((centred**2).sum(axis=0))
    usable &= (length[group.pairs] > 0.1 * math.sqrt(len(rows))).all(axis=1)
    if not usable.any():
        return Test("correlation", 0.0, 1.0, 0.0, "", 0.0, None, voted=False)
    centred = centred / np.where(length > 0.0, length, np.inf)
    now = (centred.T @ centred)[group.pairs[:, 0], group.pairs[:, 1]]
    variance, freedom = _sampled(held, group.pair_run, group.pair_rows)
    # On Fisher's scale the distribution hardly depends on the correlation itself.
    usual = np.clip(group.correlation, -0.999, 0.999)
    error = np.sqrt(np.maximum(variance, 1e-12)) / (1.0 - usual**2)
    # Products of two normal scores have an excess kurtosis of at least 6.
    whole = np.maximum(group.pair_rows / np.maximum(variance, 1e-12), 1.0)
    freedom = np.minimum(freedom * 2.0 / (2.0 + PRODUCTS), 4.0 + 6.0 * whole / PRODUCTS)
    moved = np.arctanh(np.clip(now, -0.999, 0.999)) - np.arctanh(usual)
    p_values = np.where(usable, calibration.two_sided(moved / error, freedom), 1.0)
    worst = int(np.argmin(p_values))
    limit = calibration.limit_of(chance / usable.sum(), freedom[worst : worst + 1])[0]
    # A correlation has the farther to go to either end, the less of it there was.
    towards = math.copysign(limit + detectable.FOUND_NINE_IN_TEN, -usual[worst]) * error[worst]
    found = math.tanh(math.atanh(usual[worst]) + towards)
    return Test(
        name="correlation",
        value=float(now[worst]),
        p_value=min(float(p_values[worst]) * int(usable.sum()), 1.0),
        effect=float(now[worst] - group.correlation[worst]),
        unit="",
        effective_rows=1.0 / float(variance[worst]),
        smallest_detectable=abs(found - float(usual[worst])),
        voted=False,
    )


def _embedding(held: Comparison, rows: Floats, chance: float) -> Test:
    """Maximum mean discrepancy (Gretton et al., JMLR 2012) by random Fourier features."""
    group = held.group
    moved = embed(rows, group.frequencies).mean(axis=0) - group.embedded
    squared = float(moved @ moved) / len(group.frequencies)
    variance, freedoms = _sampled(held, group.embedded_run, group.embedded_rows)
    error = np.sqrt(variance)
    spread = group.embedded_alike * error[:, None] * error / len(group.frequencies)
    weights = np.linalg.eigvalsh(spread).clip(0.0)
    usual, freedom = float(weights.sum()), float(np.median(freedoms))
    limit = _quadratic_limit(chance, weights, freedom)
    return Test(
        name="mmd",
        value=math.sqrt(squared),
        p_value=_quadratic(squared, weights, freedom),
        effect=math.sqrt(max(squared - usual, 0.0)),
        unit="",
        effective_rows=1.0 / max(usual, 1e-12),
        smallest_detectable=math.sqrt(detectable.of_quadratic(limit, weights)),
        voted=False,
    )


def of_shares(
    held: Comparison, p_values: Floats, votes: NDArray[np.bool_], levels: Floats
) -> list[Test]:
    """Categories, a test a channel, and the alarm rate.

    Args:
        p_values, votes: (V,) of the shares, the alarm rate's last.
        levels: (V,) chances at which each votes by itself.
    """
    columns = held.count * len(contrasts.KINDS)
    starts = held.reference.layout.category_starts
    variance, departure = held.in_full[columns:], held.departure
    limits = calibration.limit_of(levels, departure.freedom[columns:])
    now, usual = held.means[columns:], held.group.centers[columns:]
    limit = usual + limits * departure.error[columns:]
    worth = held.worth(usual, np.arange(columns, len(held.means)))
    least = detectable.of_share(limit, worth) - usual
    found = []
    for c, (name, _) in enumerate(held.reference.categories):
        at = slice(starts[c], starts[c + 1])
        p, q = now[at], usual[at]
        rows = float((q * (1.0 - q)).sum() / max(variance[at].sum(), 1e-12))
        rows = min(max(rows, 1.0), float(held.window.rows))
        value, _ = statistics.chi_squared(p[None], q[None], np.array([rows]))
        found.append(
            Test(
                name=f"chi2:{name}",
                value=float(value[0]),
                p_value=min(float(p_values[at].min()) * (at.stop - at.start), 1.0),
                effect=float(np.abs(p - q).max()),
                unit="",
                effective_rows=rows,
                smallest_detectable=float(least[at].max()),
                voted=bool(votes[at].any()),
            )
        )
    rate, usual_rate = float(now[-1]), float(usual[-1])
    fewest = 1.0 / held.window.rows / held.group.rows
    error = math.sqrt(max(float(variance[-1]), fewest))
    rows = min(max(usual_rate * (1 - usual_rate) / error**2, 1.0), float(held.window.rows))
    found.append(
        Test(
            name="alarm-rate",
            value=rate + float(held.cycle[0][-1]),
            p_value=float(p_values[-1]),
            effect=rate - usual_rate,
            unit="",
            effective_rows=rows,
            smallest_detectable=float(least[-1]),
            voted=bool(votes[-1]),
        )
    )
    return found


def _quadratic(value: float, weights: Floats, freedom: float) -> float:
    """Chance of a weighted sum of squares (Satterthwaite; F for what the weights rest on)."""
    total = float(weights.sum())
    if total <= 0.0:
        return 1.0
    own = total**2 / float((weights**2).sum())
    return float(special.fdtrc(own, max(freedom, 2.0), value / total))


def _quadratic_limit(chance: float, weights: Floats, freedom: float) -> float:
    """The sum that has that chance: inverse of :func:`_quadratic`."""
    total = float(weights.sum())
    if total <= 0.0:
        return 0.0
    own = total**2 / float((weights**2).sum())
    return total * float(special.fdtri(own, max(freedom, 2.0), 1.0 - chance))
