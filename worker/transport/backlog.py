"""Telling a person once that the worker is far behind, and once that it has caught up."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)

BEHIND_EVENTS = 50_000
"""More than is read ahead: what an outage leaves, not what a busy second does."""
CAUGHT_UP_EVENTS = 10_000


class Backlog:
    """Watches how many events are still to be read; belongs to the polling thread."""

    def __init__(self) -> None:
        self._most_events = 0

    def look(self, behind_events: int) -> None:
        """Log a line when the worker has fallen behind, and one when that is over."""
        if not self._most_events and behind_events >= BEHIND_EVENTS:
            log.warning(
                "behind by %d events: reading on only as fast as they are scored",
                behind_events,
                extra={"behind_events": behind_events},
            )
            self._most_events = behind_events
        elif self._most_events and behind_events < CAUGHT_UP_EVENTS:
            log.info("caught up; it was behind by up to %d events", self._most_events)
            self._most_events = 0
        elif self._most_events:
            self._most_events = max(self._most_events, behind_events)
