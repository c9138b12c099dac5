"""One window against the reference.

Owns which tests are made of a window, how they vote, and what is said of each column. Only tests
whose false alarms :mod:`calibration` holds vote: five contrasts and the range of each column,
correlations, whole rows, categories, the alarm rate. Votes are weighted, and together keep to one
false discovery rate. Distances that people know (Kolmogorov-Smirnov, PSI, Wasserstein, ...) are
told beside them, with the chance that follows from the effective number of rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from worker.core.channels import format_duration
from worker.core.drift import calibration, contrasts, statistics
from worker.core.drift.cells import ABOVE, BELOW, CELLS, INSIDE, MISSING, OUTSIDE, STEPS_A_SCALE
from worker.core.drift.outputs import Direction, FeatureDrift, Test, Verdict, WindowReport
from worker.core.drift.partial import Partial
from worker.core.drift.reference import GroupReference, Reference, embed

Floats = NDArray[np.float64]

WEIGHTS = {
    "location": 0.72,
    "spread": 0.1,
    "skew": 0.02,
    "tails": 0.02,
    "missing": 0.03,
    "range": 0.02,
    "correlation": 0.04,
    "mmd": 0.02,
    "domain": 0.01,
    "categories": 0.015,
    "alarm-rate": 0.005,
}
"""Shares of the false alarms; a shift of the mean is what drifts most often."""
RESERVE = 0.1
"""Share of the false alarms that is left to what the tests' chances are only approximately."""
MOSTLY_MISSING = 0.8
"""A window in which more of a column is missing than of the reference by that share has nothing
to compare."""
GLITCHES = 0.05
"""Values outside the range count towards distances when they are more than that share."""
POOLED_CELLS = 10
DRIFTED = 0.3
"""Usual limit of the drift score."""
FEWEST_SAMPLED = 30
PRODUCTS = 12.0
"""Twice the excess kurtosis of the product of two independent normal values."""


@dataclass(frozen=True)
class Finding:
    """A window's report, with what follows it over time.

    Attributes:
        standard: (N,) distance of each contrast from the reference in standard errors.
        means: (N,) the contrasts' means.
    """

    report: WindowReport
    standard: Floats
    means: Floats


@dataclass(frozen=True)
class Base:
    """A change that was accepted: its contrasts (N,) are what is usual from then on.

    Attributes:
        slots: length of the window that they were measured in.
    """

    means: Floats
    slots: float


def judge(
    reference: Reference,
    group: GroupReference,
    window: Partial,
    alpha: float,
    min_rows: int,
    base: Base | None = None,
) -> Finding:
    """Hold a window against the reference.

    Args:
        alpha: false discovery rate of the window's tests.
        min_rows: windows with fewer rows are "sparse".
        base: an accepted change.
    """
    length_us = window.end_us - window.start_us
    machines = max(window.machines, 1.0)
    slots = max(min(window.rows / machines, length_us / group.interval_us), 1.0)
    size = len(group.centers)
    unseen = _unseen(group, window, slots, min_rows, length_us)
    if unseen is not None:
        verdict, sentence = unseen
        empty = np.zeros(size)
        return Finding(_report(window, verdict, sentence, 0.0, 1.0, (), ()), empty, empty)
    return _Window(reference, group, window, slots, machines, alpha, base).finding()


def _unseen(
    group: GroupReference, window: Partial, slots: float, min_rows: int, length_us: int
) -> tuple[Verdict, str] | None:
    if window.rows < min_rows:
        return "sparse", f"{window.rows} rows are too few to judge; {min_rows} are needed."
    fits = group.slots / slots
    if fits < calibration.SHORTEST_REFERENCE:
        return "blind", (
            f"The reference is only {fits:.1f} times as long as a window of "
            f"{format_duration(length_us)} with {slots:.0f} readings a machine; it has to be "
            f"{calibration.SHORTEST_REFERENCE:.0f} times as long to tell drift from chance."
        )
    return None


def _report(
    window: Partial,
    verdict: Verdict,
    sentence: str,
    score: float,
    p_value: float,
    features: tuple[FeatureDrift, ...],
    joint: tuple[Test, ...],
) -> WindowReport:
    return WindowReport(
        group=window.group,
        window_us=window.end_us - window.start_us,
        start_us=window.start_us,
        end_us=window.end_us,
        rows=window.rows,
        machines=window.machines,
        verdict=verdict,
        sentence=sentence,
        score=score,
        p_value=p_value,
        features=features,
        joint=joint,
    )


class _Window:
    """One window while it is judged; F columns, N contrasts."""

    def __init__(
        self,
        reference: Reference,
        group: GroupReference,
        window: Partial,
        slots: float,
        machines: float,
        alpha: float,
        base: Base | None,
    ) -> None:
        self.reference, self.group, self.window = reference, group, window
        self.slots, self.machines, self.alpha, self.base = slots, machines, alpha, base
        self.count = len(reference.columns)
        self.kinds = len(contrasts.KINDS)
        known = window.counts[:, :CELLS].sum(axis=1).astype(np.float64)
        self.known = known / window.rows
        gone = 1.0 - self.known
        usual = group.counts[:, MISSING] / group.rows
        self.gone = gone - usual > MOSTLY_MISSING

    def finding(self) -> Finding:
        means = self._means()
        standard, freedom, error = self._standard(means)
        p_values = calibration.two_sided(standard, freedom)
        columns = self.count * self.kinds
        p_columns = p_values[:columns].reshape(self.count, self.kinds)
        # With next to nothing left of a column there is nothing to compare.
        p_columns[self.gone, : contrasts.MISSINGNESS] = 1.0
        effective = self._effective_rows(error)
        effective_reference = self._effective_reference()
        outside = statistics.shares(self.window.counts[:, :CELLS])[:, [BELOW, ABOVE]].sum(axis=1)
        p_range = statistics.outside_chance(outside, effective, effective_reference)
        # Of an accepted change only the contrasts are known.
        p_range[self.gone | (self.base is not None)] = 1.0
        p_others = p_values[columns:]
        joint = self._joint(standard)
        table = np.column_stack([p_columns, p_range])
        joint_p = np.array([test.p_value if test.p_value is not None else 1.0 for test in joint])
        tested = np.concatenate([table.ravel(), p_others, joint_p])
        weights = self._weights(table.shape, len(p_others), [test.name for test in joint])
        adjusted = calibration.adjust(tested, weights)
        votes = adjusted <= self.alpha
        limits = calibration.limit_of(
            self.alpha * weights[: table.size].reshape(table.shape)[:, : self.kinds].ravel(),
            freedom[:columns],
        ).reshape(self.count, self.kinds)
        features = self._features(
            means,
            error,
            limits,
            table,
            votes[: table.size].reshape(table.shape),
            adjusted[: table.size].reshape(table.shape),
            (effective, effective_reference),
        )
        others = self._others(p_others, votes[table.size : table.size + len(p_others)], means)
        voted = votes[table.size + len(p_others) :]
        joint = [_voting(test, bool(v)) for test, v in zip(joint, voted, strict=True)] + others
        return Finding(self._say(features, joint, adjusted, votes), standard, means)

    def _means(self) -> Floats:
        of_cells, _ = contrasts.means(self.window.counts, self.group.scores)
        rows = self.window.rows
        rest = np.append(self.window.categories, self.window.anomalies) / rows
        return np.concatenate([of_cells.ravel(), rest])

    def _standard(self, means: Floats) -> tuple[Floats, Floats, Floats]:
        """Distances (N,) in standard errors, degrees of freedom, and the standard errors."""
        group = self.group
        share = np.ones(len(means))
        by_column = np.repeat(self.known[:, None], self.kinds, axis=1)
        by_column[:, contrasts.MISSINGNESS] = 1.0
        share[: by_column.size] = by_column.ravel()
        slots = np.maximum(self.slots * share, 1.0)
        variance, freedom = group.long_run.of_mean(slots)
        # Fewer machines than in the reference average out less, and may be other ones.
        fewer = max(group.machines / self.machines, 1.0)
        variance = variance * fewer
        if self.machines < 0.98 * group.machines:
            variance = variance + group.between * (1.0 / self.machines - 1.0 / group.machines)
        whole, _ = group.long_run.of_mean(np.full(len(means), float(group.slots)))
        variance = variance + whole
        center = group.centers
        if self.base is not None:
            measured, _ = group.long_run.of_mean(np.full(len(means), self.base.slots))
            center, variance = self.base.means, variance + measured * fewer
        # What never changed in the reference may yet be there once in as many rows.
        floor = (1.0 / math.sqrt(group.slots) / np.sqrt(slots)) ** 2
        error = np.sqrt(np.maximum(variance, np.where(group.long_run.variance > 0.0, 0.0, floor)))
        flat = self._flat()
        distance = np.where(flat, 0.0, (means - center) / np.maximum(error, 1e-300))
        return distance, np.minimum(freedom, self._lightness(variance - whole, whole)), error

    def _lightness(self, window: Floats, whole: Floats) -> Floats:
        """Degrees of freedom (N,) beyond which contrasts themselves have heavy tails.

        The mean of m independent values of excess kurtosis k has kurtosis k / m, as Student's t
        with 4 + 6 m / k degrees of freedom; and the variance of M such values of the reference is
        worth 2 M / (2 + k). Rows that follow each other are alike in location longest, so m and M
        are those of the location, and k is taken twice to be on the safe side.

        Args:
            window, whole: variance (N,) of the contrasts' means over the window and the reference.
        """
        group, columns = self.group, self.count * self.kinds
        shares = group.centers[columns:]
        missing = group.counts[:, MISSING] / group.rows
        spread = np.ones((self.count, self.kinds))
        spread[:, contrasts.MISSINGNESS] = missing * (1.0 - missing)
        spreads = np.append(spread, shares * (1.0 - shares))
        of_columns = contrasts.kurtosis(group.counts, group.scores)
        curved = slice(contrasts.SPREAD, contrasts.TAILS + 1)
        of_columns[:, curved] = 2.0 * of_columns[:, curved].max(axis=1, keepdims=True)
        heavy = np.maximum(np.append(of_columns, contrasts.of_indicator(shares)), 1e-3)
        freedoms = []
        for variance in (window, whole):
            effective = spreads / np.maximum(variance, 1e-300)
            own = effective[:columns].reshape(self.count, self.kinds)
            own[:, curved] = np.minimum(own[:, curved], own[:, :1])
            freedoms.append(effective)
        freedom: Floats = np.minimum(
            4.0 + 6.0 * freedoms[0] / heavy, np.maximum(2.0 * freedoms[1] / (2.0 + heavy), 1.0)
        )
        # An indicator that never varied has a reference of its own: see ``_standard``.
        return np.where(group.long_run.variance > 0.0, freedom, 4.0)

    def _flat(self) -> NDArray[np.bool_]:
        """Contrasts (N,) that say nothing because the column never moved in the reference."""
        flat = np.zeros(len(self.group.centers), np.bool_)
        columns = self.count * self.kinds
        of_columns = (self.group.long_run.variance[:columns] <= 0.0).reshape(self.count, -1)
        of_columns[:, contrasts.MISSINGNESS] = False
        flat[:columns] = of_columns.ravel()
        return flat

    def _effective_rows(self, error: Floats) -> Floats:
        """Independent rows (F,) that the window is worth, by the error of the normal scores."""
        at = np.arange(self.count) * self.kinds + contrasts.LOCATION
        whole, _ = self.group.long_run.of_mean(np.full(len(error), float(self.group.slots)))
        variance = np.maximum(error[at] ** 2 - whole[at], 1e-12)
        known = self.known * self.window.rows
        return np.clip(1.0 / variance, 1.0, np.maximum(known, 1.0))

    def _effective_reference(self) -> Floats:
        at = np.arange(self.count) * self.kinds + contrasts.LOCATION
        whole, _ = self.group.long_run.of_mean(
            np.full(len(self.group.centers), float(self.group.slots))
        )
        return np.clip(1.0 / np.maximum(whole[at], 1e-12), 1.0, float(self.group.rows))

    def _weights(self, shape: tuple[int, int], others: int, joint: list[str]) -> Floats:
        names = (*contrasts.KINDS, "range")
        own = np.array([WEIGHTS[name] for name in names]) / shape[0]
        rest = np.array(
            [WEIGHTS["categories"] / max(others - 1, 1)] * (others - 1) + [WEIGHTS["alarm-rate"]]
        )
        share = np.array([WEIGHTS[name] for name in joint])
        weights = np.concatenate([np.tile(own, shape[0]), rest, share])
        shared: Floats = weights / weights.sum() * (1.0 - RESERVE)
        return shared

    def _joint(self, standard: Floats) -> list[Test]:
        """Tests of all columns together."""
        found = []
        at = np.arange(self.count) * self.kinds + contrasts.LOCATION
        moving = (self.group.long_run.variance[at] > 0.0) & ~self.gone
        if moving.sum() >= 2:
            found.append(self._domain(standard[at[moving]], moving))
        if self.base is not None:
            return found
        if len(self.window.keys) >= FEWEST_SAMPLED and moving.sum() >= 2:
            rows = self.group.scores[np.arange(self.count), self.window.sample, contrasts.LOCATION]
            found.append(self._correlation(rows, moving))
            if not self.gone.any():
                found.append(self._embedding(rows))
        return found

    def _domain(self, z: Floats, moving: NDArray[np.bool_]) -> Test:
        """A linear classifier of window against reference (Hotelling's T squared).

        Its AUC is that of the best direction between two normal distributions.
        """
        alike = self.group.alike[np.ix_(moving, moving)]
        count = len(z)
        shrunk = 0.5 * alike + 0.5 * np.eye(count)
        squared = float(z @ np.linalg.solve(shrunk, z))
        # Under no drift, z has correlations ``alike``: the statistic's mean and variance.
        weights = np.linalg.eigvalsh(np.linalg.solve(shrunk, alike)).clip(0.0)
        at = np.arange(self.count)[moving] * self.kinds + contrasts.LOCATION
        freedom = float(np.min(self.group.long_run.freedom[at, 0]))
        p_value = _quadratic(squared, weights, freedom)
        effective = float(np.median(self._location_rows(at)))
        excess = max(squared - float(weights.sum()), 0.0) / effective
        auc = float(special.ndtr(math.sqrt(excess / 2.0)))
        detectable = math.sqrt(2.0 * float(weights.sum()) ** 0.5 * 4.0 / effective)
        least = float(special.ndtr(detectable / math.sqrt(2.0))) - 0.5
        return Test("domain", auc, p_value, auc - 0.5, "", effective, least, False)

    def _location_rows(self, at: NDArray[np.int64]) -> Floats:
        slots = np.full(len(self.group.centers), self.slots)
        variance, _ = self.group.long_run.of_mean(slots)
        return 1.0 / np.maximum(variance[at], 1e-12)

    def _sampled(self, run: calibration.LongRun, rows: Floats) -> tuple[Floats, Floats]:
        """Variance of a sample's mean against the reference's, and its degrees of freedom."""
        count = len(run.variance)
        variance, freedom = run.of_mean(np.full(count, self.slots))
        whole, _ = run.of_mean(np.full(count, float(self.group.slots)))
        variance = variance * max(self.group.machines / self.machines, 1.0)
        sampled = len(self.window.keys)
        fewer = max(1.0 / sampled - 1.0 / self.window.rows, 0.0)
        return variance + whole + rows * fewer, freedom

    def _correlation(self, rows: Floats, complete: NDArray[np.bool_]) -> Test:
        """The pair of columns whose correlation changed most."""
        group = self.group
        usable = complete[group.pairs].all(axis=1)
        centred = rows - rows.mean(axis=0)
        length = np.sqrt((centred**2).sum(axis=0))
        usable &= (length[group.pairs] > 0.1 * math.sqrt(len(rows))).all(axis=1)
        if not usable.any():
            return Test("correlation", 0.0, 1.0, 0.0, "", 0.0, None, False)
        centred = centred / np.where(length > 0.0, length, np.inf)
        now = (centred.T @ centred)[group.pairs[:, 0], group.pairs[:, 1]]
        variance, freedom = self._sampled(group.pair_run, group.pair_rows)
        # On Fisher's scale the distribution hardly depends on the correlation itself.
        slope = 1.0 - np.clip(group.correlation, -0.999, 0.999) ** 2
        error = np.sqrt(np.maximum(variance, 1e-12)) / slope
        # Products of two normal scores have an excess kurtosis of at least 6.
        whole = np.maximum(group.pair_rows / np.maximum(variance, 1e-12), 1.0)
        freedom = np.minimum(freedom * 2.0 / (2.0 + PRODUCTS), 4.0 + 6.0 * whole / PRODUCTS)
        moved = np.arctanh(np.clip(now, -0.999, 0.999)) - np.arctanh(
            np.clip(group.correlation, -0.999, 0.999)
        )
        p_values = np.where(usable, calibration.two_sided(moved / error, freedom), 1.0)
        worst = int(np.argmin(p_values))
        p_value = min(float(p_values[worst]) * int(usable.sum()), 1.0)
        limit = calibration.limit_of(
            self.alpha * WEIGHTS["correlation"] / usable.sum(), freedom[worst : worst + 1]
        )[0]
        least = math.tanh(float(limit + calibration.FOUND_NINE_IN_TEN) * float(error[worst]))
        effect = float(now[worst] - group.correlation[worst])
        effective = 1.0 / float(variance[worst])
        return Test("correlation", float(now[worst]), p_value, effect, "", effective, least, False)

    def _embedding(self, rows: Floats) -> Test:
        """Maximum mean discrepancy (Gretton et al., JMLR 2012) by random Fourier features."""
        group = self.group
        moved = embed(rows, group.frequencies).mean(axis=0) - group.embedded
        squared = float(moved @ moved) / len(group.frequencies)
        variance, freedom = self._sampled(group.embedded_run, group.embedded_rows)
        error = np.sqrt(variance)
        spread = group.embedded_alike * error[:, None] * error / len(group.frequencies)
        weights = np.linalg.eigvalsh(spread).clip(0.0)
        p_value = _quadratic(squared, weights, float(np.median(freedom)))
        usual = float(weights.sum())
        effective = 1.0 / max(usual, 1e-12)
        least = math.sqrt(max(usual, 0.0)) * 2.0
        return Test(
            "mmd",
            math.sqrt(squared),
            p_value,
            math.sqrt(max(squared - usual, 0.0)),
            "",
            effective,
            least,
            False,
        )

    def _others(self, p_values: Floats, votes: NDArray[np.bool_], means: Floats) -> list[Test]:
        """Categories, a test a channel, and the alarm rate."""
        columns = self.count * self.kinds
        starts = self.reference.layout.category_starts
        found = []
        variance, _ = self.group.long_run.of_mean(np.full(len(means), self.slots))
        now, usual = means[columns:], self.group.centers[columns:]
        for c, (name, _) in enumerate(self.reference.categories):
            at = slice(starts[c], starts[c + 1])
            p, q = now[at], usual[at]
            spread = (q * (1.0 - q)).sum()
            rows = float(spread / max(variance[columns:][at].sum(), 1e-12))
            rows = min(max(rows, 1.0), float(self.window.rows))
            value, _ = statistics.chi_squared(p[None], q[None], np.array([rows]))
            p_value = min(float(p_values[at].min()) * (at.stop - at.start), 1.0)
            effect = float(np.abs(p - q).max())
            least = 4.0 / math.sqrt(rows) * 0.5
            found.append(
                Test(
                    f"chi2:{name}",
                    float(value[0]),
                    p_value,
                    effect,
                    "",
                    rows,
                    least,
                    bool(votes[at].any()),
                )
            )
        rate, usual_rate = float(now[-1]), float(usual[-1])
        error = math.sqrt(max(float(variance[-1]), 1.0 / self.window.rows / self.group.rows))
        rows = min(max(usual_rate * (1 - usual_rate) / error**2, 1.0), float(self.window.rows))
        found.append(
            Test(
                *("alarm-rate", rate, float(p_values[-1]), rate - usual_rate, "", rows),
                4.0 * error,
                bool(votes[-1]),
            )
        )
        return found

    def _features(
        self,
        means: Floats,
        error: Floats,
        limits: Floats,
        p_values: Floats,
        votes: NDArray[np.bool_],
        adjusted: Floats,
        effective: tuple[Floats, Floats],
    ) -> tuple[FeatureDrift, ...]:
        """What is said of each column; see :class:`FeatureDrift`."""
        group, count = self.group, self.count
        columns = count * self.kinds
        own = means[:columns].reshape(count, self.kinds)
        shift = own - group.centers[:columns].reshape(count, self.kinds)
        errors = error[:columns].reshape(count, self.kinds)
        least = (limits + calibration.FOUND_NINE_IN_TEN) * errors
        distances = _Distances(self.reference, group, self.window)
        rows, reference_rows = effective
        both = rows * reference_rows / (rows + reference_rows)
        told = distances.tests(both)
        effects = distances.shift()
        scores = distances.score()
        found = []
        for f, (name, unit) in enumerate(
            zip(self.reference.columns, self.reference.units, strict=True)
        ):
            sd = float(group.sd[f])
            in_unit = (sd, sd, 1.0, 1.0, 1.0)
            units = (unit, unit, "", "", "")
            tests = [
                Test(
                    kind,
                    float(own[f, k]),
                    float(p_values[f, k]),
                    float(effects[f]) if k == 0 else float(shift[f, k]) * in_unit[k],
                    units[k],
                    float(rows[f]),
                    float(least[f, k]) * in_unit[k],
                    bool(votes[f, k]),
                )
                for k, kind in enumerate(contrasts.KINDS)
            ]
            outside = float(distances.outside[f])
            tests.append(
                Test(
                    *("range", outside, float(p_values[f, -1]), outside, "", float(rows[f])),
                    min(4.0 / float(rows[f]), 1.0),
                    bool(votes[f, -1]),
                )
            )
            tests += told[f]
            found.append(
                FeatureDrift(
                    feature=name,
                    unit=unit,
                    drifted=bool(votes[f].any()),
                    score=float(scores[f]),
                    direction=_direction(votes[f], adjusted[f], shift[f], distances.side(f)),
                    effect=float(effects[f]),
                    p_value=float(adjusted[f].min()),
                    effective_rows=float(rows[f]),
                    smallest_detectable=float(least[f, 0]) * sd,
                    tests=tuple(tests),
                )
            )
        found.sort(key=lambda one: (not one.drifted, one.p_value, -one.score))
        return tuple(found)

    def _say(
        self,
        features: tuple[FeatureDrift, ...],
        joint: list[Test],
        adjusted: Floats,
        votes: NDArray[np.bool_],
    ) -> WindowReport:
        drifted = [one for one in features if one.drifted]
        together = [test for test in joint if test.voted]
        score = max((one.score for one in drifted), default=0.0)
        p_value = float(adjusted.min())
        verdict: Verdict = "ordinary"
        missing_only = all(
            all(test.name == "missing" for test in one.tests if test.voted) for one in drifted
        )
        if self.gone.sum() * 2 >= self.count or (drifted and missing_only and not together):
            names = [self.reference.columns[f] for f in np.flatnonzero(self.gone)[:3]]
            names += [one.feature for one in drifted[:3] if one.feature not in names]
            sentence = f"Readings are missing, so there is little to compare: {', '.join(names)}."
            return _report(self.window, "health", sentence, score, p_value, features, tuple(joint))
        if drifted or together:
            verdict = "drift"
            sentence = _explain(drifted, together, len(features))
        else:
            first = features[0]
            sentence = (
                f"None of {int((~votes).sum())} tests is beyond chance; a shift of "
                f"{first.smallest_detectable:.3g} {first.unit} of {first.feature} would be seen."
            ).replace("  ", " ")
        return _report(self.window, verdict, sentence, score, p_value, features, tuple(joint))


class _Distances:
    """Distances that people know, of all columns of a window."""

    def __init__(self, reference: Reference, group: GroupReference, window: Partial) -> None:
        self._reference, self._group, self._window = reference, group, window
        self._now = window.counts[:, :CELLS]
        self._usual = group.counts[:, :CELLS]
        shares = statistics.shares(self._now)
        self.outside = shares[:, BELOW] + shares[:, ABOVE]
        step = reference.scale / STEPS_A_SCALE
        out = self._now[:, BELOW] + self._now[:, ABOVE]
        sums = window.sums
        self._beyond = reference.center + step * sums[:, OUTSIDE] / np.maximum(out, 1)
        inside = np.maximum(self._now.sum(axis=1) - out, 1)
        # A few values outside count as the range's ends.
        edges = reference.edges.astype(np.float64)
        ends = self._now[:, BELOW] * edges[:, 0] + self._now[:, ABOVE] * edges[:, -1]
        own = (reference.center * inside + step * sums[:, INSIDE] + ends) / (inside + out)
        everything = reference.center + step * (sums[:, INSIDE] + sums[:, OUTSIDE]) / (inside + out)
        self._counts_outside = self.outside > GLITCHES
        self._mean = np.where(self._counts_outside, everything, own)

    def shift(self) -> Floats:
        """By how much (F,) the mean moved, in the columns' units."""
        known = self._now.sum(axis=1) > 0
        return np.where(known, self._mean - self._group.mean, 0.0)

    def side(self, f: int) -> Direction:
        """Where values outside the range are."""
        return "up" if self._now[f, ABOVE] >= self._now[f, BELOW] else "down"

    def _values(self) -> Floats:
        """Ascending values (F, 64) of the cells: beyond the range only where more than glitches."""
        edges = self._reference.edges.astype(np.float64)
        values = self._group.values.copy()
        # A cell that the group's reference does not have is between its edges.
        inner = np.clip(values[:, 1:-1], edges[:, :-1], edges[:, 1:])
        low, high = edges[:, 0], edges[:, -1]
        below = np.where(self._counts_outside & (self._beyond < low), self._beyond, low)
        above = np.where(self._counts_outside & (self._beyond > high), self._beyond, high)
        return np.maximum.accumulate(
            np.concatenate([below[:, None], inner, above[:, None]], axis=1), axis=1
        )

    def _wasserstein(self) -> Floats:
        p, q = statistics.shares(self._now), statistics.shares(self._usual)
        known = self._now.sum(axis=1) > 0
        return np.where(known, statistics.wasserstein(p, q, self._values()), 0.0)

    def score(self) -> Floats:
        """Wasserstein distance (F,) in standard deviations of the reference."""
        distance = self._wasserstein()
        sd = self._group.sd
        return np.where(sd > 0.0, distance / np.where(sd > 0.0, sd, 1.0), 0.0)

    def tests(self, rows: Floats) -> list[list[Test]]:
        """The distances of each column, with their chances by effective rows (F,)."""
        p, q = statistics.shares(self._now), statistics.shares(self._usual)
        ks = statistics.kolmogorov_smirnov(p, q)
        ks_chance = statistics.kolmogorov_chance(ks, rows)
        few, few_usual = (
            statistics.pooled(self._now, POOLED_CELLS),
            statistics.pooled(self._usual, POOLED_CELLS),
        )
        few = statistics.shares(few + statistics.SMOOTHING)
        few_usual = statistics.shares(few_usual + statistics.SMOOTHING)
        psi = statistics.population_stability(few, few_usual)
        js = statistics.jensen_shannon(few, few_usual)
        moved = self._wasserstein()
        sd = self._group.sd
        psi_chance = special.chdtrc(POOLED_CELLS - 1, rows * psi)
        js_chance = special.chdtrc(POOLED_CELLS - 1, rows * js**2 * 8.0 * math.log(2.0))
        score = self.score()
        w_chance = wasserstein_chance(score, rows)
        root = np.sqrt(rows)
        units = self._reference.units
        return [
            [
                _told("ks", ks[f], ks_chance[f], ks[f], "", rows[f], 1.63 / root[f]),
                _told(
                    "wasserstein",
                    score[f],
                    w_chance[f],
                    moved[f],
                    units[f],
                    rows[f],
                    2.2 * sd[f] / root[f],
                ),
                _told("psi", psi[f], psi_chance[f], psi[f], "", rows[f], 21.7 / rows[f]),
                _told("jensen-shannon", js[f], js_chance[f], js[f], "", rows[f], 1.98 / root[f]),
            ]
            for f in range(len(units))
        ]


def _told(
    name: str, value: float, p: float, effect: float, unit: str, rows: float, least: float
) -> Test:
    return Test(name, float(value), float(p), float(effect), unit, float(rows), float(least), False)


def wasserstein_chance(score: Floats, rows: Floats) -> Floats:
    """Chance of a normalised distance, as a gamma distribution.

    Of n normal rows against a known normal distribution, ``sqrt(n) W`` has mean 1.27 and
    standard deviation 0.44 (4,000 simulated samples of 500 and of 2,000 rows). The gamma
    distribution of these moments has its 99 % quantile at 2.5, the samples had it at 2.6.
    """
    shape, mean = (1.27 / 0.44) ** 2, 1.27
    chance: Floats = special.gammaincc(shape, score * np.sqrt(rows) * shape / mean)
    return chance


def _quadratic(value: float, weights: Floats, freedom: float) -> float:
    """Chance of a weighted sum of squares (Satterthwaite; F for what the weights rest on)."""
    total, squares = float(weights.sum()), float((weights**2).sum())
    if total <= 0.0:
        return 1.0
    own = total**2 / squares
    return float(special.fdtrc(own, max(freedom, 2.0), value / total))


def _voting(test: Test, voted: bool) -> Test:
    return Test(
        *(test.name, test.value, test.p_value, test.effect, test.unit, test.effective_rows),
        test.smallest_detectable,
        voted,
    )


def _direction(
    votes: NDArray[np.bool_], p_values: Floats, shift: Floats, side: Direction
) -> Direction:
    """What happened, by the most significant vote."""
    if not votes.any():
        return "none"
    first = int(np.argmin(np.where(votes, p_values, np.inf)))
    if votes[contrasts.LOCATION]:
        first = contrasts.LOCATION
    if first == len(contrasts.KINDS):
        return side
    choices: dict[int, tuple[Direction, Direction]] = {
        contrasts.LOCATION: ("down", "up"),
        contrasts.SPREAD: ("narrower", "wider"),
        contrasts.SKEW: ("shape", "shape"),
        contrasts.TAILS: ("shape", "shape"),
        contrasts.MISSINGNESS: ("missing", "missing"),
    }
    return choices[first][int(shift[first] > 0.0)]


def _explain(drifted: list[FeatureDrift], together: list[Test], columns: int) -> str:
    parts = []
    if drifted:
        first = drifted[0]
        by = [test.name for test in first.tests if test.voted]
        agree = [t.name for t in first.tests if not t.voted and (t.p_value or 1.0) <= 0.01]
        also = f" ({', '.join(agree)} agree)" if agree else ""
        moved = f" by {first.effect:+.3g} {first.unit}".rstrip() if "location" in by else ""
        parts.append(
            f"{len(drifted)} of {columns} columns drifted, {first.feature} first{moved}, "
            f"by vote of {', '.join(by)}{also}"
        )
    if together:
        parts.append(f"all columns together by vote of {', '.join(t.name for t in together)}")
    return "; ".join(parts) + "."
