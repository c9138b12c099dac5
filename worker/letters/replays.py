"""What was published to the input again, as the topic ``replays`` tells it.

A letter counts as replayed when the record that it is about was: after a crash of an
at-least-once worker, two letters may be about one record.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping

import msgspec

from worker.cluster import Cluster, Range, Record
from worker.core.messages import Origin, Replay

_decode = msgspec.json.Decoder(Replay).decode


class Replays:
    """Attempts by record of the input topic.

    Args:
        source: name of the input topic; replays to another do not count.
        only: places (partition, offset) that will be asked for; None: any, which takes
            some 300 bytes of memory a replay.
    """

    def __init__(self, source: str, only: Container[tuple[int, int]] | None = None) -> None:
        self._source = source
        self._only = only
        self._replayed: dict[tuple[int, int], int] = {}
        self._published: dict[tuple[int, int], int] = {}
        self._read: dict[int, int] = {}

    def read(self, cluster: Cluster, pending: bool) -> None:
        """Take in what the topic holds by now.

        Args:
            cluster: where it is.
            pending: wait for open transactions to end, and take in what they committed.

        Raises:
            TopicError: the topic does not exist.
            BrokerError: see :meth:`Cluster.read`.
        """
        topic = cluster.settings.topics.replays
        spans = cluster.written(topic) if pending else cluster.ranges(topic)
        ranges = {
            p: Range(max(span.begin, self._read.get(p, 0)), span.end) for p, span in spans.items()
        }
        for replay in read_replays(cluster, ranges):
            self.add(replay)
        self._read = {p: span.end for p, span in ranges.items()}

    def add(self, replay: Replay) -> None:
        """Take in one."""
        if replay.origin.topic != self._source or replay.published.topic != self._source:
            return
        origin = (replay.origin.partition, replay.origin.offset)
        published = (replay.published.partition, replay.published.offset)
        if self._only is None or origin in self._only:
            self._replayed[origin] = max(replay.attempt, self._replayed.get(origin, 0))
        if self._only is None or published in self._only:
            self._published[published] = replay.attempt

    def attempts(self, origin: Origin) -> tuple[int, bool]:
        """How often an event has been replayed before, and whether this record of it has.

        Args:
            origin: the record that a letter is about. Where it was itself published by a
                replay and refused again, that replay counts.
        """
        place = (origin.partition, origin.offset)
        replayed = self._replayed.get(place, 0)
        return max(replayed, self._published.get(place, 0)), replayed > 0


def read_replays(cluster: Cluster, ranges: Mapping[int, Range]) -> Iterator[Replay]:
    """What ranges of the topic say; what is not a replay is left out."""
    for records in cluster.read(cluster.settings.topics.replays, ranges):
        for record in records:
            replay = _read(record)
            if replay is not None:
                yield replay


def _read(record: Record) -> Replay | None:
    if record.value is None:  # deleted by hand, with a tombstone
        return None
    try:
        return _decode(record.value)
    except (ValueError, RecursionError):
        return None
