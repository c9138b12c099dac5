"""What the last windows of each length looked like: how a change began, and how it goes on.

Owns a short memory of each contrast's distance from the reference, in standard errors, and the
estimate of when a change began.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from worker.core.drift import contrasts
from worker.core.drift.outputs import WindowReport
from worker.core.drift.reference import Reference

WINDOWS = 64
Floats = NDArray[np.float64]


class _Kept(msgspec.Struct, array_like=True):
    """Ends and distances of the windows of one length, oldest first."""

    ends_us: list[int]
    distances: list[bytes]


class History:
    """The last 64 windows of each length."""

    def __init__(self) -> None:
        self._kept: dict[int, _Kept] = {}

    def add(self, report: WindowReport, standard: Floats) -> None:
        """Remember a window by its distances (N,)."""
        kept = self._kept.setdefault(report.window_us, _Kept([], []))
        kept.ends_us.append(report.end_us)
        kept.distances.append(standard.astype("<f4").tobytes())
        del kept.ends_us[:-WINDOWS], kept.distances[:-WINDOWS]

    def series(self, window_us: int) -> tuple[NDArray[np.int64], Floats]:
        """Ends (k,) and distances (k, N) of the windows of a length."""
        kept = self._kept.get(window_us)
        if kept is None or not kept.ends_us:
            return np.empty(0, np.int64), np.empty((0, 0))
        rows = np.stack([np.frombuffer(d, "<f4") for d in kept.distances])
        return np.array(kept.ends_us), rows.astype(np.float64)

    def of_first(
        self, reference: Reference, report: WindowReport, window_us: int
    ) -> tuple[NDArray[np.int64], Floats]:
        """Ends (k,) and distances (k,) of the contrast that drifted most."""
        ends_us, rows = self.series(window_us)
        if not len(ends_us):
            return ends_us, np.empty(0)
        return ends_us, rows[:, first_contrast(reference, report)]

    def began_us(
        self, reference: Reference, report: WindowReport, first_us: int, not_before_us: int
    ) -> int:
        """Since when: where the run of the contrast that drifted most is likeliest to begin.

        Maximises the likelihood of a mean of zero before and any mean after, over the windows
        of the shortest length that reach back far enough (Hinkley, Biometrika 1970).

        Args:
            first_us: begin of the first window that showed the drift, the answer without others.
            not_before_us: when the last drift closed.
        """
        for window_us in sorted(self._kept):
            ends_us, z = self.of_first(reference, report, window_us)
            inside = (ends_us > not_before_us) & (ends_us <= report.end_us)
            ends_us, z = ends_us[inside], z[inside]
            if len(z) < 2 or ends_us[0] - window_us > first_us:
                continue
            after = np.cumsum(z[::-1])[::-1]
            gain = after**2 / np.arange(len(z), 0, -1)
            best = int(np.argmax(gain))
            return int(ends_us[best]) - window_us
        return first_us

    def to_bytes(self) -> bytes:
        """Pack; inverse of :meth:`from_bytes`."""
        return msgspec.msgpack.encode(self._kept)

    @classmethod
    def from_bytes(cls, data: bytes) -> History:
        """Unpack what :meth:`to_bytes` gave; raises ``msgspec.DecodeError``."""
        history = cls()
        history._kept = msgspec.msgpack.decode(data, type=dict[int, _Kept])
        return history


def first_contrast(reference: Reference, report: WindowReport) -> int:
    """Position of the contrast that drifted most; without columns, the first one's location."""
    kinds = len(contrasts.KINDS)
    for one in report.features:
        voted = [t for t in one.tests if t.voted and t.name in contrasts.KINDS]
        if one.drifted and voted:
            best = min(voted, key=lambda t: t.p_value if t.p_value is not None else 1.0)
            at = reference.columns.index(one.feature)
            return at * kinds + contrasts.KINDS.index(best.name)
    return 0
