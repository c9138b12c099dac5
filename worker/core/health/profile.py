"""What training showed to be usual of each machine's sensors.

A sensor can only be called faulty against what is ordinary for it: a thermostat repeats
its reading for hours, a counter for a weekend, an accelerometer never. So everything is learned per
machine and channel, generously, and where training says nothing nothing is called faulty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from worker.core.health.kernel import UNKNOWN

NEVER = 0
"""A limit that nothing reaches."""

FEW_VALUES = 8
"""With no more distinct values than this a channel is a state (on, off, a gear), which may stay."""
FEWEST_READINGS = 50
"""With fewer readings of a channel training says nothing about its usual range."""
ENOUGH_READINGS = 1000
"""With fewer the machine's own limits are not narrower than the fleet's."""
RARE_SHARE = 0.01
"""Runs that make up no more than this share of the rows may be faults in the training data."""
OFTEN = 3
"""What happened as often as this, and each ten days, is no accident."""
RUNS, OFTEN_RUNS = 3.0, 1.5
"""How much longer than usual a run has to be; repeats of probability p make that p^(3 U)."""
STUCK_READINGS, MISSING_READINGS = 8, 5
"""Runs are never faulty before they are that much longer than usual, in readings."""
CORE = 0.001
"""Share of the readings at either end that may be glitches in the training data."""
CORE_SPANS = 10.0
STEPS, LEAST_SPANS, MOST_SPANS = 50.0, 1.0, 20.0
"""How many of the largest steps in training a reading has to jump to be implausible, at least and
at most so many times the whole range."""
INTERVALS, GAPS = 20, 1.5
"""A machine is silent for more intervals than that, and longer gaps than those that are usual."""
SHARE_OF_TRAINING = 0.2
"""A limit that training is not several times as long as is not known well enough to be used."""
LONGEST_RUN = 60_000
FLEET_QUANTILE = 0.9
US_PER_DAY = 86_400_000_000

LOW, HIGH, STEP, STUCK, MISSING, STUCK_ANYWHERE, READINGS = range(7)
"""Columns of what is found in each channel of each machine."""
FOUND = 7


@dataclass(frozen=True)
class HealthProfile:
    """Limits of K machines and, in row 0, of all others.

    Attributes:
        machine_ids: K ids; machine k has row k + 1.
        ranges: (K + 1, C, 3) low, high: the range of the training, without rare glitches;
            reach: what is further than this outside of it, and from the reading before, is
            implausible; infinite: nothing is.
        limits: (K + 1, C, 2) so many repeats, and so many events without the channel, in a row
            are not usual; NEVER: any number is.
        usual_us: (K + 1, 2) usual time between two events, 0: not known; and so long without
            an event is not usual, NEVER: any time is.
    """

    machine_ids: tuple[str, ...]
    ranges: NDArray[np.float32]
    limits: NDArray[np.uint16]
    usual_us: NDArray[np.int64]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The fields as arrays, which :meth:`from_arrays` reads back."""
        return {name: np.asarray(value) for name, value in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> HealthProfile:
        """Make a profile of what :meth:`to_arrays` gave; other arrays are ignored."""
        fields = {name: arrays[name] for name in cls.__dataclass_fields__ if name != "machine_ids"}
        return cls(tuple(arrays["machine_ids"].tolist()), **fields)

    @classmethod
    def unknown(cls, channels: int) -> HealthProfile:
        """A profile of no training: nothing is called faulty but what is impossible."""
        nothing = np.empty((0, channels))
        return learn_profile((), np.zeros(1, np.int64), np.empty(0, np.int64), nothing)


def learn_profile(
    machine_ids: Sequence[str],
    starts: NDArray[np.int64],
    times_us: NDArray[np.int64],
    values: NDArray[np.float64],
) -> HealthProfile:
    """Learn what is usual from the readings of K machines, machine after machine.

    Args:
        machine_ids: K ids.
        starts: (K + 1,) machine k has the rows from ``starts[k]`` to ``starts[k + 1]``.
        times_us: (n,) event times, ascending within a machine.
        values: (n, C) readings, NaN where missing.
    """
    machines, channels = len(machine_ids), values.shape[1]
    found = np.zeros((machines + 1, channels, FOUND))
    usual_us = np.zeros((machines + 1, 2), np.int64)
    for k, (start, end) in enumerate(pairwise(starts), start=1):
        usual_us[k] = _pace(times_us[start:end])
        for c in range(channels):
            _learn(np.ascontiguousarray(values[start:end, c]), found[k, c])
    _add_fleet(found, usual_us)
    low, high, step = (found[:, :, column] for column in (LOW, HIGH, STEP))
    span = np.maximum(high - low, 0.0)
    reach = np.clip(STEPS * step, LEAST_SPANS * span, MOST_SPANS * span)
    reach = np.where(step > 0, reach, np.inf)
    runs = np.stack([found[:, :, STUCK], found[:, :, MISSING]], axis=-1)
    return HealthProfile(
        machine_ids=tuple(machine_ids),
        ranges=np.stack([low, high, reach], axis=-1).astype(np.float32),
        limits=np.where(runs <= LONGEST_RUN, runs, NEVER).astype(np.uint16),
        usual_us=usual_us,
    )


def _pace(times_us: NDArray[np.int64]) -> tuple[int, int]:
    """Usual interval and the longest time without an event that is still usual."""
    gaps_us = np.diff(times_us)
    if not len(gaps_us) or not gaps_us.any():
        return 0, NEVER
    span_us = int(times_us[-1] - times_us[0])
    interval_us = int(np.median(gaps_us)) or span_us // len(gaps_us)
    often = max(OFTEN, -(-span_us // (10 * US_PER_DAY)))
    longest_us = int(np.sort(gaps_us)[-min(often, len(gaps_us))])
    return interval_us, max(INTERVALS * interval_us, int(GAPS * longest_us))


def _add_fleet(found: NDArray[np.float64], usual_us: NDArray[np.int64]) -> None:
    """Fill row 0 from the others, and widen what machines with few readings learned."""
    own, fleet = found[1:], found[UNKNOWN]
    fleet[:] = [np.inf, -np.inf, 0.0, np.inf, np.inf, np.inf, 0.0]
    if not len(own):
        return
    few = own[:, :, READINGS] < ENOUGH_READINGS
    # Where a machine rests is known of those in training only, so others may rest anywhere.
    own[few, STUCK] = own[few, STUCK_ANYWHERE]
    fleet[:, LOW] = own[:, :, LOW].min(axis=0)
    fleet[:, HIGH] = own[:, :, HIGH].max(axis=0)
    fleet[:, STEP] = own[:, :, STEP].max(axis=0)
    for column, source in ((STUCK, STUCK_ANYWHERE), (MISSING, MISSING)):
        fleet[:, column] = np.quantile(own[:, :, source], FLEET_QUANTILE, axis=0, method="higher")
    for column in (LOW, HIGH, STEP, STUCK, MISSING):
        wider = np.minimum if column == LOW else np.maximum
        own[:, :, column] = np.where(
            few, wider(own[:, :, column], fleet[:, column]), own[:, :, column]
        )
    known = usual_us[1:][usual_us[1:, 0] > 0]
    if len(known):
        usual_us[UNKNOWN] = np.median(known[:, 0]), known[:, 1].max()
        usual_us[1:][usual_us[1:, 0] == 0] = usual_us[UNKNOWN]


@njit("i8(b1[::1], i8[::1])", cache=True, nogil=True)
def _runs(marked, runs):  # type: ignore[no-untyped-def]
    """Write the lengths of the stretches that are marked (n,), and return how many."""
    count = run = 0
    for i in range(marked.shape[0]):
        if marked[i]:
            run += 1
        elif run:
            runs[count] = run
            count += 1
            run = 0
    if run:
        runs[count] = run
        count += 1
    return count


@njit("f8(b1[::1])", cache=True, nogil=True)
def _limit(marked):  # type: ignore[no-untyped-def]
    """What stretches of marked rows (n,) would have to be longer than to be unusual."""
    rows = marked.shape[0]
    runs = np.empty(rows, np.int64)
    count = _runs(marked, runs)
    ordered = np.sort(runs[:count])
    usual = 0
    rest = 0
    for r in range(count - 1, -1, -1):
        rest += ordered[r]
        if rest > RARE_SHARE * rows:
            usual = ordered[r]
            break
    often = ordered[count - OFTEN] if count >= OFTEN else 0
    return max(RUNS * usual, OFTEN_RUNS * often)


@njit("void(f8[::1], f8[::1])", cache=True, nogil=True)
def _learn(values, found):  # type: ignore[no-untyped-def]
    """Find the limits of one channel of one machine from its readings (n,)."""
    present = values[~np.isnan(values)]
    m = present.shape[0]
    found[:] = np.inf
    found[HIGH], found[STEP], found[READINGS] = -np.inf, 0.0, m
    if m < FEWEST_READINGS:
        return
    found[MISSING] = MISSING_READINGS + _limit(np.isnan(values))
    ordered = np.sort(present)
    skip = int(CORE * m)
    low, high = ordered[skip], ordered[m - 1 - skip]
    margin = CORE_SPANS * (high - low) if high > low else np.inf
    sound = present[(present >= low - margin) & (present <= high + margin)]
    found[LOW], found[HIGH] = sound.min(), sound.max()
    if 1 + (ordered[1:] != ordered[:-1]).sum() <= FEW_VALUES:
        return
    found[STEP] = np.abs(sound[1:] - sound[:-1]).max()
    repeats = present[1:] == present[:-1]
    at_rest = (present[1:] == found[LOW]) | (present[1:] == found[HIGH])
    longest = max(SHARE_OF_TRAINING * m, 2.0 * STUCK_READINGS)
    for column, runs in ((STUCK, repeats & ~at_rest), (STUCK_ANYWHERE, repeats)):
        limit = STUCK_READINGS + _limit(runs)
        found[column] = limit if limit <= longest else np.inf
    # An end that was reached now and then is where readings end, and so is zero; else the range
    # does not end there.
    if found[LOW] != 0.0 and (present == found[LOW]).sum() < OFTEN:
        found[LOW] = np.nextafter(np.float32(found[LOW]), np.float32(-np.inf))
    if found[HIGH] != 0.0 and (present == found[HIGH]).sum() < OFTEN:
        found[HIGH] = np.nextafter(np.float32(found[HIGH]), np.float32(np.inf))
