"""The watchdog: notices that the worker is stuck, says so, and ends the process.

Own thread, monotonic clock. Every look collects observations, lets
:class:`~worker.transport.stall.StallJudge` judge them, and asks the event loop for a sign of
life. After half of the timeout ``reason`` tells ``/health``; after all of it the process ends:
in order if that still works, else at once. Ending at once is safe, because nothing is final
but what a commit made final.

A thread that holds the interpreter's lock holds up this one too; then ``faulthandler``, which
needs no lock, prints every thread's stack and ends the process after twice the timeout.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from worker.core.errors import DriftDetectorError, StalledError
from worker.transport.journal import Journal
from worker.transport.stall import MOVING, Level, Observation, StallJudge, Verdict

log = logging.getLogger(__name__)

LOOKS_PER_TIMEOUT = 20
LONGEST_LOOK_EVERY_S = 1.0
STOP_DEADLINE_S = 20.0
"""From the order to stop to the end of the process; containers are given 30 s."""
ORDERLY_END_S = 5.0
SAY_WITHIN_S = 2.0
STACK_FRAMES = 3


class Watchdog(threading.Thread):
    """Watches one app; see the module.

    Args:
        timeout_s: how long something may stand still that should move.
        observe: what to judge; called on this thread, must not wait for anything.
        journal: the last things done, for the report.
    """

    def __init__(
        self, timeout_s: float, observe: Callable[[], Iterable[Observation]], journal: Journal
    ) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.reason = ""
        self._timeout_s = timeout_s
        self._every_s = min(LONGEST_LOOK_EVERY_S, timeout_s / LOOKS_PER_TIMEOUT)
        self._judge = StallJudge(timeout_s, longest_look_s=2 * self._every_s)
        self._observe = observe
        self._journal = journal
        self._asked = self._answered = 0
        self._stop_s: float | None = None
        self._ending: BaseException | None = None
        self._never = threading.Event()  # waiting for it is sleeping by the monotonic clock

    def watch(
        self, loop: asyncio.AbstractEventLoop, crash: Callable[[BaseException], object]
    ) -> None:
        """Start to watch, for the rest of the process's life.

        Args:
            loop: the event loop that must keep answering.
            crash: called on the loop, ends the app in order with the given error.
        """
        self._loop = loop
        self._crash = crash
        self.start()

    def stopping(self, error: BaseException | None) -> None:
        """The app has begun to stop; the process has ``STOP_DEADLINE_S`` to end.

        Args:
            error: what made it stop; None: it was told to.
        """
        self._ending = self._ending or error
        if self._stop_s is None:
            self._stop_s = STOP_DEADLINE_S

    def run(self) -> None:
        """Look until the process ends."""
        last_s = time.monotonic()
        while True:
            faulthandler.dump_traceback_later(2 * self._timeout_s, exit=True)
            self._never.wait(self._every_s)
            now_s = time.monotonic()
            elapsed_s, last_s = now_s - last_s, now_s
            if self._stop_s is not None:
                self._stop_s -= min(elapsed_s, 2 * self._every_s)
                if self._stop_s <= 0:
                    self._end_now()
                continue
            verdict = self._look(elapsed_s)
            if bool(verdict.reason) != bool(self.reason):
                self._announce(verdict)
            self.reason = verdict.reason
            if verdict.level is Level.DEAD:
                self._end(StalledError(f"the worker is stuck: {verdict.reason}; it ends itself."))

    def _look(self, elapsed_s: float) -> Verdict:
        try:
            return self._judge.look(elapsed_s, [self._loop_observation(), *self._observe()])
        except Exception:  # without a judgement nothing may be ended
            log.exception("the watchdog could not look at the worker")
            return MOVING

    def _loop_observation(self) -> Observation:
        if self._asked == self._answered:
            self._asked += 1
            self._on_loop(self._answer)
        return Observation("event loop", "the event loop has not answered", self._answered)

    def _answer(self) -> None:
        self._answered = self._asked

    def _on_loop(self, call: Callable[[], object]) -> None:
        # A closed loop belongs to an app that has stopped; the process is about to end.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call)

    def _announce(self, verdict: Verdict) -> None:
        if verdict.reason:
            self._say(
                logging.WARNING,
                f"not ready any more: {verdict.reason}; unless it moves, the worker ends itself "
                f"after {self._timeout_s:.0f} s (worker.stall_timeout_s)",
            )
        else:
            self._say(logging.INFO, f"it moves again; it was: {self.reason}")

    def _end(self, error: StalledError) -> None:
        """Report, try to end in order, and leave the rest to the deadline."""
        self._say(logging.ERROR, "\n".join([str(error), *self._report()]))
        self._ending = error
        self._stop_s = ORDERLY_END_S
        self._on_loop(lambda: self._crash(error))

    def _end_now(self) -> None:
        error = self._ending or StalledError(
            f"the worker did not stop within {STOP_DEADLINE_S:.0f} s of being told to; what was "
            "not committed is done again after the next start."
        )
        lines = [] if isinstance(error, StalledError) and self.reason else self._report()
        self._say(
            logging.ERROR, "\n".join([f"ends at once, a thread does not return: {error}", *lines])
        )
        os._exit(error.exit_code if isinstance(error, DriftDetectorError) else 1)

    def _report(self) -> Iterator[str]:
        yield "last done:"
        yield from (f"  {line}" for line in self._journal.lines())
        yield "now at:"
        yield from (f"  {line}" for line in _stacks())

    def _say(self, level: int, text: str) -> None:
        # On a thread of its own: whoever reads stderr may be what is stuck.
        speaker = threading.Thread(target=log.log, args=(level, "%s", text), daemon=True)
        speaker.start()
        speaker.join(SAY_WITHIN_S)


def _stacks() -> Iterator[str]:
    """Where each other Python thread is, innermost call first."""
    frames = sys._current_frames()  # noqa: SLF001 (public in all but its name)
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if frame is None or thread is threading.current_thread():
            continue
        stack = traceback.extract_stack(frame)[-STACK_FRAMES:]
        if stack[-1].name == "_worker":
            continue  # of a thread pool, without anything to do
        calls = [f"{call.name} ({Path(call.filename).name}:{call.lineno})" for call in stack[::-1]]
        yield f"{thread.name}: {' < '.join(calls)}"
