"""Scoring, and beside it the gathering of what was scored, from which drift is judged.

Owns one :class:`~worker.core.drift.Collector` a partition, which holds no more than what was
applied since the last commit: each commit takes all of it. So it needs no place in the state.
What comes after a failure is never applied to it, as it is not applied to the state either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.core.channels import ChannelSpec
from worker.core.drift import Collector, Layout, watched_rows
from worker.core.drift.thinning import counts
from worker.core.events import Chunk
from worker.core.outgoing import Outputs, Record, Scored
from worker.core.pipeline import Pipeline
from worker.core.state import PartitionState

PANE_US = 60_000_000
"""Windows of drift are whole minutes."""


class WatchedPart(NamedTuple):
    """n rows as :meth:`worker.core.drift.Collector.add` takes them."""

    times_us: NDArray[np.int64]
    machines: NDArray[np.int64]
    machine_ids: Mapping[int, bytes]
    rows: NDArray[np.float32]
    anomalous: NDArray[np.bool_]
    categories: Mapping[str, Sequence[str | None]]


class Scoring:
    """A pipeline whose scored rows are gathered into drift partials.

    Args:
        layout: how the bundle's reference counts rows; None: the bundle has none, so nothing
            is gathered.
    """

    def __init__(self, pipeline: Pipeline, layout: Layout | None) -> None:
        self._pipeline = pipeline
        self._layout = layout
        self._collectors: dict[int, Collector] = {}

    def step(self, state: PartitionState, chunk: Chunk) -> Outputs:
        """Apply a chunk; see :meth:`worker.core.pipeline.Pipeline.step`."""
        outputs = self._pipeline.step(state, chunk)
        if self._layout is not None:
            collector = self._collectors.get(chunk.partition)
            if collector is None:
                collector = Collector(self._layout, chunk.partition, PANE_US)
                self._collectors[chunk.partition] = collector
            for scored in outputs.scored_events:
                part = watched_part(self._pipeline.spec, scored, self._layout.stride_us)
                if len(part.times_us):
                    collector.add(*part)
        return outputs

    def summarize(self, partition: int, next_offset: int) -> list[Record]:
        """The partials of all that was scored of a partition since the last call.

        Args:
            next_offset: numbers them; it grows from commit to commit, also over restarts.
        """
        collector = self._collectors.get(partition)
        if collector is None:
            return []
        return [
            Record("drift-partials", partial.group.encode(), partial.to_bytes(), gathered=True)
            for partial in collector.take(next_offset)
        ]


def watched_part(spec: ChannelSpec, scored: Scored, stride_us: int | None = None) -> WatchedPart:
    """Those of the events that tell something, as a collector takes them.

    Under planned maintenance a machine is not as usual; in its warm-up its model's inputs are
    not yet as in training; and of rows that follow closely only the first counts.

    Args:
        stride_us: of the reference; None: rows that follow closely count too.
    """
    scores, readings = scored.scores, scored.readings
    told = ~scored.maintained & (scores.experience >= 1.0)
    if stride_us is not None:
        told &= counts(readings.times_us, scored.previous_us, stride_us)
    at = np.flatnonzero(told)
    machines, rows = scored.machines[at], at.tolist()
    return WatchedPart(
        readings.times_us[at],
        machines,
        dict(zip(machines.tolist(), map(readings.machine_ids.__getitem__, rows), strict=True)),
        watched_rows(spec, scored.values[at], scores.inputs[at], scores.forest[at]),
        scores.anomaly_score[at] < scores.threshold[at],
        {
            channel.name: list(map(readings.categories[channel.name].__getitem__, rows))
            for channel in spec.categorical
        },
    )
