"""What training learned of every machine, as packed arrays.

Row 0 of every array is the fleet prior: what a machine never seen starts from. Rows 1 to K
are the machines of the training, in the order of :attr:`Baselines.machine_ids`. D signals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.core.errors import BundleError

PRIOR = 0
"""The row of the fleet prior."""
UNWATCHED = -1.0
"""In place of the scale of a signal of which nothing is expected."""

# Kernels are compiled with the constants below, and not anew when one changes: who changes
# one has to remove the __pycache__ folders.

# Columns of `signals`, one value a signal.
MEAN, PRECISION, MEMORY, PRIOR_ROWS, SCALE_ROWS, SHAPE_WEIGHT, SD = range(7)
"""``MEAN`` of the clipped normalised values; ``PRECISION``, the root of the conditional
precision; ``MEMORY``, over how many rows the signal remembers itself; ``PRIOR_ROWS`` and
``SCALE_ROWS``, how many rows location and scale weigh when a machine learns its own;
``SHAPE_WEIGHT``, what a signal's normalised value times its residual counts as; from ``SD``
on the standard deviation of each stream."""
STREAMS = 5
NORMALISED, RESIDUAL, SLOW_SHORT, SLOW, SLOW_NORMALISED = range(STREAMS)
SIGNAL_COLUMNS = SD + STREAMS
SEASON_BINS = 48
"""Half hours of the day (UTC)."""

MACHINE_COLUMNS = 4
INTERVAL_US, ROWS, WINDOW, CLUSTER_ROWS = range(MACHINE_COLUMNS)
"""Columns of `machines`: median sampling interval, rows in training, the long scale w in
rows, and how many extreme rows come in one episode."""

FAMILIES = 6
PEAK, SHAPE, SHORT, LONG, MARGINAL, FOREST = range(FAMILIES)
"""Statistics over all signals, each with a calibration of its own; see ``decision``."""
STATE = FAMILIES
"""The calibration of all families together."""
KNOTS = (0.5, 0.2, 0.1, 0.05, 0.02)
"""Tail probabilities of the quantiles that a calibration keeps."""
CALIBRATION_COLUMNS = len(KNOTS) + 1
"""The quantiles, then the scale of the exponential tail above the last."""
KNOWN = (PEAK, SHAPE, SHORT, LONG, MARGINAL)
"""Families of which the surprise score remembers how extreme they have been."""
BINS = 20

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Baselines:
    """Baselines of K machines and the fleet prior.

    Attributes:
        machine_ids: (K,) text.
        location, scale: (K+1, D) in the signal's unit; a scale of 0: it never moved;
            see ``UNWATCHED``.
        signals: (K+1, SIGNAL_COLUMNS, D) see ``MEAN`` and following.
        neighbours: (D, N) the signals that each signal is expected from; -1: none.
        weights: (K+1, D, N) by how much each of them moves the residual.
        season: (K+1, D, SEASON_BINS) usual (x - location) / scale by the time of day; all 0
            for a signal that has no such habit.
        machines: (K+1, MACHINE_COLUMNS) see ``INTERVAL_US`` and following.
        tails: (K+1, D, CALIBRATION_COLUMNS) calibrations of each signal's normalised value.
        calibration: (K+1, FAMILIES + 1, CALIBRATION_COLUMNS) of the families, and of all.
        known: (K+1, len(KNOWN), BINS) rows of training by how extreme they were.
    """

    machine_ids: NDArray[np.str_]
    location: Floats
    scale: Floats
    signals: NDArray[np.float32]
    neighbours: NDArray[np.int32]
    weights: NDArray[np.float32]
    season: NDArray[np.float32]
    machines: Floats
    tails: NDArray[np.float32]
    calibration: NDArray[np.float32]
    known: NDArray[np.float32]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by name, for ``numpy.savez``; inverse of :meth:`from_arrays`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Baselines:
        """Take arrays as :meth:`to_arrays` gave them.

        Raises:
            BundleError: an array is missing, or has another type or shape than it must.
        """
        try:
            found = {field.name: np.ascontiguousarray(arrays[field.name]) for field in fields(cls)}
        except KeyError as error:
            raise BundleError(
                f"baselines: array {error} is missing; train the bundle anew."
            ) from error
        baselines = cls(**found)
        rows, signals = baselines.location.shape
        near = baselines.neighbours.shape[1]
        for name, dtype, shape in (
            ("machine_ids", None, (rows - 1,)),
            ("location", "f8", (rows, signals)),
            ("scale", "f8", (rows, signals)),
            ("signals", "f4", (rows, SIGNAL_COLUMNS, signals)),
            ("neighbours", "i4", (signals, near)),
            ("weights", "f4", (rows, signals, near)),
            ("season", "f4", (rows, signals, SEASON_BINS)),
            ("machines", "f8", (rows, MACHINE_COLUMNS)),
            ("tails", "f4", (rows, signals, CALIBRATION_COLUMNS)),
            ("calibration", "f4", (rows, FAMILIES + 1, CALIBRATION_COLUMNS)),
            ("known", "f4", (rows, len(KNOWN), BINS)),
        ):
            array = found[name]
            if array.shape != shape or (dtype is not None and array.dtype != np.dtype(dtype)):
                raise BundleError(
                    f"baselines: array {name!r} is {array.dtype} {array.shape}, not {shape}; "
                    "train the bundle anew."
                )
        return baselines

    def __len__(self) -> int:
        """Number of machines, without the prior."""
        return len(self.machine_ids)

    @property
    def signals_count(self) -> int:
        """Number of signals D."""
        return int(self.location.shape[1])
