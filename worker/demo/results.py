"""What the worker publishes, read back from its output topics as any consumer would."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, insort
from datetime import UTC, datetime, timedelta

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import ClusterMetadata  # type: ignore[attr-defined]

from worker.core.errors import BrokerError
from worker.core.messages import Anomaly, Episode
from worker.kafka_config import create_client, describe
from worker.settings import Settings
from worker.simulator import OpenedEpisode

BATCH = 1_000
POLL_S = 0.1
FINISH_S = 30.0

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Results:
    """Reads anomalies, episodes, late events and dead letters, with read_committed, to their end.

    Attributes:
        told: number of messages about episodes.
        late: number of late events.
        dead: number of dead letters.
    """

    def __init__(self, settings: Settings, metadata: ClusterMetadata) -> None:
        names = settings.topics
        self._anomalies_topic, self._episodes_topic = names.anomalies, names.anomaly_episodes
        self._late_topic = names.late_events
        self._brokers = settings.kafka.brokers
        self._positions = {
            (topic, partition): 0
            for topic in (
                names.anomalies,
                names.anomaly_episodes,
                names.late_events,
                names.dead_letters,
            )
            for partition in metadata.topics[topic].partitions
        }
        self._consumer: Consumer = create_client(
            Consumer,
            settings.kafka,
            {
                "group.id": f"{settings.worker.app_id}-results",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 50,
            },
        )
        self.told = 0
        self.late = 0
        self.dead = 0
        self._times_us: dict[str, list[int]] = {}
        self._episodes: dict[str, dict[str, Episode]] = {}
        self._lock = threading.Lock()
        self._finishing = threading.Event()
        self._abandoned = threading.Event()
        self._decode_anomaly = msgspec.json.Decoder(Anomaly).decode
        self._decode_episode = msgspec.json.Decoder(Episode).decode

    def finish(self) -> None:
        """End :meth:`run` when all that is in the topics now is read; the worker has stopped."""
        self._finishing.set()

    def abandon(self) -> None:
        """End :meth:`run` without reading on."""
        self._abandoned.set()

    @property
    def anomalies(self) -> int:
        """Number of anomalies."""
        with self._lock:
            return sum(map(len, self._times_us.values()))

    def opened(self) -> list[OpenedEpisode]:
        """All episodes, with the channels that they name now."""
        with self._lock:
            episodes = [e for of_machine in self._episodes.values() for e in of_machine.values()]
        return [
            OpenedEpisode(
                episode.machine_id,
                to_time_us(episode.opened_at),
                tuple(cause.channel for cause in episode.causes),
            )
            for episode in episodes
        ]

    def counts_since(self, since_us: int) -> dict[str, int]:
        """Anomalies by machine, of events since a time; machines without any are left out."""
        with self._lock:
            counts = {m: len(t) - bisect_left(t, since_us) for m, t in self._times_us.items()}
        return {machine: count for machine, count in counts.items() if count}

    def opened_since(self, machine: str, since_us: int) -> int | None:
        """When the machine's first episode since a time was opened; None: there is none."""
        with self._lock:
            episodes = list(self._episodes.get(machine, {}).values())
        times_us = [to_time_us(episode.opened_at) for episode in episodes]
        return min((time_us for time_us in times_us if time_us >= since_us), default=None)

    def newest(self) -> list[Episode]:
        """The newest episode of each machine; those that are open first, each newest first."""
        with self._lock:
            # Episodes of a machine come in order.
            newest = [next(reversed(episodes.values())) for episodes in self._episodes.values()]
        newest.sort(key=lambda episode: episode.opened_at, reverse=True)
        return sorted(newest, key=lambda episode: episode.status == "closed")

    def run(self) -> None:
        """Read, on the calling thread, until :meth:`finish` or :meth:`abandon`.

        Raises:
            BrokerError: the topics cannot be read, or not to their end.
        """
        try:
            self._consumer.assign([TopicPartition(topic, p, 0) for topic, p in self._positions])
            while not (self._finishing.is_set() or self._abandoned.is_set()):
                self._read()
            if not self._abandoned.is_set():
                self._read_to_end()
        except KafkaException as error:
            raise BrokerError(
                f"reading the results from {self._brokers}: {describe(error)}."
            ) from error
        finally:
            self._consumer.close()

    def _read_to_end(self) -> None:
        ends = {
            key: self._consumer.get_watermark_offsets(TopicPartition(*key), timeout=FINISH_S)[1]
            for key in self._positions
        }
        deadline_s = time.monotonic() + FINISH_S
        while any(self._positions[key] < end for key, end in ends.items()):
            if time.monotonic() > deadline_s:
                raise BrokerError(
                    f"the results at {self._brokers} could not be read within {FINISH_S:g} s; look "
                    "at the broker's log."
                )
            self._read()

    def _read(self) -> None:
        messages = self._consumer.consume(BATCH, POLL_S)
        with self._lock:
            for message in messages:
                self._take(message)

    def _take(self, message: Message) -> None:
        error, offset = message.error(), message.offset()
        topic, partition = message.topic(), message.partition()
        if topic is None or partition is None or offset is None:
            raise KafkaException(error)
        position = (topic, partition)
        if error is None:
            self._positions[position] = offset + 1
            self._record(topic, message.value() or b"")
        elif error.code() == KafkaError._PARTITION_EOF:
            # Counts what no consumer sees too: the marks of transactions.
            self._positions[position] = max(self._positions[position], offset)
        elif error.fatal() or not error.retriable():
            raise KafkaException(error)

    def _record(self, topic: str, value: bytes) -> None:
        if topic == self._anomalies_topic:
            anomaly = self._decode_anomaly(value)
            time_us = to_time_us(anomaly.timestamp)
            insort(self._times_us.setdefault(anomaly.machine_id, []), time_us)
        elif topic == self._episodes_topic:
            episode = self._decode_episode(value)
            self.told += 1
            self._episodes.setdefault(episode.machine_id, {})[episode.id] = episode
        elif topic == self._late_topic:
            self.late += 1
        else:
            self.dead += 1


def to_time_us(timestamp: str) -> int:
    """Epoch microseconds of an RFC 3339 time."""
    return (datetime.fromisoformat(timestamp) - _EPOCH) // timedelta(microseconds=1)
