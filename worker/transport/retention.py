"""Records that retention deletes before they are read: noticed, told, counted."""

from __future__ import annotations

import logging
from collections.abc import Callable

from worker.core.errors import TopicError

log = logging.getLogger(__name__)


def first_readable(
    topic: str,
    partition: int,
    position: int,
    ends: tuple[int, int],
    on_deleted: Callable[[int, int], None],
) -> int:
    """Where reading goes on, when it should go on at ``position``.

    Args:
        position: next offset to read; negative when nothing was ever read.
        ends: first and next offset of the partition.
        on_deleted: told of the partition and the number of offsets that are gone.

    Raises:
        TopicError: the partition has never been so long; it is another one by now.
    """
    earliest, end = ends
    if position > end:
        raise TopicError(
            f"topic {topic!r}: partition {partition} ends at {end}, but {position} was read "
            "before: it was deleted and created again; give the worker another worker.app_id."
        )
    if 0 <= position < earliest:
        log.error(
            "partition %d: offsets %d to %d were deleted by retention before they were read; "
            "raise retention.ms of topic %s",
            partition,
            position,
            earliest - 1,
            topic,
            extra={"topic": topic, "partition": partition, "offset": position},
        )
        on_deleted(partition, earliest - position)
    return max(position, earliest)
