"""From what the processor applied to what the publisher writes: only what is committed.

Lives on the processor's thread, where it copies the last event of each machine and, when the
publisher has rested, hands some of them over with their rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from worker.core.channels import ChannelSpec
from worker.core.latest import Latest, LatestEvents
from worker.core.messages import format_time_us
from worker.core.outgoing import Outputs
from worker.core.state import PartitionState
from worker.online.machine import OnlineMachine, machines_of
from worker.online.metrics import OnlineMetrics
from worker.online.publisher import Batch, OnlinePublisher
from worker.online.store import OnlineWriter

BATCH = 1_024
"""Machines handed over at once, so that the processor is soon free again."""


class OnlineFeed:
    """The processor's witness; see :class:`worker.transport.processor.Witness`.

    Args:
        spec: of the bundle that scores.
        model_version: ``name/version`` of it.
        writer: the store; released at the end.
        interval_s: the shortest time between two writings.
    """

    def __init__(
        self,
        spec: ChannelSpec,
        model_version: str,
        writer: OnlineWriter,
        metrics: OnlineMetrics,
        interval_s: float,
    ) -> None:
        self._spec = spec
        self._metrics = metrics
        describe = partial(_describe, spec, model_version)
        self._publisher = OnlinePublisher(writer, describe, metrics, interval_s)
        # Whoever was served first goes last the next time.
        self._partitions: dict[int, LatestEvents] = {}

    def applied(self, partition: int, outputs: Outputs) -> None:
        """Note the last event of each machine."""
        latest = self._partitions.get(partition)
        if latest is None:
            latest = self._partitions[partition] = LatestEvents(self._spec)
        for scored in outputs.scored_events:
            latest.note(scored)

    def settled(self, states: Mapping[int, PartitionState]) -> None:
        """Hand machines over, if the publisher is ready for them."""
        if not self._publisher.is_ready:
            return
        for batch in self._publisher.take_failed():
            batch.source.give_back(batch.latest.positions)
        room = BATCH
        batches = []
        for partition in list(self._partitions):
            if not room:
                break
            source = self._partitions.pop(partition)
            self._partitions[partition] = source
            latest = source.take(states[partition], room)
            if latest.machine_ids:
                batches.append(Batch(source, latest))
                room -= len(latest.machine_ids)
        self._metrics.on_waiting(sum(map(len, self._partitions.values())))
        if batches:
            self._publisher.offer(batches)

    def given_back(self, partitions: Iterable[int]) -> None:
        """What waits is for the partitions' next owner to write, who knows better."""
        for partition in partitions:
            self._partitions.pop(partition, None)

    def close(self) -> None:
        """End the publisher."""
        self._publisher.stop()


def _describe(
    spec: ChannelSpec, model_version: str, latest: Latest, now_s: float
) -> list[OnlineMachine]:
    return machines_of(spec, model_version, latest, format_time_us(int(now_s * 1e6)))
