"""Publishing the events of letters to the input again, each once.

A transaction publishes some events and the marks in the topic ``replays`` that they were
published: both or neither, whenever the process is killed. A process that begins to publish
fences every earlier one (by the transactional id) and only then reads the last marks, so what
it does not find there was not published and will not be.

Readers of the input wait for open transactions, so none stays open while nothing is sent.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from tenacity import Retrying, retry_if_exception, stop_after_attempt

from worker.cluster import Cluster
from worker.core.errors import BrokerError, FencedError
from worker.core.messages import Origin, Replay, encode, format_time_us, record_id
from worker.kafka_config import PRODUCER_REPLACED, create_client, describe, retried
from worker.letters.letter import Letter, has_timestamp
from worker.letters.replays import Replays

ATTEMPT_HEADER = "driftdetector-replay-attempt"
LETTER_HEADER = "driftdetector-replay-of"
MAX_ATTEMPTS = 3
DEADLINE_S = 30.0
TRIES = 3
MAX_BATCH = 500
MAX_BATCH_BYTES = 16 * 1024 * 1024
TRANSACTION_TIMEOUT_MS = 10_000
"""How long a killed replay may hold back the workers; a repeated command ends it at once."""
MAX_RECORD_BYTES = 1_000_000_000
"""librdkafka's own limit; how long records may be is for the topic to say."""

REPLAYED = "already replayed"
REPEATED = "the same event as another letter"
POISON = f"refused again after {MAX_ATTEMPTS} replays"
UNTIMED = "no readable timestamp of its own"
UNREADABLE = "unreadable letter"


class Event(NamedTuple):
    """An event to publish: the original key and value, to the partition it came from."""

    letter: Letter
    origin: Origin
    attempt: int
    key: bytes | None
    value: bytes | None


@dataclass
class Tally:
    """What a run does, or would do.

    Attributes:
        events: published, or to be published; ``reasons`` has them by their letters' reason.
        skipped: letters by why they were left out.
    """

    events: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Rules:
    """What a person wants replayed besides what is safe.

    Attributes:
        again: also what was replayed before, however often.
        untimed: also events without a readable timestamp of their own. They take the time
            of the new record, so they would count as measured now.
        limit: at most so many events.
    """

    again: bool = False
    untimed: bool = False
    limit: int | None = None


class Chooser:
    """Decides which letters can be replayed, and finds their events.

    Args:
        cluster: to fetch originals where a letter does not hold all.
        replays: what was replayed before.
    """

    def __init__(self, cluster: Cluster, replays: Replays, rules: Rules) -> None:
        self._cluster = cluster
        self._replays = replays
        self._rules = rules
        self._source = cluster.settings.topics.sensor_events
        self._partitions = set(cluster.partitions(self._source))

    def choose(self, letters: Iterable[Letter], tally: Tally) -> Iterator[Event]:
        """The events to publish, in the order of their letters; the others are counted.

        Raises:
            BrokerError: an original cannot be fetched.
        """
        seen: set[tuple[int, int]] = set()
        for letter in letters:
            if self._rules.limit is not None and tally.events >= self._rules.limit:
                return
            event = self._event(letter)
            if isinstance(event, str):
                tally.skipped[event] += 1
                continue
            place = (event.origin.partition, event.origin.offset)
            if place in seen:
                tally.skipped[REPEATED] += 1
                continue
            seen.add(place)
            tally.events += 1
            tally.reasons[letter.reason] += 1
            yield event

    def _event(self, letter: Letter) -> Event | str:
        """The event to publish, or why not."""
        origin = letter.origin
        if origin is None:
            return UNREADABLE
        if origin.topic != self._source:
            return f"from another topic than {self._source}"
        if origin.partition not in self._partitions:
            return f"from a partition that {self._source} does not have"
        attempts, replayed = self._replays.attempts(origin)
        if not self._rules.again and replayed:
            return REPLAYED
        if not self._rules.again and attempts >= MAX_ATTEMPTS:
            return POISON
        key, value = letter.key, letter.payload
        if not letter.is_whole:
            record = self._cluster.fetch(origin)
            if record is None or not letter.fits(record.key, record.value):
                return f"original no longer in {self._source}"
            key, value = record.key, record.value
        if not self._rules.untimed and not has_timestamp(value):
            return UNTIMED
        return Event(letter, origin, attempts + 1, key, value)


class Replayer:
    """Publishes events with their marks.

    Making one fences every other replay for this ``replays`` topic.

    Args:
        cluster: where the input and ``replays`` are.
        replays: takes in what earlier replays have committed, and what this one does.

    Raises:
        TopicError: the topic ``replays`` is missing.
        BrokerError: the brokers do not answer, or refuse.
    """

    def __init__(self, cluster: Cluster, replays: Replays) -> None:
        topics = cluster.settings.topics
        self._replays = replays
        self._source, self._marks = topics.sensor_events, topics.replays
        self.published = 0
        cluster.partitions(self._marks)
        self._producer: Producer = create_client(
            Producer,
            cluster.settings.kafka,
            {
                "transactional.id": f"{topics.replays}-writer",
                "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                "message.max.bytes": MAX_RECORD_BYTES,
                "compression.type": "lz4",
                "linger.ms": 5,
            },
        )
        with self._explained():
            retried(lambda: self._producer.init_transactions(DEADLINE_S), DEADLINE_S)
        replays.read(cluster, pending=True)

    def publish(
        self,
        events: Iterator[Event],
        rate_per_s: int,
        tally: Tally,
        on_published: Callable[[int], None],
    ) -> None:
        """Publish all events, each at most once, at most ``rate_per_s`` a second.

        Args:
            events: from :meth:`Chooser.choose`.
            rate_per_s: events a second, on average over each second.
            tally: events that Kafka does not take for their length move to ``skipped``.
            on_published: told how many are committed so far.

        Raises:
            FencedError: another replay has begun.
            BrokerError: the brokers do not answer, or refuse; what is committed is marked.
        """
        begun_s = time.monotonic()
        for batch in _batches(events, min(MAX_BATCH, rate_per_s)):
            # A transaction holds back readers of the input, so all waiting is outside of it.
            time.sleep(max(0.0, begun_s + self.published / rate_per_s - time.monotonic()))
            too_long = self._publish_in_parts(batch)
            for event in too_long:
                tally.events -= 1
                tally.reasons[event.letter.reason] -= 1
                tally.skipped[f"longer than {self._source} allows"] += 1
            self.published += len(batch) - len(too_long)
            on_published(self.published)

    def _is_fenced(self) -> bool:
        """Whether another replay has begun: errors of single records do not tell."""
        try:
            self._producer.begin_transaction()
        except KafkaException as error:
            return error.args[0].code() in PRODUCER_REPLACED
        return False

    def so_far(self) -> str:
        """What is done, for a person whose replay ended early."""
        return f"{self.published:,} events were published; the same command goes on with the rest"

    def _publish_in_parts(self, batch: list[Event]) -> list[Event]:
        """Publish events, in smaller transactions where some of them are too long.

        Kafka refuses all that was sent together, so that halving finds the long ones.

        Returns:
            Those that are too long for the topic.
        """
        if self._publish(batch):
            return []
        if len(batch) == 1:
            return batch
        middle = len(batch) // 2
        return self._publish_in_parts(batch[:middle]) + self._publish_in_parts(batch[middle:])

    def _publish(self, batch: list[Event]) -> bool:
        """Publish events and their marks in one transaction; not where any event is too long.

        Returns:
            Whether they were published.
        """
        repeated = Retrying(
            retry=retry_if_exception(_is_abortable), stop=stop_after_attempt(TRIES), reraise=True
        )
        with self._explained():
            replays: list[Replay] | None = repeated(self._transact, batch)
        for replay in replays or ():
            self._replays.add(replay)
        return replays is not None

    def _transact(self, batch: list[Event]) -> list[Replay] | None:
        self._producer.begin_transaction()
        try:
            reports = self._send_events(batch)
            if any(error is not None for error, _ in reports):
                self._abort()
                return None
            replays = self._send_marks(batch, reports)
            retried(lambda: self._producer.commit_transaction(DEADLINE_S), DEADLINE_S)
        except BaseException:
            self._abort()
            raise
        return replays

    def _send_events(self, batch: list[Event]) -> list[_Report]:
        """Send events; the only errors in the reports are those of too long ones."""
        found: dict[int, _Report] = {}

        def delivered(index: int, error: KafkaError | None, message: Message) -> None:
            found[index] = _Report(error, message.offset() or 0)

        for index, event in enumerate(batch):
            headers: list[tuple[str, str | bytes | None]] = [
                (ATTEMPT_HEADER, str(event.attempt).encode()),
                (LETTER_HEADER, event.letter.id.encode()),
            ]
            self._producer.produce(
                self._source,
                event.value,
                event.key,
                partition=event.origin.partition,
                headers=headers,
                on_delivery=partial(delivered, index),
            )
        deadline_s = time.monotonic() + DEADLINE_S
        # Not flush(): it would go on calling back after a fatal error has been raised.
        while len(found) < len(batch):
            self._producer.poll(0.1)
            if time.monotonic() > deadline_s:
                raise BrokerError(
                    f"Kafka did not take all events for topic {self._source!r} within "
                    f"{DEADLINE_S:.0f} s; {self.so_far()}."
                )
        reports = [found[index] for index in range(len(batch))]
        for error, _ in reports:
            if error is not None and error.code() != KafkaError.MSG_SIZE_TOO_LARGE:
                # Only the commit, which cannot succeed any more, says what became of the whole.
                self._producer.commit_transaction(DEADLINE_S)
                raise KafkaException(error)
        return reports

    def _send_marks(self, batch: list[Event], reports: list[_Report]) -> list[Replay]:
        now = format_time_us(time.time_ns() // 1000)
        replays = []
        for event, report in zip(batch, reports, strict=True):
            published = Origin(self._source, event.origin.partition, report.offset)
            replays.append(Replay(event.letter.id, event.origin, published, event.attempt, now))
            key = record_id(published.topic, published.partition, published.offset)
            self._producer.produce(self._marks, encode(replays[-1]), key)
        # The commit sends what is still queued, and fails when any of it does.
        return replays

    def _abort(self) -> None:
        with suppress(KafkaException):  # it may be fenced; what is not committed times out
            self._producer.abort_transaction(DEADLINE_S)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except KafkaException as error:
            if error.args[0].code() in PRODUCER_REPLACED or self._is_fenced():
                raise FencedError(
                    "another replay has begun and goes on; this one ended after "
                    f"{self.published:,} events, and none of them is published again."
                ) from error
            raise BrokerError(f"Kafka refused: {describe(error)}; {self.so_far()}.") from error


class _Report(NamedTuple):
    """What became of one event that was sent."""

    error: KafkaError | None
    offset: int


def _is_abortable(error: BaseException) -> bool:
    """Whether a transaction failed for sure, but the next one may succeed."""
    return isinstance(error, KafkaException) and error.args[0].txn_requires_abort()


def _batches(events: Iterator[Event], size: int) -> Iterator[list[Event]]:
    """Lists of at most ``size`` events, and not much more than ``MAX_BATCH_BYTES``."""
    batch: list[Event] = []
    held_bytes = 0
    for event in events:
        batch.append(event)
        held_bytes += len(event.value or b"")
        if len(batch) >= size or held_bytes >= MAX_BATCH_BYTES:
            yield batch
            batch, held_bytes = [], 0
    if batch:
        yield batch
