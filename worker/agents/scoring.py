"""The scoring agent: sensor events in; anomalies, late events and dead letters out."""

from __future__ import annotations

import asyncio
from typing import Any

import faust

from worker.transport.delivery import Delivery
from worker.transport.processor import Processor


def add_scoring_agent(app: faust.App, topic: faust.TopicT, processor: Processor) -> None:
    """Let ``app`` score every chunk of ``topic``.

    An exception ends the worker: its state could be ahead of what was committed.
    """

    @app.agent(topic, name="scoring")  # type: ignore[untyped-decorator]
    async def score(deliveries: Any) -> None:
        delivery: Delivery
        async for delivery in deliveries:
            try:
                await asyncio.wrap_future(processor.apply(delivery))
            except Exception as error:
                await app.crash(error)
                raise
