"""What to expect of machines that training did not have.

Some machines of the training are followed as if they had never been seen: they begin at the
fleet's baseline and learn their own place. How far their streams then go, and how extreme
the statistics over them are, includes what machines of one fleet differ in, which is
what a machine that comes later will differ in too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from worker.core.detection.baselines import PRIOR, SD, Baselines
from worker.training.crossfit import Baseline, Floats, Series, follow_alone

T = TypeVar("T")
Map = Callable[[Callable[[Any], Any], list[Any]], Iterable[Any]]


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most so many of the items, from all over them."""
    if len(items) <= most:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, most).astype(int)]


def expect_newcomers(
    baselines: Baselines, series: list[Series], pool_map: Map
) -> list[NDArray[np.float32]]:
    """Set the prior's standard deviations to those of machines that begin at it.

    Returns:
        Their streams (n, STREAMS, D) in these standard deviations.
    """
    signals = baselines.signals[PRIOR].copy()
    signals[SD:] = 1.0
    prior = Baseline(
        baselines.location[PRIOR],
        baselines.scale[PRIOR],
        signals,
        baselines.weights[PRIOR],
        baselines.season[PRIOR],
    )
    follow = partial(_follow, prior, baselines.neighbours, baselines.machines[PRIOR])
    found: list[NDArray[np.float32]] = list(pool_map(follow, series))
    variance = np.median([np.mean(one.astype(np.float64) ** 2, axis=0) for one in found], axis=0)
    deviations = np.sqrt(
        np.maximum(variance, baselines.signals[PRIOR, SD:].astype(np.float64) ** 2)
    )
    baselines.signals[PRIOR, SD:] = deviations
    return [one / baselines.signals[PRIOR, SD:] for one in found]


def _follow(
    prior: Baseline, neighbours: NDArray[np.int32], settings: Floats, series: Series
) -> NDArray[np.float32]:
    return follow_alone(series, prior, neighbours, settings, learned=0)
