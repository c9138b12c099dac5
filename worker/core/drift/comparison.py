"""A window beside its reference: how far each contrast is from what is usual.

Owns the distances in standard errors that everything else is judged by: what an ordinary window
may stray by its length, its machines and its missing readings.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.core.drift import contrasts
from worker.core.drift.calibration import LongRun
from worker.core.drift.cells import CELLS, MISSING
from worker.core.drift.partial import Partial
from worker.core.drift.reference import GroupReference, Reference

Floats = NDArray[np.float64]

MOSTLY_MISSING = 0.8
"""A window in which more of a column is missing than of the reference by that share has nothing
to compare."""


@dataclass(frozen=True)
class Base:
    """A change that was accepted: its contrasts (N,) are what is usual from then on.

    Attributes:
        slots: length of the window that they were measured in.
    """

    means: Floats
    slots: float


@dataclass(frozen=True)
class Departure:
    """How far contrasts are from what is usual.

    Attributes:
        standard: (N,) in standard errors.
        freedom: (N,) degrees of freedom of Student's t.
        error: (N,) the standard errors.
        own: (N,) variance of the window's means alone.
    """

    standard: Floats
    freedom: Floats
    error: Floats
    own: Floats


@dataclass(frozen=True)
class Comparison:
    """A window beside its reference; F columns, N contrasts, five of each column first.

    Attributes:
        slots: readings of a machine in the window.
        machines: how many sent the window.
        base: an accepted change, which is usual instead of the reference.
    """

    reference: Reference
    group: GroupReference
    window: Partial
    slots: float
    machines: float
    base: Base | None

    @property
    def count(self) -> int:
        """F."""
        return len(self.reference.columns)

    @functools.cached_property
    def known(self) -> Floats:
        """Share (F,) of the window's rows that have a value."""
        known: Floats = self.window.counts[:, :CELLS].sum(axis=1) / float(self.window.rows)
        return known

    @functools.cached_property
    def gone(self) -> NDArray[np.bool_]:
        """Columns (F,) of which too much is missing to compare."""
        usual = self.group.counts[:, MISSING] / self.group.rows
        gone: NDArray[np.bool_] = (1.0 - self.known) - usual > MOSTLY_MISSING
        return gone

    @property
    def locations(self) -> NDArray[np.int64]:
        """Positions (F,) of the columns' locations among the contrasts."""
        return np.arange(self.count) * len(contrasts.KINDS) + contrasts.LOCATION

    @property
    def moving(self) -> NDArray[np.bool_]:
        """Columns (F,) that vary in the reference and are there in the window."""
        return (self.group.long_run.variance[self.locations] > 0.0) & ~self.gone

    @functools.cached_property
    def means(self) -> Floats:
        """Means (N,) of the contrasts over the window, less what its time of the week adds."""
        of_cells, _ = contrasts.means(self.window.counts, self.group.scores)
        rest = np.append(self.window.categories, self.window.anomalies) / self.window.rows
        return np.concatenate([of_cells.ravel(), rest]) - self.cycle[0]

    @functools.cached_property
    def cycle(self) -> tuple[Floats, Floats]:
        """What the window's time of the week adds to the contrasts (N,), and its variance."""
        return self.group.cycle(self.window.start_us, self.window.end_us)

    @functools.cached_property
    def whole(self) -> Floats:
        """Variance (N,) of the reference's own means."""
        return self.of_window(self.group.long_run, self.group.slots)

    @functools.cached_property
    def in_full(self) -> Floats:
        """Variance (N,) of means of the window's length in which nothing is missing."""
        return self.of_window(self.group.long_run, self.slots)

    @staticmethod
    def of_window(run: LongRun, slots: float) -> Floats:
        """Variance (K,) of means of so many slots."""
        return run.of_mean(np.full(len(run.variance), float(slots)))[0]

    @functools.cached_property
    def departure(self) -> Departure:
        """How far the contrasts are from the reference, or from the accepted change."""
        group = self.group
        share = np.ones(len(self.means))
        by_column = np.repeat(self.known[:, None], len(contrasts.KINDS), axis=1)
        by_column[:, contrasts.MISSINGNESS] = 1.0
        share[: by_column.size] = by_column.ravel()
        slots = np.maximum(self.slots * share, 1.0)
        variance, freedom = group.long_run.of_mean(slots)
        # Fewer machines than in the reference average out less, and may be other ones.
        fewer = max(group.machines / self.machines, 1.0)
        variance = variance * fewer
        if self.machines < 0.98 * group.machines:
            variance = variance + group.between * (1.0 / self.machines - 1.0 / group.machines)
        own = variance + self.cycle[1]
        variance = own + self.whole
        center = group.centers
        if self.base is not None:
            measured = self.of_window(group.long_run, self.base.slots)
            center, variance = self.base.means, variance + measured * fewer
        # What never changed in the reference may yet be there once in as many rows.
        floor = (1.0 / math.sqrt(group.slots) / np.sqrt(slots)) ** 2
        error = np.sqrt(np.maximum(variance, np.where(group.long_run.variance > 0.0, 0.0, floor)))
        distance = np.where(self._flat(), 0.0, (self.means - center) / np.maximum(error, 1e-300))
        freedom = np.minimum(freedom, self._lightness(variance - self.whole, self.whole))
        return Departure(distance, freedom, error, own)

    @functools.cached_property
    def alone(self) -> Floats:
        """Distances (F,) of the locations from the reference's in standard errors of the window.

        Unlike ``departure``, without what the reference itself may be wrong by, which is the same
        in every window.
        """
        at = self.locations
        moved = (self.means - self.group.centers)[at]
        error = np.sqrt(np.maximum(self.departure.own[at], 1e-300))
        return np.where(self.moving, moved / error, 0.0)

    def _lightness(self, window: Floats, whole: Floats) -> Floats:
        """Degrees of freedom (N,) beyond which contrasts themselves have heavy tails.

        The mean of m independent values of excess kurtosis k has kurtosis k / m, as Student's t
        with 4 + 6 m / k degrees of freedom; and the variance of M such values of the reference is
        worth 2 M / (2 + k). Rows that follow each other are alike in location longest, so m and M
        are those of the location, and k is taken twice to be on the safe side.

        Args:
            window, whole: variance (N,) of the contrasts' means over the window and the reference.
        """
        group, kinds = self.group, len(contrasts.KINDS)
        columns = self.count * kinds
        shares = group.centers[columns:]
        missing = group.counts[:, MISSING] / group.rows
        spread = np.ones((self.count, kinds))
        spread[:, contrasts.MISSINGNESS] = missing * (1.0 - missing)
        spreads = np.append(spread, shares * (1.0 - shares))
        of_columns = contrasts.kurtosis(group.counts, group.scores)
        curved = slice(contrasts.SPREAD, contrasts.TAILS + 1)
        of_columns[:, curved] = 2.0 * of_columns[:, curved].max(axis=1, keepdims=True)
        heavy = np.maximum(np.append(of_columns, contrasts.of_indicator(shares)), 1e-3)
        freedoms = []
        for variance in (window, whole):
            effective = spreads / np.maximum(variance, 1e-300)
            own = effective[:columns].reshape(self.count, kinds)
            own[:, curved] = np.minimum(own[:, curved], own[:, :1])
            freedoms.append(effective)
        freedom: Floats = np.minimum(
            4.0 + 6.0 * freedoms[0] / heavy, np.maximum(2.0 * freedoms[1] / (2.0 + heavy), 1.0)
        )
        # An indicator that never varied has a reference of its own: see ``departure``.
        return np.where(group.long_run.variance > 0.0, freedom, 4.0)

    def _flat(self) -> NDArray[np.bool_]:
        """Contrasts (N,) that say nothing because the column never moved in the reference."""
        flat = np.zeros(len(self.group.centers), np.bool_)
        columns = self.count * len(contrasts.KINDS)
        of_columns = (self.group.long_run.variance[:columns] <= 0.0).reshape(self.count, -1)
        of_columns[:, contrasts.MISSINGNESS] = False
        flat[:columns] = of_columns.ravel()
        return flat

    @functools.cached_property
    def effective_rows(self) -> Floats:
        """Independent rows (F,) that the window is worth, by the error of the normal scores."""
        at = self.locations
        variance = np.maximum(self.departure.error[at] ** 2 - self.whole[at], 1e-12)
        known = self.known * self.window.rows
        return np.clip(1.0 / variance, 1.0, np.maximum(known, 1.0))

    @functools.cached_property
    def effective_reference(self) -> Floats:
        """Independent rows (F,) that the reference is worth."""
        whole = self.whole[self.locations]
        return np.clip(1.0 / np.maximum(whole, 1e-12), 1.0, float(self.group.rows))

    def worth(self, shares: Floats, at: NDArray[np.int64]) -> Floats:
        """Independent rows (k,) that the window is worth to usual shares (k,), contrasts ``at``."""
        variance = np.maximum(self.departure.error[at] ** 2 - self.whole[at], 1e-12)
        rows = np.where(shares > 0.0, shares * (1.0 - shares) / variance, np.inf)
        return np.clip(rows, 1.0, float(self.window.rows))
