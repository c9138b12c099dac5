"""What Faust sees of the polling thread: deliveries for agents, and the assignment."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NoReturn

from faust.transport.consumer import Consumer as FaustConsumer
from faust.types import TP, ConsumerMessage
from mode import Service

from worker.transport.delivery import Delivery
from worker.transport.poller import Poller
from worker.transport.takeover import not_taken_over

if TYPE_CHECKING:
    from worker.transport.processor import Processor

log = logging.getLogger(__name__)


class Consumer(FaustConsumer):  # type: ignore[misc]
    """Faust's consumer service around a :class:`Poller`.

    Faust's acknowledgements, read offsets and seeks are not used: which records are
    applied is the state's own knowledge, and only the processor commits.
    """

    logger = logging.getLogger(f"faust.{__name__}")
    consumer_stopped_errors = ()
    _poller: Poller | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._processor: Processor = self.transport.processor
        self._ready = asyncio.Event()
        self._changed = asyncio.Event()
        self._changes_done = False

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Join the group and start polling; Faust calls this once the agents run."""
        (topic,) = topics
        self._main_loop = asyncio.get_running_loop()
        self._poller = self.transport.make_poller(topic, self)
        self._processor.join(self._poller)
        self._topic = topic
        self._poller.start()

    @property
    def poller(self) -> Poller:
        """The polling thread; there is none before :meth:`subscribe`."""
        assert self._poller is not None  # who asks was told of an assignment
        return self._poller

    def lag(self) -> dict[int, int]:
        """Records not fetched yet, by partition."""
        return self._poller.lag() if self._poller else {}

    def ready(self) -> bool:
        """Whether every owned partition is restored and being read."""
        return (
            self._changes_done
            and self._poller is not None
            and not not_taken_over(self._poller, self._processor)
        )

    # -- called on the polling thread ------------------------------------------------

    def on_ready(self) -> None:
        """Wake the delivery loop."""
        self._call_soon(self._ready.set)

    def on_assignment_changed(self) -> None:
        """Wake the assignment follower."""
        self._processor.journal.note(f"owns partitions {sorted(self.poller.assignments)}")
        self._call_soon(self._changed.set)

    def on_revoking(self, partitions: list[int]) -> Future[None]:
        """Commit what was applied before the partitions go."""
        self._processor.journal.note(f"asked to give back partitions {partitions}")
        return self._processor.give_back(partitions)

    def on_lost(self, partitions: list[int]) -> None:
        """Crash: the open transaction holds events that others have begun to process."""
        self._processor.journal.note(f"lost partitions {partitions}")
        # At once, before this member can be given anything in a new generation.
        self.on_failed(self._processor.lose(partitions))

    def on_deleted_unread(self, partition: int, offsets: int) -> None:
        """Count what retention took."""
        self.transport.listener.on_deleted_unread(partition, offsets)

    def on_failed(self, error: BaseException) -> None:
        """Crash the app with the error."""
        self._processor.journal.note(f"the polling thread ends the worker: {error}")
        self._call_soon(lambda: asyncio.ensure_future(self.crash(error)))

    def _call_soon(self, call: Callable[[], Any]) -> None:
        # The loop is closed when the app was stopped without waiting for this thread.
        if not self._main_loop.is_closed():
            self._main_loop.call_soon_threadsafe(call)

    # -- tasks and hooks on the event loop ---------------------------------------------

    @Service.task  # type: ignore[untyped-decorator]
    async def _follow_assignment(self) -> None:
        """Tell Faust about each change of the assignment, one after the other."""
        while not self.should_stop:
            if await self.wait_for_stopped(self._changed):
                return
            self._changed.clear()
            self._changes_done = False
            self.app.on_rebalance_start()
            # Faust takes the end of its fetcher for a crash while this is set; here the
            # other partitions flow on during a rebalance, and stopping is just stopping.
            self.app.rebalancing = False
            await self.on_partitions_assigned(self.assignment())
            self._changes_done = not self._changed.is_set()

    async def _drain_messages(self, fetcher: Any) -> None:
        """Hand deliveries to the agents until the fetcher is told to stop."""
        callback: Callable[[ConsumerMessage], Awaitable[None]] = self.callback
        while not (self.should_stop or fetcher.should_stop):
            delivery = self._poller.take() if self._poller else None
            if delivery is not None:
                await callback(self._message(delivery))
            elif await fetcher.wait_for_stopped(self._ready):
                return
            else:
                self._ready.clear()

    async def commit(self, *_args: Any, **_kwargs: Any) -> bool:
        """Commit through the processor; Faust's commit timer and stop procedure call this."""
        try:
            await asyncio.wrap_future(self._processor.commit())
        except Exception as error:  # noqa: BLE001 (whatever it is, it ends the worker)
            await self.crash(error)
            return False
        return True

    async def on_stop(self) -> None:
        """Finish the chunk in hand, commit, leave the group."""
        if not self.app.crashed:
            await self.commit()
        if self._poller is not None:
            await self.loop.run_in_executor(None, self._poller.leave)
        await self.loop.run_in_executor(None, self._processor.close)

    def assignment(self) -> set[TP]:
        """The owned partitions in Faust's terms."""
        owned = self._poller.assignments if self._poller else {}
        return {TP(self._topic, partition) for partition in owned}

    def _message(self, delivery: Delivery) -> ConsumerMessage:
        # Always of the same generation: Faust would skip those that wait for an agent when
        # the assignment changes, also of partitions that stay. A delivery has its own epoch.
        chunk = delivery.chunk
        tp = TP(chunk.topic, chunk.partition)
        return ConsumerMessage(
            topic=chunk.topic,
            partition=chunk.partition,
            offset=delivery.end - 1,
            timestamp=int(chunk.timestamps_ms[-1]) / 1000,
            timestamp_type=1,
            headers=[],
            key=None,
            value=delivery,
            checksum=None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )

    def ack(self, message: Any) -> bool:
        """Faust's bookkeeping of processed messages is not needed."""
        message.acked = True
        return True

    def track_message(self, message: Any) -> None:
        """Faust's bookkeeping of messages in hand is not needed."""

    def close(self) -> None:
        """Nothing to do: :meth:`on_stop` has left the group."""

    def topic_partitions(self, topic: str) -> int | None:
        """Not known here; checked before start."""
        return None

    def _unused(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise NotImplementedError("positions belong to the polling thread and to the state")

    _commit = _getmany = _to_message = _new_topicpartition = _unused
    _seek = seek_wait = seek_to_committed = position = highwater = _unused
    earliest_offsets = highwaters = key_partition = create_topic = _unused
