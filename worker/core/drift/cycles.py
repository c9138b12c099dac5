"""Cycles: what is usual at an hour of the day, and at an hour of the week.

Owns the profiles of a group's contrasts. Hours are those of event time in UTC. A profile is kept
only where it comes back: at least four whole cycles, and hours that differ from each other by more
than chance (analysis of variance with repeated measures; its degrees of freedom by Geisser and
Greenhouse, 1958, since neighbouring hours are alike). It is shrunk by how sure it is (James and
Stein, 1961).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

HOUR_US = 3_600_000_000
DAY_HOURS, WEEK_HOURS = 24, 168
FEWEST_CYCLES = 4
CHANCE = 1e-3
"""Of a profile that is none."""
STEPS = 8
"""Times within a window, at least one an hour, over which a profile is averaged."""


@dataclass(frozen=True)
class Profile:
    """What N contrasts add to their mean at each of H hours of a cycle; H is 0 without one.

    Attributes:
        level: (N, H) 0 for those without a cycle.
        variance: (N,) of the level's own error.
        cycles: how many it was learned from.
    """

    level: Floats
    variance: Floats
    cycles: int

    @classmethod
    def learn(
        cls,
        series: Floats,
        times_us: NDArray[np.int64],
        hours: int,
        without: NDArray[np.bool_] | None = None,
    ) -> Profile:
        """Learn from means (T, N) of slots that begin at times (T,); see :func:`learn_profiles`."""
        count = series.shape[1]
        nothing = cls(np.zeros((count, 0)), np.zeros(count), 0)
        hour = times_us // HOUR_US
        # Whole cycles only, which may begin at any hour.
        cycles = int((hour[-1] + 1 - hour[0]) // hours)
        if cycles < FEWEST_CYCLES:
            return nothing
        at = hour - hour[0]
        inside = at < cycles * hours
        sizes = np.bincount(at[inside], minlength=cycles * hours).reshape(cycles, hours)
        full = (sizes > 0).all(axis=1)
        if full.sum() < FEWEST_CYCLES:
            return nothing
        level, variance = np.zeros((count, hours)), np.zeros(count)
        for i in range(count) if without is None else np.flatnonzero(~without).tolist():
            sums = np.bincount(at[inside], series[inside, i], minlength=cycles * hours)
            found, variance[i] = _profile(
                (sums.reshape(cycles, hours) / np.maximum(sizes, 1))[full]
            )
            level[i] = np.roll(found, int(hour[0] % hours))
        if not level.any():
            return nothing
        return cls(level, variance, int(full.sum()))

    def at(self, times_us: NDArray[np.int64]) -> Floats:
        """Levels (n, N) at some times, between the middles of hours by a straight line."""
        hours = self.level.shape[1]
        if not hours:
            return np.zeros((len(times_us), len(self.level)))
        place = (times_us / HOUR_US - 0.5) % hours
        left = np.floor(place).astype(np.int64) % hours
        share = (place - np.floor(place))[:, None]
        before, after = self.level.T[left], self.level.T[(left + 1) % hours]
        levels: Floats = before * (1.0 - share) + after * share
        return levels

    def over(self, start_us: int, end_us: int) -> Floats:
        """Mean level (N,) over a window."""
        steps = max(STEPS, -(-2 * (end_us - start_us) // HOUR_US))
        middles = (np.arange(steps) + 0.5) / steps
        times_us = start_us + (middles * (end_us - start_us)).astype(np.int64)
        mean: Floats = self.at(times_us).mean(axis=0)
        return mean

    def to_array(self) -> Floats:
        """All of it (N, H + 2) as one array."""
        cycles = np.full(len(self.variance), float(self.cycles))
        return np.concatenate([self.level, self.variance[:, None], cycles[:, None]], axis=1)

    @classmethod
    def from_array(cls, array: Floats) -> Profile:
        """Inverse of :meth:`to_array`."""
        return cls(array[:, :-2], array[:, -2], int(array[0, -1]))


def learn_profiles(
    series: Floats, times_us: NDArray[np.int64], without: NDArray[np.bool_] | None = None
) -> tuple[Profile, Profile, Floats]:
    """Profiles by hour of the day, and of what is left by hour of the week.

    Args:
        series: (T, N) means of slots.
        times_us: (T,) when they begin, ascending.
        without: (N,) those that have no profile, whatever they do; default: none.

    Returns:
        Both, and the series without them: as wide as what comes next will be.
    """
    profiles = []
    for hours in (DAY_HOURS, WEEK_HOURS):
        profile = Profile.learn(series, times_us, hours, without)
        level = profile.at(times_us)
        # The mean of the reference stays what it is.
        offset = level.mean(axis=0)
        profile = Profile(profile.level - offset[:, None], profile.variance, profile.cycles)
        cyclic = profile.level.any(axis=1)
        # A profile fits the cycles that it was learned from better than those to come.
        wider = np.sqrt(profile.cycles / (profile.cycles - 1.0)) if profile.cycles else 1.0
        mean = series.mean(axis=0)
        rest = (series - mean - (level - offset)) * np.where(cyclic, wider, 1.0) + mean
        series = np.where(cyclic, rest, series)
        profiles.append(profile)
    return profiles[0], profiles[1], series


def _profile(means: Floats) -> tuple[Floats, float]:
    """Level (H,) of cycles' hourly means (C, H), and its variance; zeros where it is chance."""
    cycles, hours = means.shape
    nothing = np.zeros(hours), 0.0
    level = means.mean(axis=0) - means.mean()
    rest = means - means.mean(axis=1, keepdims=True) - level
    chance = float((rest**2).sum()) / ((cycles - 1) * (hours - 1))
    between = cycles * float((level**2).sum()) / (hours - 1)
    if between <= 1e-18:
        return nothing
    # Few distinct directions in which cycles differ are few degrees of freedom.
    spread = np.linalg.eigvalsh(rest @ rest.T).clip(0.0)
    squares = float((spread**2).sum())
    alike = float(spread.sum()) ** 2 / squares / (hours - 1) if squares > 0.0 else 1.0
    freedom = max(alike, 1.0 / (hours - 1)) * (hours - 1)
    ratio = between / max(chance, 1e-18)
    if float(special.fdtrc(freedom, freedom * (cycles - 1), ratio)) > CHANCE:
        return nothing
    return level * (1.0 - 1.0 / ratio), chance / cycles
