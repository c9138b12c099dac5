"""From an assigned partition to one that flows: restore its state, own it, open it.

Runs beside everything else: chunks of other partitions are applied meanwhile, and the
group may take a partition away again at any moment. So the epoch of its assignment goes
along, and each step looks whether it still holds.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from worker.transport.assignment import Assignment
from worker.transport.poller import Poller
from worker.transport.processor import Processor
from worker.transport.restore import Follower

RunInThread = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Calls a function that waits for something, without holding up who asks."""


Restore = Callable[[Mapping[int, Follower], Callable[[int], bool]], int]
"""Lets followers read to the changelog's end; see :func:`worker.transport.restore.restore`."""


@dataclass(frozen=True)
class Restored:
    """What one take-over read; ``partitions`` in ascending order, ``entries``: see ``State``."""

    partitions: list[int]
    rows: int
    entries: int
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
    new_follower: Callable[[int], Follower],
    restore: Restore,
    run_in_thread: RunInThread,
) -> Restored | None:
    """Restore what was assigned since the last time, and let it flow.

    Args:
        new_follower: for a partition, what reads its state.

    Returns:
        None when there was nothing to do.

    Raises:
        StateError, BrokerError: restoring failed; the process cannot go on.
    """
    missing = not_taken_over(poller, processor)
    if not missing:
        return None
    started_s = time.perf_counter()
    followers = {partition: new_follower(partition) for partition in missing}
    rows = await run_in_thread(
        lambda: restore(followers, lambda p: poller.owns(p, missing[p].epoch))
    )
    entries = 0
    for partition, assignment in missing.items():
        still_owned = partial(poller.owns, partition, assignment.epoch)
        if not still_owned():
            continue
        finish = followers.pop(partition).reader.finish
        state = await run_in_thread(partial(finish, assignment.offset))
        entries += len(state)
        taken = processor.take_over(partition, state, assignment.epoch, still_owned)
        if await run_in_thread(taken.result):
            poller.open(partition, assignment.epoch)
    return Restored(sorted(missing), rows, entries, time.perf_counter() - started_s)
