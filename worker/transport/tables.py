"""The Faust table that holds machine state, and the manager that restores it.

Faust's own recovery reads the changelog through the main consumer, swallows its
exceptions and stops every partition during every rebalance. This manager restores
only the partitions that are new, beside the running ones, and lets any failure
crash the app.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import faust
from faust.stores.base import Store
from faust.tables.manager import TableManager as FaustTableManager
from faust.types import TP

from worker.transport.restore import Follower, StateReader
from worker.transport.takeover import take_over

if TYPE_CHECKING:
    from worker.transport.driver import Transport
    from worker.transport.processor import Processor
    from worker.transport.standby import Standbys

log = logging.getLogger(__name__)
service_log = logging.getLogger(f"faust.{__name__}")  # life-cycle messages of Faust services


def give_back_freed_memory() -> None:
    """Return what restoring has freed to the system; glibc would keep hundreds of megabytes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
    if trim is not None:
        trim(0)


class StateTable(faust.Table):  # type: ignore[misc]
    """A table of state's rows, such as ``table[b"machine|slot"]``, as the changelog holds them.

    Rows change only through the processor's step, never by assignment.

    Args:
        entries: what the state is of, such as machines.
    """

    logger = service_log

    def __init__(
        self,
        *args: Any,
        processor: Processor,
        new_reader: Callable[[int], StateReader],
        entries: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.processor = processor
        self.new_reader = new_reader
        self.entries = entries

    def _new_store(self) -> Store:
        return _RowStore("memory://", self.app, self, table_name=self.name)


class _RowStore(Store):  # type: ignore[misc]
    """The rows of all owned partitions as a read-only mapping."""

    logger = service_log

    def _rows(self) -> dict[bytes, bytes]:
        owned = self.table.processor.owned.values()
        return {key: row for partition in owned for key, row in partition.state.snapshot()}

    def __getitem__(self, key: bytes) -> bytes:
        return self._rows()[key]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._rows())

    def __len__(self) -> int:
        return len(self._rows())

    def __setitem__(self, key: bytes, value: bytes) -> NoReturn:
        raise TypeError("rows of state change only through the application's step")

    def __delitem__(self, key: bytes) -> NoReturn:
        raise TypeError("rows of state change only through the application's step")

    def apply_changelog_batch(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise TypeError("rows of state are restored by worker/transport/restore.py")

    def reset_state(self) -> None:
        """Nothing is kept outside the processor."""

    def _no_backup(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise TypeError("the changelog topic is the backup of state")

    backup_partition = restore_backup = _no_backup


class TableManager(FaustTableManager):  # type: ignore[misc]
    """Restores the partitions that are new to this process, then opens them."""

    logger = service_log

    def __init__(self, app: Any, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self._restored = asyncio.Event()
        self._standbys: Standbys | None = None

    def standby_lag(self) -> dict[int, int]:
        """Rows that each copy of another worker's partition has not read yet, by partition."""
        return self._standbys.lag() if self._standbys else {}

    async def on_start(self) -> None:
        """Register the tables; nothing waits for Faust's recovery service."""
        await self._update_channels()

    async def _update_channels(self) -> None:
        self._tables_finalized.set()
        for table in self.values():
            await table.maybe_start()
        self._tables_registered.set()

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        """Restore what is new, then let everything owned flow.

        Raises:
            StateError, BrokerError: restoring failed; Faust crashes the app with it.
        """
        transport: Transport = self.app.transport
        for table in self.values():
            await self._take_over(table, transport)
            self._look_after_copies(table, transport)
        if not self.app.flow_control.is_active():
            self.app.flow_control.resume()  # which also empties the agents' queues
        self.app.consumer.resume_flow()
        await self.app._fetcher.maybe_start()  # noqa: SLF001 (as Faust's own recovery does)
        self._restored.set()
        self.app.on_rebalance_end()

    async def _take_over(self, table: StateTable, transport: Transport) -> None:
        restored = await take_over(
            self.app.consumer.poller,
            table.processor,
            lambda partition: self._copy(partition) or Follower(table.new_reader(partition)),
            transport.restore,
            partial(self.loop.run_in_executor, None),
        )
        if restored is None:
            return
        await self.loop.run_in_executor(None, give_back_freed_memory)
        transport.listener.on_restored(restored.duration_s)
        done = (
            f"restored {restored.rows} rows of {restored.entries} {table.entries} in partitions "
            f"{restored.partitions} in {restored.duration_s:.2f} s"
        )
        table.processor.journal.note(done)
        log.info("%s", done)

    def _copy(self, partition: int) -> Follower | None:
        return self._standbys.take(partition) if self._standbys else None

    def _look_after_copies(self, table: StateTable, transport: Transport) -> None:
        if self._standbys is not None:
            self._standbys.look_again()
        elif not self._restored.is_set():
            self._standbys = transport.make_standbys(
                lambda partition: Follower(table.new_reader(partition)),
                lambda: self.app.consumer.poller.assignments,
            )
            if self._standbys is not None:
                self._standbys.start()

    async def wait_until_recovery_completed(self) -> bool:
        """Wait for the first assignment's state; True when stopped meanwhile."""
        return bool(await self.wait_for_stopped(self._restored))

    async def on_stop(self) -> None:
        """Stop delivering, then the copies and the tables."""
        await self.app._fetcher.stop()  # noqa: SLF001 (as Faust's own manager does)
        if self._standbys is not None:
            await self.loop.run_in_executor(None, self._standbys.stop)
        for table in self.values():
            await table.stop()
