"""What an online store can do, for the worker that writes it and the services that read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from worker.online.machine import OnlineMachine


class OnlineWriter(Protocol):
    """Called on the publisher's thread."""

    def write(self, machines: Sequence[OnlineMachine]) -> None:
        """Replace the documents of these machines.

        Raises:
            OnlineStoreError: some or all of them may not have been written.
        """

    def release(self) -> None:
        """Give up connections; may be called more than once."""


class OnlineReader(Protocol):
    """Called on one event loop."""

    async def get(self, machine_ids: Sequence[str]) -> list[OnlineMachine | None]:
        """Machines in the order asked for; None: not known, or not written for too long.

        Raises:
            OnlineStoreError: the store did not answer in time, or not with documents.
        """

    async def changed(self, since_ms: int) -> list[str]:
        """Ids of the machines written since then (epoch milliseconds), latest last.

        Raises:
            OnlineStoreError: as for :meth:`get`.
        """

    async def close(self) -> None:
        """Give up connections; may be called more than once."""
