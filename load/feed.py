"""Continuous load: simulated events with faults, late events and garbage, at a steady rate.

Beside it, transactions that another producer aborts, as a reader of the input must skip.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from itertools import islice

from confluent_kafka import KafkaException, Producer

from load.records import QUIET, unique
from worker.core.channels import US_PER_S, ChannelSpec
from worker.simulator import FaultRates, Simulator

BATCH_S = 0.1
FLUSH_S = 120.0
ABORT_EVERY_S = 1.0
ABORTED_RECORDS = 50
Event = tuple[bytes, bytes]


def events(
    spec: ChannelSpec,
    *,
    machines: int,
    interval_s: float,
    start_us: int,
    seed: int,
    troubled: bool,
) -> Iterator[Event]:
    """Simulated events without end, as (key, value), in order of publication.

    Args:
        interval_s: event time between two events of a machine.
        troubled: with faults, late events and garbage.
    """
    share = 0.002 if troubled else 0.0
    simulator = Simulator(
        spec,
        machines=machines,
        interval_s=interval_s,
        start_us=start_us,
        seed=seed,
        faults=FaultRates(5.0, 2.0, 0.2) if troubled else FaultRates.none(),
        late_rate=share,
        garbage_rate=share,
    )
    until_us = start_us
    while True:
        until_us += int(20_000 / machines * interval_s * US_PER_S)
        yield from simulator.advance(until_us)


def make_producer(brokers: str, more: Mapping[str, str | int] | None = None) -> Producer:
    """A producer that keeps order, and outlasts a broker's restart."""
    return Producer(
        {
            "bootstrap.servers": brokers,
            "enable.idempotence": True,
            "linger.ms": 20,
            "compression.type": "lz4",
            "message.max.bytes": 12 * 1024 * 1024,
            "queue.buffering.max.messages": 1_000_000,
            "partitioner": "murmur2_random",
            "reconnect.backoff.max.ms": 500,
            **(more or {}),
        },
        logger=QUIET,
    )


def send(producer: Producer, topic: str, batch: list[Event]) -> None:
    """Queue events, waiting while the queue is full."""
    for key, value in batch:
        while True:
            try:
                producer.produce(topic, value, key)
                break
            except BufferError:
                producer.poll(0.1)
    producer.poll(0)


class Background(threading.Thread):
    """A thread that works until it is stopped; what ended it before is raised then.

    Attributes:
        stopping: set when it is to end.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.stopping = threading.Event()
        self._error: BaseException | None = None

    def work(self) -> None:
        """Do it until ``stopping`` is set."""
        raise NotImplementedError

    def run(self) -> None:
        """Work."""
        try:
            self.work()
        except Exception as error:  # noqa: BLE001 (stop() raises it again)
            self._error = error

    def stop(self) -> None:
        """Stop, and wait until it has ended.

        Raises:
            RuntimeError: it had ended before, or failed at its end.
        """
        self.stopping.set()
        self.join(2 * FLUSH_S)
        if self._error is not None or self.is_alive():
            raise RuntimeError(f"the {self.name} did not work to its end") from self._error


class Feeder(Background):
    """Publishes events at a steady rate until stopped; then all of them are in the topic.

    Attributes:
        sent: how many so far.
    """

    def __init__(self, brokers: str, topic: str, source: Iterator[Event], per_s: int) -> None:
        super().__init__("feeder")
        self.sent = 0
        self._brokers = brokers
        self._topic = topic
        self._source = source
        self._batch = max(int(per_s * BATCH_S), 1)

    def work(self) -> None:
        """Publish."""
        producer = make_producer(self._brokers)
        next_s = time.monotonic()
        while not self.stopping.is_set():
            batch = list(islice(self._source, self._batch))
            send(producer, self._topic, batch)
            self.sent += len(batch)
            next_s += BATCH_S
            self.stopping.wait(max(0.0, next_s - time.monotonic()))
        left = producer.flush(FLUSH_S)
        if left:
            raise RuntimeError(f"{left} events were not taken by Kafka within {FLUSH_S:.0f} s")


class Aborter(Background):
    """Publishes the same few events time and again, each time in a transaction that it aborts.

    Attributes:
        aborted: how many transactions so far.
    """

    def __init__(self, brokers: str, topic: str, source: Iterator[Event]) -> None:
        super().__init__("aborter")
        self.aborted = 0
        self._brokers = brokers
        self._topic = topic
        self._events = list(islice(source, ABORTED_RECORDS))

    def work(self) -> None:
        """Publish and abort."""
        while not self.stopping.is_set():
            # What a broker's end leaves open is over after two seconds.
            producer = make_producer(
                self._brokers,
                {"transactional.id": unique("aborter"), "transaction.timeout.ms": 2_000},
            )
            try:
                producer.init_transactions(10.0)
                while not self.stopping.wait(ABORT_EVERY_S):
                    producer.begin_transaction()
                    send(producer, self._topic, self._events)
                    producer.flush(2.0)
                    producer.abort_transaction(2.0)
                    self.aborted += 1
            except KafkaException:
                continue  # the broker was away: another producer goes on
