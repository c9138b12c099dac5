"""A recorded topic: a folder of Parquet files, each a stretch of one partition.

Owns the layout on disk and what makes it safe: a file appears whole or not at all, its name says
which offsets it covers, and what is covered is all that a resumed recording has to know. ::

    OUT/topic=sensor-events/date=2026-01-31/00003-000000000000012345-000000000000013000.parquet
                                            partition, first offset, offset to go on from

A file covers every offset from the first to the last one of its name. Not each has a record:
transactions leave marks, and compaction leaves holes. Records stand in the order of offsets.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Self

from worker.core.errors import ConfigError, RecordingError

LOCK = ".recording.lock"
UNFINISHED = ".unfinished"
_FOLDER = re.compile(r"topic=(?P<topic>[A-Za-z0-9._-]{1,249})")
_FILE = re.compile(r"(?P<partition>\d{5,})-(?P<begin>\d{18,})-(?P<end>\d{18,})\.parquet")


class Segment(NamedTuple):
    """One file: the offsets ``begin`` to ``end`` (exclusive) of a partition."""

    partition: int
    begin: int
    end: int
    path: Path


class Gap(NamedTuple):
    """Offsets ``begin`` to ``end`` (exclusive) of a partition that were never recorded."""

    partition: int
    begin: int
    end: int


def recorded_topics(root: Path) -> list[str]:
    """The topics that a recording has, in alphabetical order."""
    if not root.is_dir():
        return []
    found = (_FOLDER.fullmatch(entry.name) for entry in root.iterdir() if entry.is_dir())
    return sorted(match["topic"] for match in found if match)


def topic_of(root: Path, wanted: str | None) -> str:
    """The recorded topic that is meant.

    Raises:
        ConfigError: it is not there, or there are several.
    """
    found = recorded_topics(root)
    if not found:
        raise ConfigError(
            f"{root} is no recording; give the folder that driftdetector record wrote."
        )
    if wanted is None and len(found) > 1:
        raise ConfigError(f"--topic: {root} has {', '.join(found)}; say which.")
    if wanted is not None and wanted not in found:
        raise ConfigError(f"--topic: {root} has no {wanted!r}, but {', '.join(found)}.")
    return wanted or found[0]


def segments_of(root: Path, topic: str) -> list[Segment]:
    """The files of a topic, by partition and offset.

    Raises:
        RecordingError: two of them cover the same offsets.
    """
    found = []
    for path in folder_of(root, topic).glob("date=*/*.parquet"):
        match = _FILE.fullmatch(path.name)
        if match:
            found.append(
                Segment(int(match["partition"]), int(match["begin"]), int(match["end"]), path)
            )
    found.sort()
    for before, after in pairwise(found):
        if before.partition == after.partition and after.begin < before.end:
            raise RecordingError(
                f"{before.path.name} and {after.path.name} in {root} cover the same offsets; they "
                "are of different recordings, so move one of them elsewhere."
            )
    return found


def positions(segments: Iterable[Segment]) -> dict[int, int]:
    """Where recording each partition goes on."""
    return {segment.partition: segment.end for segment in segments}


def gaps(segments: Iterable[Segment]) -> list[Gap]:
    """What lies between segments."""
    found: list[Gap] = []
    ends: dict[int, int] = {}
    for segment in segments:
        end = ends.get(segment.partition, segment.begin)
        if segment.begin > end:
            found.append(Gap(segment.partition, end, segment.begin))
        ends[segment.partition] = segment.end
    return found


class Lock:
    """Keeps a second process from recording into the same folder; a context manager.

    What an earlier process left unfinished is removed: it is in Kafka still.

    Raises:
        RecordingError: somebody records into the folder, or it cannot be written.
    """

    def __init__(self, root: Path) -> None:
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._file = (root / LOCK).open("ab")
        except OSError as error:
            raise unwritable(root, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise RecordingError(
                f"{root}: another process is recording into this folder; wait for it to end, or "
                "give another folder."
            ) from error
        for path in root.glob(f"topic=*/date=*/*{UNFINISHED}"):
            path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def unwritable(root: Path, error: OSError) -> RecordingError:
    """What to say when a recording cannot be written."""
    reason = os.strerror(error.errno) if error.errno else first_line(error)
    return RecordingError(
        f"{root} cannot be written: {reason}; what was finished is complete, so mend that and run "
        "the same command again."
    )


def folder_of(root: Path, topic: str) -> Path:
    """Where a topic's files are."""
    return root / f"topic={topic}"


def first_line(error: Exception) -> str:
    """What an error says, without what follows."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
