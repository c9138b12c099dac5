"""Virtual time and cooperative tasks: the only source of order in a simulation.

A task is a greenlet: ordinary code that hands over in the middle of a call, which a
generator or a coroutine could not do without changing the worker's code. Every
hand-over goes through the scheduler's queue, so the same seed gives the same order.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import greenlet


class Killed(greenlet.GreenletExit):
    """The process of the running task does not exist any more."""


class StuckError(Exception):
    """Nothing is left to happen, or too much has happened, before the end was reached."""


@dataclass
class Process:
    """What can be killed or stopped as one: a worker, or another client of the broker."""

    name: str
    breakable: bool = False
    alive: bool = True
    stopped: bool = False
    tasks: list[Task] = field(default_factory=list)
    held: list[tuple[Task, int]] = field(default_factory=list)


class Task:
    """One thread of a process."""

    def __init__(self, process: Process, function: Callable[[], object], hub: Any) -> None:
        self.process = process
        self.done = Signal()
        self.ticket = 0
        self._function = function
        self.greenlet = greenlet.greenlet(self._run, parent=hub)

    def _run(self) -> None:
        try:
            self._function()
        except Killed:
            pass
        finally:
            self.done.set()
            if self in self.process.tasks:
                self.process.tasks.remove(self)


class Signal:
    """Wakes the tasks that wait for something to change; they look for themselves what."""

    __slots__ = ("is_set", "waiting")

    def __init__(self) -> None:
        self.waiting: list[tuple[Task, int]] = []
        self.is_set = False

    def set(self, *_: object) -> None:
        """Wake everybody, and let nobody wait until it is cleared."""
        self.is_set = True
        self.notify()

    def clear(self) -> None:
        """Let those who come wait again."""
        self.is_set = False

    def notify(self) -> None:
        """Wake everybody who waits now."""
        waiting, self.waiting = self.waiting, []
        for task, ticket in waiting:
            active().wake(task, ticket)


class Scheduler:
    """Runs events in the order of their virtual time; those of one moment in order of arrival.

    Args:
        limit: number of events after which the simulation counts as hanging.
    """

    def __init__(self, limit: int) -> None:
        self.now_s = 0.0
        self.events = 0
        self._limit = limit
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._hub = greenlet.getcurrent()
        self._current: Task | None = None
        self._failure: BaseException | None = None

    @property
    def current(self) -> Task:
        """The running task."""
        assert self._current is not None  # asked for by code that runs in tasks only
        return self._current

    @property
    def in_task(self) -> bool:
        """Whether a task runs, and not the scheduler itself."""
        return self._current is not None

    def at(self, delay_s: float, call: Callable[..., None], *args: Any) -> None:
        """Call something in ``delay_s``; it may not wait."""
        self._count += 1
        heapq.heappush(self._queue, (self.now_s + delay_s, self._count, call, args))

    def spawn(self, process: Process, function: Callable[[], object]) -> Task:
        """Start a task."""
        task = Task(process, function, self._hub)
        process.tasks.append(task)
        self.at(0.0, self._resume, task, task.ticket)
        return task

    def wait(self, signal: Signal | None, timeout_s: float | None) -> None:
        """Let others go on until ``signal`` is given or the time is over."""
        task = self.current
        if not task.process.alive:
            raise Killed
        if signal is not None:
            if signal.is_set:
                timeout_s = 0.0
            else:
                signal.waiting.append((task, task.ticket))
        if timeout_s is not None:
            self.at(timeout_s, self._resume, task, task.ticket)
        self._hub.switch()

    def wait_for(
        self, condition: Callable[[], bool], signal: Signal, timeout_s: float | None
    ) -> bool:
        """Wait until ``condition`` holds, looking whenever ``signal`` is given."""
        end_s = None if timeout_s is None else self.now_s + timeout_s
        while not condition():
            left_s = None if end_s is None else end_s - self.now_s
            if left_s is not None and left_s <= 0:
                return False
            self.wait(signal, left_s)
        return True

    def wake(self, task: Task, ticket: int) -> None:
        """Let a waiting task go on now."""
        self.at(0.0, self._resume, task, ticket)

    def kill(self, process: Process) -> None:
        """End a process where it stands, as SIGKILL does."""
        process.alive = False
        for task in list(process.tasks):
            if task is not self._current:
                self._switch(task, lambda t=task: t.greenlet.throw(Killed))  # type: ignore[misc]
        if self._current is not None and self._current.process is process:
            raise Killed

    def stop(self, process: Process) -> None:
        """Hold a process still, as SIGSTOP does."""
        process.stopped = True

    def go_on(self, process: Process) -> None:
        """Let a stopped process run again, as SIGCONT does."""
        process.stopped = False
        held, process.held = process.held, []
        for task, ticket in held:
            self.wake(task, ticket)

    def run(self, until: Callable[[], bool]) -> None:
        """Run events until ``until`` holds.

        Raises:
            StuckError: it never does.
            BaseException: what a task raised and nobody caught.
        """
        while not until():
            self.events += 1
            if not self._queue or self.events > self._limit:
                raise StuckError(f"after {self.events} events at {self.now_s:.1f} s")
            self.now_s, _, call, args = heapq.heappop(self._queue)
            call(*args)
            if self._failure is not None:
                raise self._failure

    def _resume(self, task: Task, ticket: int) -> None:
        if ticket != task.ticket or task.greenlet.dead or not task.process.alive:
            return
        if task.process.stopped:
            task.process.held.append((task, ticket))
            return
        task.ticket += 1
        self._switch(task, task.greenlet.switch)

    def _switch(self, task: Task, switch: Callable[[], Any]) -> None:
        before, self._current = self._current, task
        try:
            switch()
        except BaseException as error:  # noqa: BLE001 (a task's failure ends the run)
            self._failure = error
        finally:
            self._current = before


_active: list[Scheduler] = []


def activate(scheduler: Scheduler) -> None:
    """Make this the scheduler of everything that runs from now on."""
    _active[:] = [scheduler]


def active() -> Scheduler:
    """The scheduler of the simulation that runs; one at a time in a process."""
    return _active[0]
