"""The last things that happened in this worker, kept for the moment it has to say why it stuck.

Owns a handful of short sentences with their times; touches neither Kafka nor state.
What happens all the time (applied, committed) keeps only its latest occurrence, so that it
does not crowd out the assignment and the restore before it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

MAX_ENTRIES = 20


class _Entry(NamedTuple):
    time_s: float
    text: str
    times: int = 1


class Journal:
    """A ring of the last ``MAX_ENTRIES`` happenings; may be written and read from any thread."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._entries: deque[_Entry] = deque(maxlen=MAX_ENTRIES)
        self._repeating: dict[str, _Entry] = {}

    def note(self, text: str) -> None:
        """Something happened that happens now and then."""
        entry = _Entry(self._clock_s(), text)
        with self._lock:
            self._entries.append(entry)

    def repeat(self, what: str, detail: str) -> None:
        """Something happened again, such as ``repeat("applied partition 3", "up to 1234")``."""
        now_s = self._clock_s()
        with self._lock:
            before = self._repeating.pop(what, None)
            times = before.times + 1 if before else 1
            self._repeating[what] = _Entry(now_s, f"{what} {detail}", times)
            if len(self._repeating) > MAX_ENTRIES:
                del self._repeating[next(iter(self._repeating))]

    def lines(self) -> list[str]:
        """At most ``MAX_ENTRIES`` lines, oldest first, each with how long ago it was."""
        now_s = self._clock_s()
        with self._lock:
            entries = [*self._entries, *self._repeating.values()]
        entries.sort(key=lambda entry: entry.time_s)
        return [
            f"{now_s - entry.time_s:.1f} s ago: {entry.text}"
            + (f" (the last of {entry.times})" if entry.times > 1 else "")
            for entry in entries[-MAX_ENTRIES:]
        ]
