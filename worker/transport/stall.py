"""Judging whether anything stands still: numbers in, a verdict out.

Owns no thread and no clock. :mod:`worker.transport.watchdog` looks at the worker from time
to time and passes what it saw.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from enum import IntEnum

MAX_REASONS = 3


@dataclass(frozen=True)
class Observation:
    """One thing that should move, as it was seen at one look.

    Attributes:
        name: the same at every look.
        waiting: what is waited for, as a sentence that "for 60 s" can follow; None: it has
            nothing to do, so it may stand still.
        progress: anything that compares unequal once it has moved.
    """

    name: str
    waiting: str | None
    progress: Hashable = 0


class Level(IntEnum):
    """How long something has stood still: not long, half the timeout, all of it."""

    MOVING = 0
    STALLED = 1
    DEAD = 2


@dataclass(frozen=True)
class Verdict:
    """What a look gave.

    Attributes:
        reason: what stands still for half the timeout or longer, in the order of the
            observations; empty when everything moves.
    """

    level: Level
    reason: str = ""


MOVING = Verdict(Level.MOVING)


class StallJudge:
    """Remembers, for each thing that should move, how long it has been seen standing still.

    Only time in which the process ran counts: a process that was stopped, a suspended
    machine and a machine too busy to let the watchdog run pass at most ``longest_look_s``.

    Args:
        timeout_s: after this time something that stands still is dead; stalled after half of it.
        longest_look_s: how much of the time between two looks counts at most.
    """

    def __init__(self, timeout_s: float, longest_look_s: float) -> None:
        self._timeout_s = timeout_s
        self._longest_look_s = longest_look_s
        self._still: dict[str, tuple[Hashable, float]] = {}

    def look(self, elapsed_s: float, observations: Iterable[Observation]) -> Verdict:
        """Judge what was seen ``elapsed_s`` after the look before."""
        counted_s = min(max(elapsed_s, 0.0), self._longest_look_s)
        before, self._still = self._still, {}
        longest_s, reasons = 0.0, []
        for seen in observations:
            if seen.waiting is None:
                continue
            known = before.get(seen.name)
            still_s = known[1] + counted_s if known and known[0] == seen.progress else 0.0
            self._still[seen.name] = (seen.progress, still_s)
            longest_s = max(longest_s, still_s)
            if still_s >= self._timeout_s / 2:
                reasons.append(f"{seen.waiting} for {still_s:.0f} s")
        if not reasons:
            return MOVING
        level = Level.DEAD if longest_s >= self._timeout_s else Level.STALLED
        more = len(reasons) - MAX_REASONS
        reason = "; ".join(reasons[:MAX_REASONS])
        return Verdict(level, f"{reason}; and {more} more" if more > 0 else reason)
