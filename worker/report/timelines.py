"""What each machine did, thinned out to what a screen can show.

Owns the choice of machines and channels, and of buckets of time: of each bucket the smallest
and the largest value stay, so that no spike is lost, however many readings it had. Half
of a machine's buckets lie around its episodes, where people look closest.

A part of the data is added at a time, so memory is what the buckets need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from worker.report.readings import Part

CELLS = 3_000_000
"""Values that all timelines together may have; each takes about a byte in the page."""
MOST_BUCKETS = 2_500
FEWEST_BUCKETS = 250
MOST_CHANNELS = 24
MOST_MACHINES = 200
FOCUS_SHARE = 0.5
"""Share of a machine's buckets around its episodes, if it has any."""
MARGIN = 1.0
"""How far around an episode is looked at more closely, in lengths of the episode."""
LEAST_MARGIN_US = 1_800 * 1_000_000

Floats = NDArray[np.float64]
Stretch = tuple[int, int]
"""Begin and end, epoch microseconds."""


@dataclass(frozen=True)
class Wanted:
    """A machine to be shown.

    Attributes:
        start_us, end_us: of its readings, both included.
        focus: what is looked at more closely.
        channels: positions of its channels, the most telling first.
    """

    machine_id: str
    start_us: int
    end_us: int
    focus: tuple[Stretch, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True)
class Timeline:
    """A machine's n buckets that have readings, in the order of time.

    Attributes:
        times_us: (n,) the middle of a bucket's readings.
        lows, highs: (n, S) of the answers and then of the channels; NaN where there is none.
        gaps: (n, S) where a line has to be interrupted.
    """

    times_us: NDArray[np.int64]
    lows: Floats
    highs: Floats
    gaps: NDArray[np.bool_]


def buckets_for(machines: int, series: int) -> int:
    """How many buckets each of so many machines can have."""
    room = CELLS // max(machines * series * 2, 1)
    return max(FEWEST_BUCKETS, min(room, MOST_BUCKETS))


def machines_for(series: int) -> int:
    """How many machines of so many series can be shown."""
    return max(1, min(CELLS // (FEWEST_BUCKETS * series * 2), MOST_MACHINES))


class Timelines:
    """Gathers the timelines of K machines.

    Args:
        series: of each machine: S answers and channels.
    """

    def __init__(self, wanted: Sequence[Wanted], series: int, buckets: int) -> None:
        self._wanted = wanted
        self._edges = [edges_us(one, buckets) for one in wanted]
        shape = (len(wanted), buckets)
        self._lows = np.full((*shape, series), np.nan)
        self._highs = np.full((*shape, series), np.nan)
        self._first_us = np.full(shape, np.iinfo(np.int64).max)
        self._last_us = np.full(shape, np.iinfo(np.int64).min)
        self._counts = np.zeros(shape, np.int64)
        self._ids = pl.DataFrame(
            {"machine_id": [one.machine_id for one in wanted], "k": range(len(wanted))},
            schema={"machine_id": pl.String, "k": pl.Int64},
        )

    def add(self, part: Part) -> None:
        """Add a part of the data."""
        found = part.machine_ids.to_frame("machine_id").join(
            self._ids, on="machine_id", how="left", maintain_order="left"
        )
        machines = found["k"].fill_null(-1).to_numpy()
        order = np.argsort(machines, kind="stable")
        bounds = np.searchsorted(machines[order], np.arange(len(self._wanted) + 1))
        for k in np.flatnonzero(np.diff(bounds)).tolist():
            self._add(k, part, order[bounds[k] : bounds[k + 1]])

    def _add(self, k: int, part: Part, at: NDArray[np.int64]) -> None:
        """Add the readings of one machine."""
        times_us = part.times_us[at]
        own = np.searchsorted(self._edges[k], times_us, "right") - 1
        by_bucket = np.argsort(own, kind="stable")
        at, own, times_us = at[by_bucket], own[by_bucket], times_us[by_bucket]
        buckets, begins, counts = np.unique(own, return_index=True, return_counts=True)
        values = np.hstack([part.answers[at], part.values[at][:, self._wanted[k].channels]])
        for kept, of, fold in (
            (self._lows, values, np.fmin),
            (self._highs, values, np.fmax),
            (self._first_us, times_us, np.minimum),
            (self._last_us, times_us, np.maximum),
        ):
            kept[k, buckets] = fold(kept[k, buckets], fold.reduceat(of, begins, axis=0))
        self._counts[k, buckets] += counts

    def timeline(self, k: int) -> Timeline:
        """The timeline of a machine."""
        some = np.flatnonzero(self._counts[k])
        first_us, last_us = self._first_us[k, some], self._last_us[k, some]
        lows, highs = self._lows[k, some], self._highs[k, some]
        times_us = first_us + (last_us - first_us) // 2
        widths_us = np.diff(self._edges[k])[some]
        several = self._counts[k, some] > 1
        inside_us = (last_us - first_us)[several] / (self._counts[k, some][several] - 1)
        between_us = inside_us if several.any() else np.diff(times_us)
        usual_us = float(np.median(between_us)) if len(between_us) else 0.0
        gaps = np.zeros(lows.shape, np.bool_)
        for s in range(lows.shape[1]):
            _mark_gaps(gaps[:, s], ~np.isnan(lows[:, s]), times_us, widths_us, usual_us)
        # Where nothing at all came for long, a row of its own interrupts every line.
        silent = np.flatnonzero(
            first_us[1:] - last_us[:-1] > _bridged_us(widths_us[:-1], widths_us[1:], usual_us)
        )
        middle_us = (last_us[silent] + first_us[silent + 1]) // 2
        return Timeline(
            times_us=np.insert(times_us, silent + 1, middle_us),
            lows=np.insert(lows, silent + 1, np.nan, axis=0),
            highs=np.insert(highs, silent + 1, np.nan, axis=0),
            gaps=np.insert(gaps, silent + 1, True, axis=0),
        )


def edges_us(wanted: Wanted, buckets: int) -> NDArray[np.int64]:
    """Edges (buckets + 1,) of a machine's buckets, closer together where it is looked at."""
    start, end = wanted.start_us, wanted.end_us + 1
    cuts = [start, end]
    for begin, close in wanted.focus:
        margin = max(int(MARGIN * (close - begin)), LEAST_MARGIN_US)
        cuts += [min(max(begin - margin, start), end), min(max(close + margin, start), end)]
    places = np.unique(cuts)
    inside = np.zeros(len(places) - 1, np.bool_)
    for first, last in zip(cuts[2::2], cuts[3::2], strict=True):
        inside |= (places[:-1] >= first) & (places[1:] <= last)
    lengths = np.diff(places).astype(np.float64)
    focused = lengths[inside].sum()
    share = max(FOCUS_SHARE, focused / lengths.sum()) if focused else 0.0
    weights = np.where(inside, share / max(focused, 1.0), 0.0)
    weights[~inside] = (1.0 - share) / max(lengths[~inside].sum(), 1.0)
    # Rounding must not leave a stretch without any weight.
    done = np.concatenate([[0.0], np.cumsum(np.maximum(weights * lengths, 1e-12))])
    edges = np.interp(np.linspace(0.0, done[-1], buckets + 1), done, places - start)
    found: NDArray[np.int64] = np.rint(edges).astype(np.int64) + start
    found[0], found[-1] = start, end
    return found


def _bridged_us(
    before_us: NDArray[np.int64], after_us: NDArray[np.int64], usual_us: float
) -> Floats:
    """Up to which distance two neighbours (n,) are joined by a line, by the buckets' widths."""
    return np.asarray(2.0 * (before_us + after_us) + 5.0 * usual_us, np.float64)


def _mark_gaps(
    gaps: NDArray[np.bool_],
    known: NDArray[np.bool_],
    times_us: NDArray[np.int64],
    widths_us: NDArray[np.int64],
    usual_us: float,
) -> None:
    """Mark what is missing in one series (n,) for much longer than it usually is."""
    at = np.flatnonzero(known)
    if not len(at):
        gaps[:] = True
        return
    apart_us = np.diff(times_us[at])
    own_us = max(usual_us, float(np.median(apart_us))) if len(apart_us) else usual_us
    far = apart_us > _bridged_us(widths_us[at[:-1]], widths_us[at[1:]], own_us)
    for before, after in zip(at[:-1][far], at[1:][far], strict=True):
        gaps[before + 1 : after] = True
