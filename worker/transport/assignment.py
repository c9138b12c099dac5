"""What passes between the polling thread and those who work with it: words, no behaviour."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Assignment:
    """One period of owning a partition, and the committed offset it starts from."""

    epoch: int
    offset: int


@dataclass(frozen=True)
class Sight:
    """What the watchdog sees of the thread.

    Attributes:
        turns: grows while the thread is alive and not blocked.
        drained: how often everything that had been fetched was taken from the client.
        positions: where reading is, transaction markers included, by partition that flows.
    """

    turns: int
    drained: int
    buffered_events: int
    positions: dict[int, int]


class PollerListener(Protocol):
    """What the polling thread tells its owner; all calls come on that thread."""

    def on_ready(self) -> None:
        """Deliveries can be taken."""

    def on_assignment_changed(self) -> None:
        """``Poller.assignments`` has other partitions than before."""

    def on_revoking(self, partitions: list[int]) -> Future[None]:
        """The partitions go to another member as soon as the future is done."""

    def on_lost(self, partitions: list[int]) -> None:
        """The partitions already belong to another member."""

    def on_deleted_unread(self, partition: int, offsets: int) -> None:
        """Retention was faster than this worker; that many offsets are skipped."""

    def on_failed(self, error: BaseException) -> None:
        """The thread has ended."""
