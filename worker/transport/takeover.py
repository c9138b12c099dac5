"""From an assigned partition to one that flows: restore its state, own it, open it.

Runs beside everything else: chunks of other partitions are applied meanwhile, and the
group may take a partition away again at any moment. So the epoch of its assignment goes
along, and each step looks whether it still holds.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from worker.core.state import PartitionState
from worker.transport.poller import Assignment, Poller
from worker.transport.processor import Processor

RunInThread = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Calls a function that waits for something, without holding up who asks."""


Restore = Callable[[dict[int, PartitionState], Callable[[int], bool]], int]
"""Fills fresh states from the changelog; see :func:`worker.transport.restore.restore`."""


@dataclass(frozen=True)
class Restored:
    """What one take-over read; ``partitions`` in ascending order."""

    partitions: list[int]
    rows: int
    machines: int
    duration_s: float


def not_taken_over(poller: Poller, processor: Processor) -> dict[int, Assignment]:
    """Assigned partitions whose state the processor does not have yet."""
    return {
        partition: assignment
        for partition, assignment in poller.assignments.items()
        if (owned := processor.owned.get(partition)) is None or owned.epoch != assignment.epoch
    }


async def take_over(
    poller: Poller,
    processor: Processor,
    new_state: Callable[[int], PartitionState],
    restore: Restore,
    run_in_thread: RunInThread,
) -> Restored | None:
    """Restore what was assigned since the last time, and let it flow.

    Args:
        new_state: makes the empty state of a partition whose committed offset is given.

    Returns:
        None when there was nothing to do.

    Raises:
        StateError, BrokerError: restoring failed; the process cannot go on.
    """
    missing = not_taken_over(poller, processor)
    if not missing:
        return None
    started_s = time.perf_counter()
    states = {partition: new_state(assignment.offset) for partition, assignment in missing.items()}
    rows = await run_in_thread(
        lambda: restore(states, lambda partition: poller.owns(partition, missing[partition].epoch))
    )
    duration_s = time.perf_counter() - started_s
    for partition, assignment in missing.items():
        taken = processor.take_over(
            partition,
            states[partition],
            assignment.epoch,
            lambda p=partition, e=assignment.epoch: poller.owns(p, e),  # type: ignore[misc]
        )
        if await run_in_thread(taken.result):
            poller.open(partition, assignment.epoch)
    machines = sum(len(state) for state in states.values())
    return Restored(sorted(missing), rows, machines, duration_s)
