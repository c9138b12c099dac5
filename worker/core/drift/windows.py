"""Tumbling windows in event time, merged from partials as they come.

Owns which partials count, once each, and when a window is complete. A window of every length is
the sum of the partials whose panes are in it. Progress is event time: windows close when the
slowest live partition has passed their end by the grace; a partition that is far behind the
fastest for long does not hold the others up.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from worker.core.drift.partial import Partial, merge
from worker.core.errors import PartialError


class Progress(msgspec.Struct):
    """How far a group is.

    Attributes:
        seen: for each partition, sequence and pane of the last partial.
        newest_us: for each partition, the end of the newest pane.
        watermark_us: windows that end until then are closed.
    """

    seen: dict[int, tuple[int, int]] = {}
    newest_us: dict[int, int] = {}
    watermark_us: int = 0


class Windows:
    """The open windows of one group.

    Args:
        lengths_us: of the windows, all multiples of the pane.
        grace_us: how long after its end a window stays open.
        patience_us: partitions farther behind the fastest are not waited for.
    """

    def __init__(self, lengths_us: tuple[int, ...], grace_us: int, patience_us: int) -> None:
        self._lengths_us = lengths_us
        self._grace_us = grace_us
        self._patience_us = patience_us
        self.progress = Progress()
        self.open: dict[tuple[int, int], Partial] = {}
        self.changed: set[tuple[int, int]] = set()

    def restore(self, progress: Progress, open_: Mapping[tuple[int, int], Partial]) -> None:
        """Go on from what was saved."""
        self.progress = progress
        self.open = dict(open_)

    def add(self, partial: Partial) -> tuple[bool, bool]:
        """Merge a partial into its windows.

        Returns:
            Whether it was a repetition, and whether it was too late for one of its windows.

        Raises:
            PartialError: its pane is not inside one window of each length.
        """
        progress = self.progress
        for length_us in self._lengths_us:
            start_us = partial.start_us // length_us * length_us
            if partial.end_us > start_us + length_us:
                raise PartialError(
                    f"a drift partial spans {partial.start_us} to {partial.end_us} us, which is "
                    f"not inside one window of {length_us} us; use panes that divide the windows."
                )
        order = (partial.sequence, partial.start_us)
        if order <= progress.seen.get(partial.partition, (-1, -1)):
            return True, False
        progress.seen[partial.partition] = order
        late = False
        for length_us in self._lengths_us:
            start_us = partial.start_us // length_us * length_us
            key = (length_us, start_us)
            if start_us + length_us <= progress.watermark_us:
                late = True
                continue
            parts = [self.open[key], partial] if key in self.open else [partial]
            self.open[key] = merge(parts, start_us, start_us + length_us)
            self.changed.add(key)
        newest_us = progress.newest_us
        newest_us[partial.partition] = max(newest_us.get(partial.partition, 0), partial.end_us)
        fastest_us = max(newest_us.values())
        live = [us for us in newest_us.values() if us >= fastest_us - self._patience_us]
        progress.watermark_us = max(progress.watermark_us, min(live) - self._grace_us)
        return False, late

    def close(self, everything: bool = False) -> list[Partial]:
        """Take the windows that are complete, in order of their ends, shorter ones first."""
        until_us = self.progress.watermark_us
        ready = sorted(
            (start_us + length_us, length_us, start_us)
            for length_us, start_us in self.open
            if everything or start_us + length_us <= until_us
        )
        closed = []
        for end_us, length_us, start_us in ready:
            self.progress.watermark_us = max(self.progress.watermark_us, end_us)
            self.changed.add((length_us, start_us))
            closed.append(self.open.pop((length_us, start_us)))
        return closed
