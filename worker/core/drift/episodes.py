"""Drift events: one for each change, opened and closed once.

Owns when an event opens, changes and closes. A window alone opens nothing: windows of one length
have to show the same thing one after the other, so a single glitch or a chance does not. Windows
that reach back before the last close say nothing about what is new.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from worker.core.drift.outputs import WindowReport

Change = Literal["opened", "updated", "closed"]

JOINT = "*"
"""Stands for all columns together among the names of what drifted."""


class Episode(msgspec.Struct):
    """What is kept of one kind of event of a group.

    Attributes:
        streaks: for each length of windows, what every window of the present run showed, how
            many they are, and where the first begins.
        window_us: length of the windows that opened the event; 0: none is open.
        told_us, told_score, told: what was last said of it: when, its score, its columns.
        calm: windows in a row that did not show it.
    """

    streaks: dict[int, tuple[tuple[str, ...], int, int]] = {}
    window_us: int = 0
    opened_us: int = 0
    first_us: int = 0
    began_us: int = 0
    last_us: int = 0
    closed_us: int = 0
    sequence: int = 0
    told_us: int = 0
    told_score: float = 0.0
    told: tuple[str, ...] = ()
    calm: int = 0

    @property
    def is_open(self) -> bool:
        """Whether an event is open."""
        return self.window_us > 0

    def follow(
        self, report: WindowReport, shown: tuple[str, ...], persistence: int, recovery: int
    ) -> Change | None:
        """Apply a window; ``shown``: the names of what drifted in it, empty if nothing did."""
        length_us = report.window_us
        if report.verdict in ("sparse", "blind"):
            return None
        self._extend(report, shown)
        if not self.is_open:
            names, count, first_us = self.streaks[length_us]
            if not names or count < persistence:
                return None
            self.window_us, self.opened_us, self.first_us = length_us, report.end_us, first_us
            self.last_us, self.sequence, self.calm = report.end_us, 1, 0
            self._tell(report, shown)
            return "opened"
        if length_us != self.window_us:
            return None
        if shown:
            self.calm = 0
            self.last_us = report.end_us
            return self._update(report, shown)
        self.calm += 1
        if self.calm < recovery:
            return None
        return self.close(report.end_us)

    def close(self, at_us: int) -> Change:
        """End the open event."""
        self.window_us, self.closed_us, self.calm = 0, at_us, 0
        self.sequence += 1
        self.streaks = {}
        return "closed"

    def _extend(self, report: WindowReport, shown: tuple[str, ...]) -> None:
        names, count, first_us = self.streaks.get(report.window_us, ((), 0, 0))
        if report.start_us < self.closed_us:
            shown = ()
        common = tuple(name for name in shown if name in names)
        if common:
            self.streaks[report.window_us] = common, count + 1, first_us
        else:
            self.streaks[report.window_us] = shown, 1 if shown else 0, report.start_us

    def _update(self, report: WindowReport, shown: tuple[str, ...]) -> Change | None:
        """Say it again when it grew or has lasted twice as long as when it was last said."""
        lasted_us = report.end_us - self.first_us
        grown = set(shown) - set(self.told) and report.score >= self.told_score
        if not (
            lasted_us >= 2 * (self.told_us - self.first_us)
            or report.score > 2.0 * self.told_score
            or (grown and set(shown) >= set(self.told))
        ):
            return None
        self.sequence += 1
        self._tell(report, shown)
        return "updated"

    def _tell(self, report: WindowReport, shown: tuple[str, ...]) -> None:
        self.told_us, self.told_score, self.told = report.end_us, report.score, shown


def shown_by(report: WindowReport, verdict: str) -> tuple[str, ...]:
    """Names of what drifted in a window whose verdict is the given one."""
    if report.verdict != verdict:
        return ()
    names = [one.feature for one in report.features if one.drifted]
    if any(test.voted for test in report.joint) or not names:
        names.append(JOINT)
    return tuple(names)
