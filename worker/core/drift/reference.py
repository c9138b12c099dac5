"""The reference: what was usual when the model was trained, frozen.

Owns what it holds, and its arrays; :mod:`worker.core.drift.learning` makes it, once and never from
what is watched later, so that slow drift cannot creep into it. For each group it holds the
distribution of every column, how far means of windows stray from it (:class:`LongRun`), the
correlations, and an embedding of whole rows.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.core.drift import contrasts
from worker.core.drift.calibration import LongRun
from worker.core.drift.cells import EDGES
from worker.core.drift.cycles import Profile
from worker.core.drift.partial import FLEET, Layout

Floats = NDArray[np.float64]

VERSION = 2
SCORE = "model_score"
"""Name of the last column."""


@dataclass(frozen=True)
class GroupReference:
    """What was usual of one group: F columns, N contrasts, P pairs, 2 D embedded numbers.

    Attributes:
        rows, machines, slots: how many; a slot is the time between two readings of a machine.
        interval_us: length of a slot.
        counts: (F, 65) rows in each cell.
        values: (F, 64) mean value in each cell, in the column's unit.
        mean, sd: (F,) of the values inside the reference's range.
        centers: (N,) mean of each contrast: five a column, the share of each category, and of
            anomalies.
        between: (N,) variance between the means of single machines.
        long_run: of the contrasts without their cycles.
        daily, weekly: what the contrasts add to ``centers`` by hour of the day, and of the week.
        pairs: (P, 2) columns; correlation: (P,) of their normal scores; pair_rows: (P,) variance
            of a row's influence on it; pair_run: of the influence.
        frequencies: (D, F) of the embedding; embedded: (2 D,) its mean; embedded_rows: (2 D,)
            variance of a row; embedded_run: long-run; embedded_alike: (2 D, 2 D) correlations.
        alike: (F, F) correlations of the columns' normal scores.
        sample: (k, F) uint8 cells of rows, evenly spread over time.
    """

    rows: int
    machines: int
    slots: int
    interval_us: int
    counts: NDArray[np.int64]
    values: Floats
    mean: Floats
    sd: Floats
    centers: Floats
    between: Floats
    long_run: LongRun
    daily: Profile
    weekly: Profile
    pairs: NDArray[np.int64]
    correlation: Floats
    pair_rows: Floats
    pair_run: LongRun
    frequencies: Floats
    embedded: Floats
    embedded_rows: Floats
    embedded_run: LongRun
    embedded_alike: Floats
    alike: Floats
    sample: NDArray[np.uint8]

    def cycle(self, start_us: int, end_us: int) -> tuple[Floats, Floats]:
        """What the contrasts (N,) add to their mean over a window by its time, and the variance."""
        parts = (self.daily, self.weekly)
        level = sum((part.over(start_us, end_us) for part in parts), np.zeros(len(self.centers)))
        variance = sum((part.variance for part in parts), np.zeros(len(self.centers)))
        return level, variance

    @functools.cached_property
    def scores(self) -> Floats:
        """Scores (F, 65, 5) of the cells; see :mod:`worker.core.drift.contrasts`."""
        return contrasts.score_cells(self.counts)


@dataclass(frozen=True)
class Reference:
    """The frozen reference of a bundle.

    Attributes:
        columns, units: (F) names and units: the model's inputs, then the model's score.
        owners: (F) the channel that each column tells of, "" for the score.
        groups: name to what was usual of it; always has ``"fleet"``.
        stride_us: of a machine's rows the first in each slot of that length counts.
        hash: sha256 of all of its arrays, in hex.
    """

    columns: tuple[str, ...]
    units: tuple[str, ...]
    owners: tuple[str, ...]
    edges: NDArray[np.float32]
    center: Floats
    scale: Floats
    categories: tuple[tuple[str, tuple[str, ...]], ...]
    groups: Mapping[str, GroupReference]
    stride_us: int

    @functools.cached_property
    def hash(self) -> str:
        """The sha256 of everything in it."""
        digest = hashlib.sha256()
        for name, array in sorted(self.to_arrays().items()):
            digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @property
    def fingerprint(self) -> int:
        """The first 63 bits of the hash."""
        return int(self.hash[:16], 16) >> 1

    @functools.cached_property
    def layout(self) -> Layout:
        """How rows are counted for it."""
        return Layout(
            self.columns,
            self.edges,
            self.center,
            self.scale,
            self.categories,
            tuple(self.groups),
            self.fingerprint,
            self.stride_us,
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays, for a file; inverse of :meth:`from_arrays`."""
        head = {
            "version": VERSION,
            "columns": self.columns,
            "units": self.units,
            "owners": self.owners,
            "categories": self.categories,
            "groups": tuple(self.groups),
            "stride_us": self.stride_us,
        }
        arrays: dict[str, NDArray[Any]] = {
            "head": np.frombuffer(json.dumps(head).encode(), np.uint8),
            "edges": self.edges,
            "center": self.center,
            "scale": self.scale,
        }
        for g, group in enumerate(self.groups.values()):
            for field in fields(group):
                value = getattr(group, field.name)
                packed = isinstance(value, LongRun | Profile)
                array = value.to_array() if packed else np.asarray(value)
                arrays[f"{g}_{field.name}"] = array
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Reference:
        """Read what :meth:`to_arrays` gave.

        Raises:
            KeyError, ValueError, TypeError: they are something else.
        """
        head = json.loads(arrays["head"].tobytes())
        if head["version"] != VERSION:
            raise ValueError(f"version {head['version']} of the reference is not {VERSION}")
        groups = {}
        for g, name in enumerate(head["groups"]):
            values: dict[str, Any] = {}
            slots = int(arrays[f"{g}_slots"])
            for field in fields(GroupReference):
                array = arrays[f"{g}_{field.name}"]
                if field.type == "LongRun":
                    values[field.name] = LongRun.from_array(slots, array)
                elif field.type == "Profile":
                    values[field.name] = Profile.from_array(array)
                else:
                    values[field.name] = int(array) if field.type == "int" else array
            groups[name] = GroupReference(**values)
        reference = cls(
            tuple(head["columns"]),
            tuple(head["units"]),
            tuple(head["owners"]),
            arrays["edges"],
            arrays["center"],
            arrays["scale"],
            tuple((name, tuple(values)) for name, values in head["categories"]),
            groups,
            int(head["stride_us"]),
        )
        shape = (len(reference.columns), EDGES)
        if reference.edges.shape != shape or reference.edges.dtype != np.float32:
            raise ValueError("its edges do not fit its columns")
        if FLEET not in groups:
            raise ValueError("it has no fleet")
        return reference


def embed(normal: Floats, frequencies: Floats) -> Floats:
    """Random Fourier features (n, 2 D) of normal scores (n, F), by frequencies (D, F).

    Rahimi and Recht, "Random features for large-scale kernel machines", NIPS 2007.
    """
    angles = normal @ frequencies.T
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
