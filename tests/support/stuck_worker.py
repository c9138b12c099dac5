"""A worker one part of which stands still: ``python -m tests.support.stuck_worker worker``.

``STUCK_PART`` names the part. Those that can be healthy before stop as soon as the file
``STUCK_WHEN`` exists.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker.cli.main import run
from worker.core.pipeline import Pipeline
from worker.transport import driver
from worker.transport.consumer import Consumer
from worker.transport.poller import Poller
from worker.transport.producer import Publisher

FOR_EVER_S = 3_600
WHEN = Path(os.environ["STUCK_WHEN"])


def sleep(*_args: Any) -> None:
    """Block this thread."""
    time.sleep(FOR_EVER_S)


def sleep_with_the_interpreter_lock(*_args: Any) -> None:
    """Block every Python thread, as an endless loop in compiled code does."""
    ctypes.PyDLL(None).sleep(FOR_EVER_S)


def end_thread(*_args: Any) -> None:
    """End this thread without a word."""
    sys.exit()


def before(owner: Any, name: str, act: Callable[..., Any]) -> None:
    """Let ``act`` run before each call, once the file is there."""
    original = getattr(owner, name)

    def patched(*args: Any, **kwargs: Any) -> Any:
        if WHEN.exists():
            act(*args)
        return original(*args, **kwargs)

    setattr(owner, name, patched)


async def never_deliver(_consumer: Consumer, _fetcher: Any) -> None:
    """The task that hands deliveries to the agent, without doing so."""
    await asyncio.sleep(FOR_EVER_S)


def never_resume(poller: Poller, partition: int, _epoch: int) -> None:
    """Count a partition as flowing that stays paused in the client."""
    poller._open.add(partition)


PARTS: dict[str, Callable[[], None]] = {
    "step": lambda: before(Pipeline, "step", sleep),
    "interpreter": lambda: before(Pipeline, "step", sleep_with_the_interpreter_lock),
    "commit": lambda: before(Publisher, "commit", sleep),
    "poll": lambda: before(Poller, "_poll", sleep),
    "poll-ended": lambda: before(Poller, "_poll", end_thread),
    "event-loop": lambda: before(Consumer, "_message", sleep),
    "restore": lambda: setattr(driver, "restore", sleep),
    "hand-over": lambda: setattr(Consumer, "_drain_messages", never_deliver),
    "fetching": lambda: setattr(Poller, "_open_now", never_resume),
    "nothing": lambda: None,
}


if __name__ == "__main__":
    PARTS[os.environ["STUCK_PART"]]()
    sys.exit(run(sys.argv[1:]))
