"""Tumbling windows in event time, merged from partials as they come.

Owns which partials count, once each, and when a window is complete. A window of every length is
the sum of the partials whose panes are in it. Progress is event time: windows close when the
slowest live partition has passed their end by the grace, however far apart partitions are. Alive
is one of which something was heard lately, by the clock of Kafka: one that fell silent does not
hold the others up.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from worker.core.drift.partial import Partial, merge
from worker.core.errors import PartialError

SETTLE_US = 10_000_000
"""How long partitions are waited for of which nothing was ever heard."""


class Progress(msgspec.Struct):
    """How far a group is.

    Attributes:
        seen: for each partition, sequence and pane of the last partial.
        newest_us: for each partition, the end of the newest pane.
        heard_us: for each partition, when its last partial was written.
        first_heard_us: when the first of all was written.
        watermark_us: windows that end until then are closed.
    """

    seen: dict[int, tuple[int, int]] = {}
    newest_us: dict[int, int] = {}
    heard_us: dict[int, int] = {}
    first_heard_us: int = -1
    watermark_us: int = 0


class Windows:
    """The open windows of one group.

    Args:
        lengths_us: of the windows, all multiples of the pane.
        grace_us: how long after its end a window stays open.
        patience_us: partitions that were silent for longer, while others were not, are not
            waited for.
        partitions: how many there are. In the beginning all are waited for, for ten seconds:
            what one has kept for days may come before the first that another has.
    """

    def __init__(
        self, lengths_us: tuple[int, ...], grace_us: int, patience_us: int, partitions: int = 0
    ) -> None:
        self._lengths_us = lengths_us
        self._grace_us = grace_us
        self._patience_us = patience_us
        self._partitions = partitions
        self.progress = Progress()
        self.open: dict[tuple[int, int], Partial] = {}
        self.changed: set[tuple[int, int]] = set()

    def restore(self, progress: Progress, open_: Mapping[tuple[int, int], Partial]) -> None:
        """Go on from what was saved."""
        self.progress = progress
        self.open = dict(open_)

    def add(self, partial: Partial, heard_us: int = 0) -> tuple[bool, bool]:
        """Merge a partial into its windows.

        Args:
            heard_us: when it was written, by the clock of Kafka; 0 for all of them if there is
                no such clock.

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
        self._advance(partial, heard_us)
        return False, late

    def _advance(self, partial: Partial, heard_us: int) -> None:
        """Move the watermark to the slowest of those partitions that are alive."""
        progress, partition = self.progress, partial.partition
        newest_us, heard = progress.newest_us, progress.heard_us
        newest_us[partition] = max(newest_us.get(partition, 0), partial.end_us)
        heard[partition] = max(heard.get(partition, 0), heard_us)
        if progress.first_heard_us < 0:
            progress.first_heard_us = heard_us
        latest_us = max(heard.values())
        unheard = len(newest_us) < self._partitions
        if unheard and latest_us < progress.first_heard_us + SETTLE_US:
            return
        live = [
            end_us
            for one, end_us in newest_us.items()
            if heard.get(one, latest_us) >= latest_us - self._patience_us
        ]
        progress.watermark_us = max(progress.watermark_us, min(live) - self._grace_us)

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
