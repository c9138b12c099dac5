"""One window against the reference.

Owns which tests are made of a window, how they vote, and what is said. Only tests whose false
alarms :mod:`calibration` holds vote: five contrasts and the range of each column, correlations,
whole rows, categories, the alarm rate. Votes are weighted, and together keep to one false
discovery rate. Distances that people know (Kolmogorov-Smirnov, PSI, Wasserstein, ...) are told
beside them, with the chance that follows from the effective number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from worker.core.channels import format_duration
from worker.core.drift import calibration, contrasts, joint, statistics, streams
from worker.core.drift.cells import ABOVE, BELOW, CELLS
from worker.core.drift.columns import OF_COLUMNS, Votes, describe
from worker.core.drift.comparison import Base, Comparison
from worker.core.drift.outputs import FeatureDrift, Test, Verdict, WindowReport
from worker.core.drift.partial import Partial
from worker.core.drift.reference import GroupReference, Reference

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
    "adwin": 0.01,
    "page-hinkley": 0.005,
    "kswin": 0.005,
}
"""Shares of the false alarms; a shift of the mean is what drifts most often."""
RESERVE = 0.1
"""Share of the false alarms that is left to what the tests' chances are only approximately."""


@dataclass(frozen=True)
class Finding:
    """A window's report, with what follows it over time.

    Attributes:
        standard: (N,) distance of each contrast from the reference in standard errors.
        means: (N,) the contrasts' means.
        alone: (F,) see :attr:`Comparison.alone`.
    """

    report: WindowReport
    standard: Floats
    means: Floats
    alone: Floats


def judge(
    reference: Reference,
    group: GroupReference,
    window: Partial,
    alpha: float,
    min_rows: int,
    base: Base | None = None,
    past: streams.Past | None = None,
) -> Finding:
    """Hold a window against the reference.

    Args:
        alpha: false discovery rate of the window's tests.
        min_rows: windows with fewer rows are "sparse".
        base: an accepted change.
        past: the windows of the same length before, for tests over several.
    """
    length_us = window.end_us - window.start_us
    machines = max(window.machines, 1.0)
    slots = max(min(window.rows / machines, length_us / group.interval_us), 1.0)
    unseen = _unseen(group, window, slots, min_rows, length_us)
    if unseen is not None:
        empty = np.zeros(len(group.centers))
        return Finding(_report(window, *unseen), empty, empty, np.zeros(len(reference.columns)))
    return _vote(Comparison(reference, group, window, slots, machines, base), alpha, past)


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
    score: float = 0.0,
    p_value: float = 1.0,
    features: tuple[FeatureDrift, ...] = (),
    together: tuple[Test, ...] = (),
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
        joint=together,
    )


def _vote(held: Comparison, alpha: float, past: streams.Past | None) -> Finding:
    """Test, weigh, correct for the number of tests, and tell."""
    kinds, departure = len(contrasts.KINDS), held.departure
    columns = held.count * kinds
    p_values = calibration.two_sided(departure.standard, departure.freedom)
    table = _of_columns(held, p_values[:columns].reshape(held.count, kinds))
    over = _over_windows(held, alpha, past)
    names = (*OF_COLUMNS, *over)
    table = np.column_stack([table, *(one.p_value for one in over.values())])
    shares = p_values[columns:]
    rows = joint.of_rows(held, {name: alpha * weight for name, weight in WEIGHTS.items()})
    chances = np.array([1.0 if test.p_value is None else test.p_value for test in rows])
    tested = np.concatenate([table.ravel(), shares, chances])
    weights = _weights((held.count, names), len(shares), [test.name for test in rows])
    adjusted = calibration.adjust(tested, weights)
    votes = adjusted <= alpha
    own, rest = slice(0, table.size), slice(table.size, table.size + len(shares))
    shape = table.shape
    features = describe(
        held,
        Votes(
            p_values=table,
            adjusted=adjusted[own].reshape(shape),
            levels=alpha * weights[own].reshape(shape),
            voted=votes[own].reshape(shape),
            over=over,
        ),
    )
    together = [
        replace(test, voted=bool(voted))
        for test, voted in zip(rows, votes[rest.stop :], strict=True)
    ]
    together += joint.of_shares(held, shares, votes[rest], alpha * weights[rest])
    report = _say(held, features, together, float(adjusted.min()), int((~votes).sum()))
    return Finding(report, departure.standard, held.means, held.alone)


def _of_columns(held: Comparison, p_values: Floats) -> Floats:
    """Chances (F, 6) of each column's tests, by those of its contrasts (F, 5)."""
    # With next to nothing left of a column there is nothing to compare.
    p_values[held.gone, : contrasts.MISSINGNESS] = 1.0
    cells = statistics.shares(held.window.counts[:, :CELLS])
    p_range = statistics.outside_chance(
        cells[:, BELOW] + cells[:, ABOVE], held.effective_rows, held.effective_reference
    )
    # Of an accepted change only the contrasts are known.
    p_range[held.gone | (held.base is not None)] = 1.0
    return np.column_stack([p_values, p_range])


def _over_windows(
    held: Comparison, alpha: float, past: streams.Past | None
) -> dict[str, streams.Stream]:
    if past is None:
        return {}
    levels = {name: alpha * WEIGHTS[name] / held.count for name in streams.NAMES}
    return streams.of_past(held, past, levels)


def _weights(own_tests: tuple[int, tuple[str, ...]], shares: int, together: list[str]) -> Floats:
    """Shares of the false alarms: each column's tests, each category, the alarm rate, the rest.

    Args:
        own_tests: F, and the names of the tests of each column.
    """
    columns, names = own_tests
    own = np.array([WEIGHTS[name] for name in names]) / columns
    categories = shares - 1
    rest = [WEIGHTS["categories"] / max(categories, 1)] * categories + [WEIGHTS["alarm-rate"]]
    joint_ = [WEIGHTS[name] for name in together]
    weights = np.concatenate([np.tile(own, columns), rest, joint_])
    shared: Floats = weights / weights.sum() * (1.0 - RESERVE)
    return shared


def _say(
    held: Comparison,
    features: tuple[FeatureDrift, ...],
    joint_: list[Test],
    p_value: float,
    calm: int,
) -> WindowReport:
    """The verdict in a sentence; ``calm``: how many tests did not vote."""
    drifted = [one for one in features if one.drifted]
    together = [test for test in joint_ if test.voted]
    score = max((one.score for one in drifted), default=0.0)
    missing_only = all(
        all(test.name == "missing" for test in one.tests if test.voted) for one in drifted
    )
    verdict: Verdict
    if held.gone.sum() * 2 >= held.count or (drifted and missing_only and not together):
        names = [held.reference.columns[f] for f in np.flatnonzero(held.gone)[:3]]
        names += [one.feature for one in drifted[:3] if one.feature not in names]
        verdict = "health"
        sentence = f"Readings are missing, so there is little to compare: {', '.join(names)}."
    elif drifted or together:
        verdict, sentence = "drift", _explain(drifted, together, len(features))
    else:
        first = features[0]
        verdict = "ordinary"
        sentence = (
            f"None of {calm} tests is beyond chance; a shift of "
            f"{first.smallest_detectable:.3g} {first.unit} of {first.feature} would be seen."
        ).replace("  ", " ")
    return _report(held.window, verdict, sentence, score, p_value, features, tuple(joint_))


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
