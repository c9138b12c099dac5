"""What the last windows of each length looked like: how a change began, and how it goes on.

Owns a short memory of each contrast's distance from the reference, in standard errors, and the
estimate of when a change began.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from worker.core.drift import contrasts, streams
from worker.core.drift.outputs import WindowReport
from worker.core.drift.reference import Reference
from worker.core.drift.streams import Past

WINDOWS = 64
Floats = NDArray[np.float64]


class _Kept(msgspec.Struct, array_like=True):
    """Ends and distances of the windows of one length, oldest first."""

    ends_us: list[int]
    distances: list[bytes]
    alone: list[bytes]


class _Packed(msgspec.Struct, array_like=True):
    """All of it; ``since_us``: what ended before says nothing of a change from now on."""

    kept: dict[int, _Kept]
    since_us: int


class History:
    """The last 64 windows of each length."""

    def __init__(self) -> None:
        self._kept: dict[int, _Kept] = {}
        self._since_us = 0

    def begin_anew(self, at_us: int) -> None:
        """Let tests over several windows begin anew: what is usual has changed, or is back."""
        self._since_us = max(self._since_us, at_us)

    def add(self, report: WindowReport, standard: Floats, alone: Floats) -> None:
        """Remember a window by its distances (N,), and by those in its own standard errors (F,)."""
        kept = self._kept.setdefault(report.window_us, _Kept([], [], []))
        kept.ends_us.append(report.end_us)
        kept.distances.append(standard.astype("<f4").tobytes())
        kept.alone.append(alone.astype("<f4").tobytes())
        del kept.ends_us[:-WINDOWS], kept.distances[:-WINDOWS], kept.alone[:-WINDOWS]

    def past(self, window_us: int, start_us: int) -> Past | None:
        """The windows of a length before the one that starts then; None without any."""
        kept = self._kept.get(window_us)
        if kept is None:
            return None
        ends_us = np.array(kept.ends_us, np.int64)
        fresh = np.flatnonzero(ends_us - window_us >= self._since_us)[-(WINDOWS - 1) :]
        if not len(fresh):
            return None
        series = np.stack([np.frombuffer(kept.alone[k], "<f4") for k in fresh]).astype(np.float64)
        starts_us = np.append(ends_us[fresh] - window_us, start_us)
        follows = np.append(False, starts_us[1:] == ends_us[fresh])
        return Past(series, follows)

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

        Maximises the likelihood of a mean of zero before, and after it any mean or one that
        grows steadily, over the windows of the shortest length that reach back far enough
        (Hinkley, Biometrika 1970; Biometrika 1971 for the bent line).

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
            return int(ends_us[_likeliest(z)]) - window_us
        return first_us

    def to_bytes(self) -> bytes:
        """Pack; inverse of :meth:`from_bytes`."""
        return msgspec.msgpack.encode(_Packed(self._kept, self._since_us))

    @classmethod
    def from_bytes(cls, data: bytes) -> History:
        """Unpack what :meth:`to_bytes` gave; raises ``msgspec.DecodeError``."""
        history = cls()
        packed = msgspec.msgpack.decode(data, type=_Packed)
        history._kept, history._since_us = packed.kept, packed.since_us
        return history


def _likeliest(z: Floats) -> int:
    """Where in (k,) distances a level or a steady growth begins."""
    gains = np.empty((2, len(z)))
    for at in range(len(z)):
        after = z[at:]
        growth = np.arange(len(after)) + 0.5
        gains[:, at] = after.sum() ** 2 / len(after), (after @ growth) ** 2 / (growth @ growth)
    return int(np.argmax(gains.max(axis=0)))


def first_contrast(reference: Reference, report: WindowReport) -> int:
    """Position of the contrast that drifted most; without columns, the first one's location.

    If the location of its column drifted, it is that: it grows with a change, others jump.
    """
    kinds = len(contrasts.KINDS)
    for one in report.features:
        voted = [t for t in one.tests if t.voted and t.name in (*contrasts.KINDS, *streams.NAMES)]
        if one.drifted and voted:
            best = min(voted, key=lambda t: (t.name != "location", t.p_value or 0.0))
            at = reference.columns.index(one.feature) * kinds
            # Tests over several windows are of the location.
            of_window = best.name in contrasts.KINDS
            return at + (contrasts.KINDS.index(best.name) if of_window else contrasts.LOCATION)
    return 0
