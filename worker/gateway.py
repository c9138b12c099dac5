"""A gateway for simulated machines: when their events are due, and publishing them.

The simulator knows neither clock nor broker; this module gives it both, for the commands
``simulate`` and ``demo``.
"""

from __future__ import annotations

import time
from typing import Any

from confluent_kafka import Producer

from worker.core.channels import US_PER_S
from worker.core.errors import BrokerError, TopicError
from worker.kafka_config import connect, create_client
from worker.settings import Settings

TICK_S = 0.1
"""How often due events are sent."""
SEND_S = 30.0
CONNECT_S = 10.0


def now_us() -> int:
    """The clock, in epoch microseconds."""
    return time.time_ns() // 1000


def start_us(clock_us: int, speed: float, duration_us: int | None, history_us: int) -> int:
    """Where simulated time begins so that it never overtakes the clock.

    Args:
        clock_us: what the clock says now.
        speed: simulated time per time.
        duration_us: it has caught up at the end of this time.
        history_us: how far back it begins without a duration.
    """
    if speed == 1.0:
        return clock_us
    if duration_us is None:
        return clock_us - history_us
    return clock_us - round((speed - 1.0) * duration_us)


class Pace:
    """Simulated time against time: ``speed`` times as fast until it has caught up.

    Args:
        begin_us: simulated time at which it begins, now.
        longest_step_us: steps are no longer, so that memory stays bounded where Kafka is
            slower than the machines.
    """

    def __init__(self, begin_us: int, speed: float, longest_step_us: int | None = None) -> None:
        self._begin_us = begin_us
        self._speed = speed
        self._longest_us = longest_step_us or round(speed * US_PER_S)
        self._begun_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Time since it began."""
        return time.monotonic() - self._begun_s

    def step(self, done_us: int) -> tuple[int, bool]:
        """The end of the step that begins at ``done_us``, and whether all that is due is in it."""
        due_us = min(self._begin_us + round(self.elapsed_s * 1e6 * self._speed), now_us())
        end_us = max(min(due_us, done_us + self._longest_us), done_us)
        return end_us, end_us >= due_us


class KafkaSink:
    """Publishes with the machine_id as key, partitioned as Kafka's own clients do.

    Raises:
        BrokerError: no broker answers.
        TopicError: the input topic does not exist.
    """

    def __init__(self, settings: Settings) -> None:
        self._brokers = settings.kafka.brokers
        self._topic = settings.topics.sensor_events
        _, metadata = connect(settings.kafka, CONNECT_S)
        if self._topic not in metadata.topics:
            raise TopicError(
                f"topic {self._topic!r} does not exist at {self._brokers}; create it with: "
                "driftdetector topics apply."
            )
        tuning = {
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "linger.ms": 20,
            "compression.type": "lz4",
            "message.timeout.ms": int(SEND_S * 1000),
            "delivery.report.only.error": True,
        }
        self._producer = create_client(Producer, settings.kafka, tuning)
        self._failure: str | None = None

    def send(self, events: list[tuple[bytes, bytes]]) -> None:
        """Queue the events; raises BrokerError when Kafka takes none for half a minute."""
        for key, value in events:
            while True:
                try:
                    self._producer.produce(self._topic, value, key, on_delivery=self._delivered)
                    break
                except BufferError:
                    self._producer.poll(TICK_S)
                    self._check()
        self._producer.poll(0)
        self._check()

    def close(self) -> None:
        """Wait until every event is acknowledged; raises BrokerError if one is not."""
        left = self._producer.flush(SEND_S + 5.0)
        self._check()
        if left:
            raise BrokerError(f"{left} events were not taken by {self._brokers} in {SEND_S:g} s.")

    def _delivered(self, error: Any, _: Any) -> None:
        if error is not None and self._failure is None:
            self._failure = error.str()

    def _check(self) -> None:
        if self._failure is not None:
            raise BrokerError(
                f"Kafka at {self._brokers} did not take events for topic {self._topic!r}: "
                f"{self._failure}; see whether the broker is running and the topic writable."
            )
