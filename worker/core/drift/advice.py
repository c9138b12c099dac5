"""What a drift probably is, and in which machines.

Owns rules of thumb, each of which can be told in a sentence; none of them decides whether there is
a drift.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worker.core.drift.cells import STEPS_A_SCALE
from worker.core.drift.history import History
from worker.core.drift.outputs import Advice, EventKind, FeatureDrift, Machine, WindowReport
from worker.core.drift.partial import Partial
from worker.core.drift.reference import GroupReference, Reference

TOLD_MACHINES = 5
TREND_WINDOWS = 6
TREND = 0.8
"""Rank correlation with time beyond which a change is gradual."""
SEASON = 0.6
"""Correlation with the same hours of the day before beyond which a change is seasonal."""
HOURS_A_DAY = 24
STILL = -0.6
"""Contrast of the spread of a column with less than two fifths of its usual deviation; a column
that stands still in the middle has -0.71."""
HOUR_US = 3_600_000_000


def advise(reference: Reference, history: History, report: WindowReport, kind: EventKind) -> Advice:
    """What to think of first.

    - readings are missing, or one channel hardly moves any more: its sensor;
    - as on the day before at this hour: seasonal;
    - farther away from window to window: gradual wear;
    - one channel, at once: its sensor was recalibrated;
    - several channels, at once: a new regime.
    """
    if kind == "health":
        return "sensor-fault"
    drifted = [one for one in report.features if one.drifted]
    if not drifted:
        return "new-regime" if any(test.voted for test in report.joint) else "unclear"
    owner = dict(zip(reference.columns, reference.owners, strict=True))
    owners = {owner[one.feature] for one in drifted} - {""}
    narrower = drifted[0].direction == "narrower" or _is_still(drifted[0])
    if drifted[0].direction == "missing" or (len(owners) == 1 and narrower):
        return "sensor-fault"
    if _is_seasonal(reference, history, report):
        return "seasonal"
    if _is_gradual(reference, history, report):
        return "gradual-wear"
    return "recalibrated-sensor" if len(owners) == 1 else "new-regime"


def _is_still(one: FeatureDrift) -> bool:
    """Whether a column hardly moves, whichever of its tests was the most significant."""
    return any(test.name == "spread" and test.value < STILL for test in one.tests)


def _is_gradual(reference: Reference, history: History, report: WindowReport) -> bool:
    _, z = history.of_first(reference, report, report.window_us)
    z = z[-2 * TREND_WINDOWS :]
    if len(z) < TREND_WINDOWS:
        return False
    # A step is no trend: the later half has to go on.
    later = np.abs(z[len(z) // 2 :])
    return _rank_correlation(np.abs(z)) > TREND and _rank_correlation(later) > TREND / 2.0


def _is_seasonal(reference: Reference, history: History, report: WindowReport) -> bool:
    _, z = history.of_first(reference, report, HOUR_US)
    if len(z) < HOURS_A_DAY + HOURS_A_DAY // 2:
        return False
    now, before = z[HOURS_A_DAY:], z[:-HOURS_A_DAY]
    if now.std() == 0.0 or before.std() == 0.0:
        return False
    return float(np.corrcoef(now, before)[0, 1]) > SEASON


def _rank_correlation(values: NDArray[np.float64]) -> float:
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return float(np.corrcoef(ranks, np.arange(len(values)))[0, 1])


def machines_of(
    reference: Reference, group: GroupReference, window: Partial | None, report: WindowReport
) -> tuple[Machine, ...]:
    """The machines that moved the column that drifted most, of those that are known by name."""
    drifted = [one for one in report.features if one.drifted]
    if window is None or not drifted or not len(window.machine_hashes):
        return ()
    f = reference.columns.index(drifted[0].feature)
    usual = (group.mean[f] - reference.center[f]) * STEPS_A_SCALE / reference.scale[f]
    moved = window.machine_sums[:, f] - usual * window.machine_rows
    share = np.maximum(moved * np.sign(moved.sum()), 0.0)
    if share.sum() <= 0.0:
        return ()
    share /= share.sum()
    order = np.argsort(-share, kind="stable")[:TOLD_MACHINES]
    return tuple(Machine(window.machine_ids[m], float(share[m])) for m in order if share[m] > 0.0)
