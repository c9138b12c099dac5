"""Which letters a person means, and what there is of them in numbers."""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import get_args

from worker.cluster import LAST_OFFSET, Cluster, Range
from worker.core.channels import parse_duration_us
from worker.core.errors import ConfigError
from worker.core.messages import DeadLetterReason, Origin
from worker.letters.letter import UNREADABLE, Kind, Letter, machine_in, read_letter

REASONS = (*get_args(DeadLetterReason), UNREADABLE)
MAX_MACHINES = 100_000
"""How many machines are counted one by one; a faulty gateway may invent any number."""
MAX_MACHINE_CHARS = 64
_ID = re.compile(r"^(.+)-(\d{1,10})-(\d{1,19})$", re.DOTALL)

Progress = Callable[[int, int], None]
"""Told how much is done, and of how much."""


@dataclass(frozen=True)
class Selection:
    """Which letters; every condition that is given has to hold.

    Attributes:
        reasons: empty: any.
        machine: the original key or the payload's machine_id.
        since_ms, until_ms: the letter's own Kafka timestamp, epoch milliseconds; the end
            is exclusive.
    """

    reasons: frozenset[str] = frozenset()
    machine: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    def matches(self, letter: Letter) -> bool:
        """Whether it is one of them."""
        time_ms = letter.record.time_ms
        if self.since_ms is not None and time_ms < self.since_ms:
            return False
        if self.until_ms is not None and time_ms >= self.until_ms:
            return False
        if self.reasons and letter.reason not in self.reasons:
            return False
        return self.machine is None or self.machine in (letter.machine, machine_in(letter.payload))


@dataclass
class Summary:
    """Counts over letters; its size does not depend on their number.

    Attributes:
        first_ms, last_ms: their Kafka timestamps, epoch milliseconds.
        machines: letters by machine, of the first ``MAX_MACHINES`` machines.
        other: letters of further machines.
    """

    count: int = 0
    first_ms: int = LAST_OFFSET
    last_ms: int = -1
    reasons: Counter[str] = field(default_factory=Counter)
    machines: Counter[str | None] = field(default_factory=Counter)
    other: int = 0

    def add(self, letter: Letter) -> None:
        """Count one."""
        self.count += 1
        self.first_ms = min(self.first_ms, letter.record.time_ms)
        self.last_ms = max(self.last_ms, letter.record.time_ms)
        self.reasons[letter.reason] += 1
        machine = letter.machine
        if machine is not None and len(machine) > MAX_MACHINE_CHARS:
            machine = machine[:MAX_MACHINE_CHARS] + "…"
        if machine in self.machines or len(self.machines) < MAX_MACHINES:
            self.machines[machine] += 1
        else:
            self.other += 1


def search(
    cluster: Cluster,
    kind: Kind,
    selection: Selection,
    ranges: dict[int, Range],
    progress: Progress,
) -> Iterator[Letter]:
    """The letters that a selection means; each partition in the order of its offsets."""
    size = sum(span.end - span.begin for span in ranges.values())
    topic = kind.topic(cluster.settings)
    for records in cluster.read(topic, ranges, lambda done: progress(done, size)):
        for record in records:
            letter = read_letter(kind, record)
            if selection.matches(letter):
                yield letter


def newest(letters: Iterator[Letter], limit: int) -> tuple[list[Letter], Summary]:
    """The newest letters, newest first, and counts over all of them."""
    summary = Summary()
    heap: list[tuple[int, int, int, Letter]] = []
    for letter in letters:
        summary.add(letter)
        record = letter.record
        entry = (record.time_ms, record.offset, record.partition, letter)
        if len(heap) < limit:
            heapq.heappush(heap, entry)
        elif heap and entry[:3] > heap[0][:3]:
            heapq.heapreplace(heap, entry)
    return [letter for *_, letter in sorted(heap, key=lambda e: e[:3], reverse=True)], summary


def parse_id(kind: Kind, topic: str, text: str) -> Origin:
    """Where a letter is.

    Args:
        kind: of letters.
        topic: the topic they are in.
        text: the id as ``list`` shows it.

    Raises:
        ConfigError: it is not the id of a letter of this topic.
    """
    match = _ID.match(text)
    if match is None or int(match[3]) >= LAST_OFFSET:
        raise ConfigError(
            f"{text!r} is not the id of a {kind.singular}; write topic-partition-offset as "
            f"`driftdetector {kind.name} list` shows it, such as {topic}-0-17."
        )
    if match[1] != topic:
        raise ConfigError(
            f"{text!r} is a record of topic {match[1]!r}; {kind.plural} are in {topic!r}."
        )
    return Origin(topic, int(match[2]), int(match[3]))


def find_letter(cluster: Cluster, kind: Kind, place: Origin) -> Letter | None:
    """The letter at a place; None where there is none (any more)."""
    record = cluster.fetch(place)
    return None if record is None else read_letter(kind, record)


def parse_time_ms(text: str, key: str, now_ms: int) -> int:
    """Read a moment: RFC 3339 with an offset, or how long before now, such as ``2h``.

    Returns:
        Epoch milliseconds.

    Raises:
        ConfigError: naming ``key`` when the text is neither.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        try:
            return max(0, now_ms - parse_duration_us(text, key) // 1000)
        except ConfigError:
            moment = None
    if moment is None or moment.tzinfo is None:
        raise ConfigError(
            f"{key}: {text!r} is not a time; write RFC 3339 with an offset, such as "
            "2026-03-02T06:15:00Z, or how long ago, such as 2h or 30m."
        )
    return max(0, round(moment.timestamp() * 1000))


def parse_reasons(names: list[str]) -> frozenset[str]:
    """Check names of reasons.

    Raises:
        ConfigError: one is unknown; says which there are.
    """
    for name in names:
        if name not in REASONS:
            raise ConfigError(f"--reason: {name!r} is no reason; there are {', '.join(REASONS)}.")
    return frozenset(names)
