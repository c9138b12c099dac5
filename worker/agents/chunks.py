"""The agent of every process: chunks of its input in, one after the other, to the processor."""

from __future__ import annotations

import asyncio
from typing import Any

import faust

from worker.transport.delivery import Delivery
from worker.transport.processor import Processor


def add_agent(app: faust.App, topic: faust.TopicT, processor: Processor, name: str) -> None:
    """Let ``app`` apply every chunk of ``topic``.

    The next chunk is handed over while one is being applied, so the processor never waits for
    the event loop. An exception ends the process, for its state could be ahead of what was
    committed; after one, the processor does nothing more, so it cannot be missed: the next
    chunk or commit meets it.

    Once the app stops, nothing more is handed over: Faust then drops the chunks that wait for the
    agent, and one that comes after them would leave a gap. The next start reads them all.
    """

    @app.agent(topic, name=name)  # type: ignore[untyped-decorator]
    async def apply(deliveries: Any) -> None:
        delivery: Delivery
        in_hand: asyncio.Future[None] | None = None
        async for delivery in deliveries:
            if app.should_stop:
                continue
            applied = asyncio.wrap_future(processor.apply(delivery))
            try:
                if in_hand is not None:
                    # Faust cancels the agent when it stops. That must not take a chunk from the
                    # processor while the next one is there already, which would leave a gap too.
                    await asyncio.shield(in_hand)
            except Exception as error:
                await app.crash(error)
                raise
            in_hand = applied
