"""Rebuilding machine state from the input topic, for when the changelog cannot be used.

An offline run, while no worker of the application is up. Each partition's events are
applied again, from the earliest that Kafka still has to the group's committed offset,
without publishing anything; what comes out replaces the partition's changelog in one
transaction. Offsets stay as they are, so the next worker goes on where the last one ended.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from worker.core.errors import BrokerError, FencedError, TopicError
from worker.core.events import Chunk
from worker.core.messages import format_time_us
from worker.core.pipeline import Pipeline
from worker.core.state import PartitionState
from worker.kafka_config import PRODUCER_REPLACED, create_tuned, describe, is_passing, retried
from worker.settings import Settings
from worker.transport.delivery import chunks_by_partition
from worker.transport.restore import ask_ends

log = logging.getLogger(__name__)

BATCH = 10_000
BROKER_DEADLINE_S = 60.0
STALLED_AFTER_S = 90.0
ABORT_DEADLINE_S = 5.0
TRANSACTION_TIMEOUT_MS = 300_000
"""Enough to write millions of rows; brokers allow 15 minutes unless configured otherwise."""
FIRST_EVENTS = 100
"""Their median says from when on events are there; single ones may be late."""

Stage = Literal["reading", "writing"]
OnProgress = Callable[[int, Stage, int, int], None]
"""Called with partition, stage, how much is done and of how much."""


@dataclass(frozen=True)
class Rebuilt:
    """What became of one partition.

    Attributes:
        events: records of the input topic applied again.
        rows_removed: keys that the changelog held and the rebuilt state does not.
        first_time_us: about the earliest event time; None without events.
        warning: what is missing because retention has deleted it; None: nothing.
    """

    partition: int
    events: int
    machines: int
    rows_written: int
    rows_removed: int
    first_time_us: int | None
    warning: str | None


@dataclass(frozen=True)
class Clients:
    """What a rebuild talks to the cluster with.

    Attributes:
        consumer: reads committed records and committed offsets of the workers' group,
            tells where partitions end, and is never a member.
        producer: transactional, with an id that all rebuilds of the application share.
    """

    admin: AdminClient
    consumer: Consumer
    producer: Producer

    @classmethod
    def create(cls, settings: Settings, admin: AdminClient) -> Self:
        """Make the clients; they connect in the background."""
        consumer = create_tuned(
            partial(Consumer),
            settings.kafka,
            {
                "group.id": settings.worker.app_id,
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 10,
                "queued.max.messages.kbytes": 65_536,
                "fetch.queue.backoff.ms": 10,
                "check.crcs": True,
            },
        )
        producer = create_tuned(
            partial(Producer),
            settings.kafka,
            {
                "transactional.id": f"{settings.worker.app_id}-rebuild",
                "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                "linger.ms": 5,
                "compression.type": "lz4",
                "delivery.report.only.error": True,
                "queue.buffering.max.messages": 500_000,
            },
        )
        return cls(admin, consumer, producer)


@dataclass
class _Replay:
    """The events applied so far."""

    state: PartitionState
    begin: int
    events: int = 0
    first_time_us: int | None = None
    newest_time_us: int = -1


class Rebuild:
    """One run over partitions of the input topic.

    Args:
        group: the workers' consumer group.
        source, changelog: topics with the same number of partitions.
        pipeline: applies events; what it returns is not published.
        new_state: a fresh state that begins at an offset.
        on_progress: hears of every batch.
    """

    def __init__(
        self,
        clients: Clients,
        group: str,
        source: str,
        changelog: str,
        pipeline: Pipeline,
        new_state: Callable[[int], PartitionState],
        on_progress: OnProgress,
    ) -> None:
        self._admin = clients.admin
        self._consumer = clients.consumer
        self._producer = clients.producer
        self._group = group
        self._source = source
        self._changelog = changelog
        self._pipeline = pipeline
        self._new_state = new_state
        self._on_progress = on_progress

    def run(self, partitions: int) -> Iterator[Rebuilt]:
        """Rebuild partitions 0 to ``partitions - 1``, and yield each when it is committed.

        Raises:
            FencedError: a worker is up, or another rebuild was started.
            BrokerError: the brokers do not answer, or refuse something.
            TopicError: the input topic was created anew since it was read.
        """
        try:
            with _explained():
                self._refuse_members()
                # Ends what an earlier rebuild left open, and fences it if it still runs.
                retried(
                    lambda: self._producer.init_transactions(BROKER_DEADLINE_S), BROKER_DEADLINE_S
                )
            for partition in range(partitions):
                with _explained():
                    yield self._rebuild(partition)
        finally:
            self._consumer.close()

    def _rebuild(self, partition: int) -> Rebuilt:
        # To the end of the changelog first: that waits until a killed worker's transaction is
        # decided, and with it the committed offset.
        stored = self._stored_keys(partition)
        committed = self._committed(partition)
        if committed is None:
            rows: list[tuple[bytes, bytes | None]] = []
            replay = _Replay(self._new_state(0), 0)
        else:
            replay = self._replay(partition, committed)
            replay.state.save_again(superseded=())
            rows = list(replay.state.take_changes())
        kept = {key for key, value in rows if value is not None}
        removed = sorted(stored - kept)
        rows = [row for row in rows if row[1] is not None] + [(key, None) for key in removed]
        self._replace(partition, rows)
        return Rebuilt(
            partition=partition,
            events=replay.events,
            machines=len(replay.state),
            rows_written=len(kept),
            rows_removed=len(removed),
            first_time_us=replay.first_time_us,
            warning=self._what_is_missing(partition, replay),
        )

    def _stored_keys(self, partition: int) -> set[bytes]:
        """Keys that have a value in the changelog."""
        keys: set[bytes] = set()
        begin, _ = self._watermarks(self._changelog, partition)
        end = ask_ends(self._admin, self._changelog, [partition])[partition]
        for batch in self._read(self._changelog, partition, begin, end):
            for message in batch:
                key: Any = message.key()
                (keys.discard if message.value() is None else keys.add)(key)
        return keys

    def _committed(self, partition: int) -> int | None:
        (committed,) = retried(
            lambda: self._consumer.committed(
                [TopicPartition(self._source, partition)], timeout=BROKER_DEADLINE_S
            ),
            BROKER_DEADLINE_S,
        )
        if committed.error is not None:
            raise KafkaException(committed.error)
        return committed.offset if committed.offset >= 0 else None

    def _watermarks(self, topic: str, partition: int) -> tuple[int, int]:
        """The earliest offset, and the end of what is committed."""
        watermarks: tuple[int, int] = retried(
            lambda: self._consumer.get_watermark_offsets(
                TopicPartition(topic, partition), timeout=BROKER_DEADLINE_S
            ),
            BROKER_DEADLINE_S,
        )
        return watermarks

    def _replay(self, partition: int, committed: int) -> _Replay:
        begin, end = self._watermarks(self._source, partition)
        if committed > end:
            raise TopicError(
                f"topic {self._source!r}: partition {partition} ends at {end}, but {committed} "
                "was read before: it was deleted and created again; give the workers another "
                "worker.app_id."
            )
        replay = _Replay(self._new_state(begin), begin)
        for batch in self._read(self._source, partition, begin, committed):
            records = [message for message in batch if _number(message.offset()) < committed]
            for chunk in chunks_by_partition(self._source, records):
                self._apply(replay, chunk)
                done = int(chunk.offsets[-1]) + 1 - begin
                self._on_progress(partition, "reading", done, committed - begin)
        return replay

    def _apply(self, replay: _Replay, chunk: Chunk) -> None:
        if replay.first_time_us is None:
            readings, _ = self._pipeline.decoder.decode(chunk)
            if len(readings.rows):
                replay.first_time_us = int(np.median(readings.times_us[:FIRST_EVENTS]))
        outputs = self._pipeline.step(replay.state, chunk)
        replay.state.take_changes()  # lets go of the machines that were forgotten
        replay.events += outputs.events
        replay.newest_time_us = max(replay.newest_time_us, outputs.newest_time_us)

    def _read(self, topic: str, partition: int, begin: int, end: int) -> Iterator[list[Message]]:
        """The records of a partition in batches; the last may reach beyond ``end``."""
        self._consumer.assign([TopicPartition(topic, partition, begin)])
        position = begin
        moved_s = time.monotonic()
        while position < end:
            messages = self._consumer.consume(BATCH, 0.1)
            if messages:
                moved_s = time.monotonic()
            elif time.monotonic() - moved_s > STALLED_AFTER_S:
                raise BrokerError(
                    f"topic {topic!r}, partition {partition}: nothing came after offset "
                    f"{position} for {STALLED_AFTER_S:.0f} s; check the cluster for unavailable "
                    "partitions or a hanging transaction, then run this again."
                )
            records = []
            for message in messages:
                error = message.error()
                if error is None:
                    records.append(message)
                elif error.code() != KafkaError._PARTITION_EOF:
                    if not is_passing(error):
                        raise KafkaException(error)
                    continue
                after = 0 if error else 1  # the end is already the position after all records
                position = max(position, _number(message.offset()) + after)
            if records:
                yield records

    def _replace(self, partition: int, rows: list[tuple[bytes, bytes | None]]) -> None:
        """Write rows and deletion marks in one transaction."""
        if not rows:
            return
        self._producer.begin_transaction()
        try:
            for number, (key, value) in enumerate(rows):
                self._produce(partition, key, value)
                if number % BATCH == 0:
                    self._on_progress(partition, "writing", number, len(rows))
            self._refuse_members()  # one that came meanwhile has read the old rows
            retried(lambda: self._producer.commit_transaction(BROKER_DEADLINE_S), BROKER_DEADLINE_S)
        except BaseException:
            # Left open, it would hold back the next worker until it times out.
            with suppress(KafkaException):
                self._producer.abort_transaction(ABORT_DEADLINE_S)
            raise
        self._on_progress(partition, "writing", len(rows), len(rows))

    def _produce(self, partition: int, key: bytes, value: bytes | None) -> None:
        deadline_s = time.monotonic() + BROKER_DEADLINE_S
        while True:
            try:
                self._producer.produce(self._changelog, value, key, partition=partition)
            except BufferError:
                if time.monotonic() > deadline_s:
                    raise BrokerError(
                        f"Kafka took no rows for {BROKER_DEADLINE_S:.0f} s; run this again when "
                        "the cluster is well."
                    ) from None
                self._producer.poll(0.1)
            except KafkaException as error:
                if error.args[0].code() == KafkaError._FATAL:
                    # Something ended this producer; only the commit, which cannot succeed any
                    # more, says what.
                    self._producer.commit_transaction(ABORT_DEADLINE_S)
                raise
            else:
                return

    def _refuse_members(self) -> None:
        def ask() -> Any:
            futures = self._admin.describe_consumer_groups(
                [self._group], request_timeout=BROKER_DEADLINE_S
            )
            return futures[self._group].result(BROKER_DEADLINE_S)

        members = [
            m.group_instance_id or m.client_id for m in retried(ask, BROKER_DEADLINE_S).members
        ]
        if members:
            raise FencedError(
                f"state is not rebuilt while workers are up: {', '.join(sorted(members))} still "
                f"in consumer group {self._group!r}; stop them (one that was killed stays a member "
                "until its session ends), then run this again."
            )

    def _what_is_missing(self, partition: int, replay: _Replay) -> str | None:
        spec = self._pipeline.spec
        window_us = spec.panes * spec.pane_us
        if replay.begin == 0:
            return None
        if replay.first_time_us is None:
            return (
                f"partition {partition}: retention has deleted all events that had been read; "
                "its machines start with empty windows."
            )
        if replay.first_time_us <= replay.newest_time_us - window_us - spec.grace_us:
            return None
        return (
            f"partition {partition}: retention has deleted the events before "
            f"{format_time_us(replay.first_time_us)}, so the windows of its {len(replay.state)} "
            "machines lack what came earlier; they are whole again for events from "
            f"{format_time_us(replay.first_time_us + window_us)} on."
        )


def _number(value: int | None) -> int:
    assert value is not None  # consumed messages have an offset
    return value


@contextmanager
def _explained() -> Iterator[None]:
    """Turn librdkafka's exceptions into what they mean for the person who reads them."""
    try:
        yield
    except KafkaException as error:
        if error.args[0].code() in PRODUCER_REPLACED:
            raise FencedError(
                "another rebuild of this worker.app_id was started and takes this one's place; "
                "wait for that one to end."
            ) from error
        raise BrokerError(f"rebuilding state: {describe(error)}; run this again.") from error
