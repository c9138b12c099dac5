"""Files to Kafka: publishes a recording again, in the order and at the pace it was made.

Keys, values, headers, timestamps and partitions are those of the recording, so that also garbage
comes again. The order of each partition is kept, and partitions are merged by time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from worker.cluster import Cluster
from worker.core.errors import BrokerError, ConfigError
from worker.kafka_config import create_client, describe
from worker.recording.files import Segment, segments_of
from worker.recording.pace import Clock, Gate, Pace, shifted
from worker.recording.records import Part, Recorded, merged

SEND_S = 60.0
REPORT_EVERY_S = 0.5


class Progress(NamedTuple):
    """How far playing is.

    Attributes:
        sent: records published.
        size: records of one loop, before they are chosen.
        time_ms: timestamp of the latest, as it was recorded.
    """

    sent: int
    size: int
    time_ms: int


class Player:
    """Publishes a recorded topic to a topic.

    Args:
        cluster: where the topic is.
        target: the topic; it has to have the recording's partitions.
        gate: pauses and stops.
        on_progress: told now and then.
    """

    def __init__(
        self,
        cluster: Cluster,
        target: str,
        gate: Gate,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self._cluster, self._target, self._gate = cluster, target, gate
        self._on_progress = on_progress
        self._failed: KafkaError | None = None
        self._producer: Producer = create_client(
            Producer,
            cluster.settings.kafka,
            {
                "enable.idempotence": True,
                "linger.ms": 5,
                "compression.type": "lz4",
                "partitioner": "consistent_random",
            },
        )
        self.sent = 0
        self._latest = Progress(0, 0, 0)

    def play(self, root: Path, topic: str, part: Part, pace: Pace) -> int:
        """Publish the records of a topic; returns how many.

        Raises:
            ConfigError: the target has fewer partitions, or there is nothing to play.
            TopicError: the target does not exist.
            RecordingError: a file is damaged.
            BrokerError: Kafka does not take the records.
        """
        segments = segments_of(root, topic)
        partitions = sorted({segment.partition for segment in segments})
        if not partitions:
            raise ConfigError(f"{root} has no records of topic {topic!r}; record it first.")
        existing = self._cluster.partitions(self._target)
        if missing := [p for p in partitions if p not in existing]:
            raise ConfigError(
                f"topic {self._target!r} has {len(existing)} partitions, but the recording has "
                f"records of partition {missing[-1]}; create it with {missing[-1] + 1}."
            )
        loop, shift_ms = 0, pace.shift_ms
        while not self._gate.stopped and (pace.loops == 0 or loop < pace.loops):
            before = self.sent
            shift_ms = self._play_once(segments, part, pace.speed, shift_ms)
            if self.sent == before:
                break
            loop += 1
        self._flush()
        return self.sent

    def _play_once(
        self, segments: list[Segment], part: Part, speed: float | None, shift_ms: int | None
    ) -> int | None:
        """Play each record once; returns the shift with which the recording would go on."""
        size = sum(segment.end - segment.begin for segment in segments)
        clock = Clock(speed, self._gate)
        first_ms = last_ms = -1
        reported_s = time.monotonic()
        for record in merged(segments):
            if not part.has(record):
                continue
            if first_ms < 0:
                first_ms = record.time_ms
            if shift_ms is None:
                shift_ms = round(time.time() * 1000) - first_ms
            clock.wait_until(record.time_ms, self._serve)
            if self._gate.stopped:
                break
            self._send(record, shift_ms)
            last_ms = max(last_ms, record.time_ms)
            self._latest = Progress(self.sent, size, record.time_ms)
            now_s = time.monotonic()
            if now_s - reported_s > REPORT_EVERY_S:
                reported_s = now_s
                self._on_progress(self._latest)
        self._on_progress(self._latest)
        return None if shift_ms is None else shift_ms + last_ms - first_ms + 1

    def _send(self, record: Recorded, shift_ms: int) -> None:
        value = record.value if not shift_ms else shifted(record.value, shift_ms)
        while True:
            try:
                self._producer.produce(
                    self._target,
                    value,
                    record.key,
                    partition=record.partition,
                    timestamp=max(record.time_ms + shift_ms, 0),
                    headers=record.headers,
                    on_delivery=self._delivered,
                )
                break
            except BufferError:
                self._serve(0.1)
            except KafkaException as error:
                raise BrokerError(
                    f"topic {self._target!r} does not take a record: {describe(error)}."
                ) from error
        self.sent += 1
        if self.sent % 100 == 0:
            self._serve(0.0)

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None and self._failed is None:
            self._failed = error

    def _serve(self, timeout_s: float) -> None:
        self._producer.poll(timeout_s)
        if self._gate.paused:
            self._on_progress(self._latest)
        if self._failed is not None:
            raise BrokerError(
                f"topic {self._target!r} does not take a record: {describe(self._failed)}."
            )

    def _flush(self) -> None:
        left = self._producer.flush(SEND_S)
        self._serve(0.0)
        if left:
            raise BrokerError(
                f"topic {self._target!r} did not take {left} of {self.sent} records within "
                f"{SEND_S:.0f} s; see whether its brokers answer, and play the recording again."
            )
