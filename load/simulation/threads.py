"""What the worker's modules use of threads, queues and clocks, on the scheduler.

:func:`simulated_threads` puts these in the place of the standard library's names in the
modules of the transport (and in tenacity, which repeats calls): one list, below.
"""

from __future__ import annotations

import concurrent.futures
import queue
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Generic, TypeVar

import tenacity
import tenacity.nap

from load.simulation.scheduler import Signal, active
from worker.transport import group, poller, processor, producer, restore, takeover

T = TypeVar("T")


class Future(concurrent.futures.Future[T]):
    """A future whose result is waited for in virtual time."""

    def __init__(self) -> None:
        super().__init__()
        self._ready = Signal()
        self.add_done_callback(self._ready.set)

    def result(self, timeout: float | None = None) -> T:
        """The result; waiting ends with TimeoutError after ``timeout`` seconds."""
        if not active().wait_for(self.done, self._ready, timeout):
            raise TimeoutError
        return super().result(0)


class SimpleQueue(Generic[T]):
    """``queue.SimpleQueue``."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._filled = Signal()

    def put(self, item: T) -> None:
        """Add an item."""
        self._items.append(item)
        self._filled.notify()

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take the oldest item, or raise ``queue.Empty``."""
        if block:
            active().wait_for(lambda: bool(self._items), self._filled, timeout)
        if not self._items:
            raise queue.Empty
        return self._items.popleft()

    def get_nowait(self) -> T:
        """Take the oldest item, or raise ``queue.Empty``."""
        return self.get(block=False)

    def empty(self) -> bool:
        """Whether nothing is in it."""
        return not self._items


class Condition:
    """``threading.Condition``; its lock is free, for tasks hand over only where they wait."""

    def __init__(self) -> None:
        self._changed = Signal()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def notify_all(self) -> None:
        """Wake everybody who waits."""
        self._changed.notify()

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until ``predicate`` holds."""
        return active().wait_for(predicate, self._changed, timeout)


class Event:
    """``threading.Event``."""

    def __init__(self) -> None:
        self._signal = Signal()

    def set(self) -> None:
        """Set it."""
        self._signal.set()

    def clear(self) -> None:
        """Unset it."""
        self._signal.clear()

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._signal.is_set


class SingleThreadExecutor:
    """``ThreadPoolExecutor(1)``: a task of the process that made it."""

    def __init__(self, max_workers: int, thread_name_prefix: str) -> None:
        assert max_workers == 1
        self._jobs: deque[Callable[[], None]] = deque()
        self._changed = Signal()
        self._closing = False
        self._task = active().spawn(active().current.process, self._run)

    def submit(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """Queue a call."""
        if self._closing:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[T] = Future()

        def job() -> None:
            try:
                result = function(*args)
            except Exception as error:  # noqa: BLE001 (it belongs to whoever waits)
                future.set_exception(error)
            else:
                future.set_result(result)

        self._jobs.append(job)
        self._changed.notify()
        return future

    def shutdown(self, wait: bool) -> None:
        """Finish what is queued."""
        self._closing = True
        self._changed.notify()
        if wait:
            active().wait_for(lambda: self._task.done.is_set, self._task.done, None)

    def _run(self) -> None:
        while True:
            active().wait_for(lambda: bool(self._jobs) or self._closing, self._changed, None)
            if not self._jobs:
                return
            # A thread begins its next job when the system lets it.
            active().wait(None, 0.0)
            self._jobs.popleft()()


def _now_s() -> float:
    return active().now_s


def _sleep(seconds: float) -> None:
    active().wait(None, seconds)


_TIME = SimpleNamespace(monotonic=_now_s, perf_counter=_now_s, sleep=_sleep)
_PLACES: list[tuple[Any, str, Any]] = [
    (group, "time", _TIME),
    (poller, "time", _TIME),
    (poller, "threading", SimpleNamespace(Condition=Condition, Event=Event)),
    (poller, "SimpleQueue", SimpleQueue),
    (poller, "Future", Future),
    (processor, "time", _TIME),
    (processor, "ThreadPoolExecutor", SingleThreadExecutor),
    (producer, "time", _TIME),
    (restore, "time", _TIME),
    (takeover, "time", _TIME),
    (tenacity, "time", _TIME),
    (tenacity.nap, "time", _TIME),
]


@contextmanager
def simulated_threads() -> Iterator[None]:
    """Let the worker's modules run on the scheduler instead of on threads."""
    before = [getattr(module, name) for module, name, _ in _PLACES]
    for module, name, replacement in _PLACES:
        setattr(module, name, replacement)
    try:
        yield
    finally:
        for (module, name, _), original in zip(_PLACES, before, strict=True):
            setattr(module, name, original)
