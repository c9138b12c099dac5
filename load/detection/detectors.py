"""What a detector is, and those that DriftDetector is compared with.

The blind ones know nothing: a measure on which they do well says little. The simple ones are what
one would write in an afternoon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest

from load.detection.cases import (
    LONG_SCALE_ROWS,
    US_PER_DAY,
    Flags,
    Floats,
    Frame,
    median_interval_us,
    runs,
    signals,
)
from worker.core.channels import ChannelSpec

CLOSING_ROWS = LONG_SCALE_ROWS // 4
"""Episodes bridge so many readings that look normal."""


class Episode(NamedTuple):
    """One time that a detector called for attention; channels by contribution."""

    machine_id: str
    opened_us: int
    closed_us: int
    channels: tuple[str, ...]


class Condition(NamedTuple):
    """A sensor, or a machine that is silent, that was reported as unwell.

    Attributes:
        kind: as on ``sensor-health``.
        channel: None where it is the whole machine.
    """

    machine_id: str
    kind: str
    channel: str | None
    opened_us: int


class Detections(NamedTuple):
    """What a detector says about n readings.

    Attributes:
        anomaly_score: (n,) lower is worse; NaN where a reading was not scored.
        threshold: (n,) what the score had to fall below.
        is_anomaly: (n,) whether it did.
        top_channels: (n,) names by contribution; empty where not anomalous.
        episodes: in order of opening.
        health: empty for detectors that do not tell sensors from machines.
    """

    anomaly_score: Floats
    threshold: Floats
    is_anomaly: Flags
    top_channels: Sequence[Sequence[str]]
    episodes: Sequence[Episode]
    health: Sequence[Condition] = ()


class Detector(Protocol):
    """Learns once, then judges any readings of the same machines, at any budget."""

    def fit(self, spec: ChannelSpec, train: Frame, seed: int) -> None:
        """Learn from readings, without labels."""
        ...

    def detect(self, test: Frame, budget: float) -> Detections:
        """Judge readings in order; ``budget`` is false episodes per machine and day."""
        ...


class FlagAll:
    """Everything is abnormal."""

    def fit(self, spec: ChannelSpec, train: Frame, seed: int) -> None:
        """Nothing to learn."""

    def detect(self, test: Frame, budget: float) -> Detections:
        """See :class:`Detector`."""
        return _decide(test, np.zeros(len(test.times_us)), 0.5, None, ())


class FlagNone:
    """Nothing is abnormal."""

    def fit(self, spec: ChannelSpec, train: Frame, seed: int) -> None:
        """Nothing to learn."""

    def detect(self, test: Frame, budget: float) -> Detections:
        """See :class:`Detector`."""
        return _decide(test, np.zeros(len(test.times_us)), -0.5, None, ())


class Guess:
    """Readings are abnormal by chance, as often as the budget allows."""

    def fit(self, spec: ChannelSpec, train: Frame, seed: int) -> None:
        """Learns how many readings a day has."""
        self._rng = np.random.default_rng(seed)
        self._interval_us = median_interval_us(train)
        self._names = tuple(channel.name for channel in spec.continuous)

    def detect(self, test: Frame, budget: float) -> Detections:
        """See :class:`Detector`."""
        n = len(test.times_us)
        contributions = self._rng.random((n, len(self._names)))
        share = _share(budget, self._interval_us)
        return _decide(test, self._rng.random(n), share, contributions, self._names)


class RollingZ:
    """Distance from the median of the last sixty readings, in robust standard deviations.

    The threshold is what noise that is normal and independent would cross as often as the
    budget allows. A missing reading counts as the median of training.
    """

    def fit(self, spec: ChannelSpec, train: Frame, seed: int) -> None:
        """Keeps the last readings of each machine, and a floor under the deviation."""
        self._interval_us = median_interval_us(train)
        self._names = tuple(channel.name for channel in spec.continuous)
        self._middle = np.nan_to_num(np.nanmedian(train.values, axis=0))
        self._floor = 0.05 * np.nan_to_num(np.nanstd(train.values, axis=0)) + 1e-9
        self._past = {
            machine: train.values[rows[-LONG_SCALE_ROWS:]]
            for machine, rows in train.by_machine().items()
        }

    def detect(self, test: Frame, budget: float) -> Detections:
        """See :class:`Detector`."""
        channels = len(self._names)
        z = np.zeros((len(test.times_us), channels))
        for machine, rows in test.by_machine().items():
            past = self._past.get(machine, np.empty((0, channels)))
            padding = np.full((LONG_SCALE_ROWS - len(past), channels), np.nan)
            course = np.concatenate([padding, past, test.values[rows]])
            z[rows] = self._deviation(np.where(np.isnan(course), self._middle, course))
        share = _share(budget, self._interval_us) / channels
        limit = -NormalDist().inv_cdf(max(share / 2.0, 1e-300))
        return _decide(test, -z.max(axis=1), -limit, z, self._names)

    def _deviation(self, course: Floats) -> Floats:
        """(60 + n, C) -> (n, C)."""
        before = sliding_window_view(course, LONG_SCALE_ROWS, axis=0)[:-1]
        middle = np.median(before, axis=-1)
        mad = np.median(np.abs(before - middle[..., None]), axis=-1)
        spread = np.maximum(1.4826 * mad, self._floor)
        z: Floats = np.abs(course[LONG_SCALE_ROWS:] - middle) / spread
        return z


class Forest:
    """scikit-learn's isolation forest on readings and what is derived from them.

    The threshold is the training score that the budget allows to be crossed.
    """

    def fit(self, spec: ChannelSpec, train: Frame, seed: int) -> None:
        """See :class:`Detector`."""
        self._spec = spec
        features = signals(spec, train.values)
        self._middle = np.nan_to_num(np.nanmedian(features, axis=0))
        self._interval_us = median_interval_us(train)
        self._forest = IsolationForest(n_estimators=100, random_state=seed)
        self._forest.fit(self._fill(features))
        self._scores = np.sort(self._forest.score_samples(self._fill(features)))

    def detect(self, test: Frame, budget: float) -> Detections:
        """See :class:`Detector`."""
        scores = self._forest.score_samples(self._fill(signals(self._spec, test.values)))
        share = min(_share(budget, self._interval_us), 1.0)
        return _decide(test, scores, float(np.quantile(self._scores, share)), None, ())

    def _fill(self, features: Floats) -> Floats:
        return np.where(np.isnan(features), self._middle, features)


SIMPLE: dict[str, Callable[[], Detector]] = {
    "flag all": FlagAll,
    "flag none": FlagNone,
    "random": Guess,
    "rolling z-score": RollingZ,
    "isolation forest": Forest,
}


def rank_channels(
    contributions: Floats, names: Sequence[str], rows: NDArray[np.intp]
) -> dict[int, tuple[str, ...]]:
    """Names by contribution (n, C), for some rows."""
    order = np.argsort(-contributions[rows], axis=1, kind="stable")
    return {
        int(row): tuple(names[c] for c in line)
        for row, line in zip(rows, order.tolist(), strict=True)
    }


def _decide(
    test: Frame,
    scores: Floats,
    threshold: float,
    contributions: Floats | None,
    names: Sequence[str],
) -> Detections:
    abnormal = scores < threshold
    tops: list[tuple[str, ...]] = [()] * len(scores)
    if contributions is not None:
        for row, top in rank_channels(contributions, names, np.flatnonzero(abnormal)).items():
            tops[row] = top
    episodes = []
    for machine, rows in test.by_machine().items():
        for first, last in runs(bridged(abnormal[rows], CLOSING_ROWS)):
            opened, closed = rows[first], rows[last]
            span = int(test.times_us[opened]), int(test.times_us[closed])
            episodes.append(Episode(machine, *span, tops[opened]))
    episodes.sort(key=lambda episode: (episode.opened_us, episode.machine_id))
    limits = np.full(len(scores), threshold)
    return Detections(scores, limits, abnormal, tops, episodes)


def bridged(flags: Flags, gap: int) -> Flags:
    """Fill runs of at most ``gap`` false values between true ones."""
    filled = flags.copy()
    for first, last in runs(~flags):
        if first > 0 and last < len(flags) - 1 and last - first < gap:
            filled[first : last + 1] = True
    return filled


def _share(budget: float, interval_us: int) -> float:
    return budget * interval_us / US_PER_DAY
