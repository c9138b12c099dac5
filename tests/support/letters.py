"""Letters on a real Kafka without a worker: written as the worker writes them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field

import msgspec
from confluent_kafka.admin import AdminClient

from load.local_kafka import CHECKOUT
from load.worker_process import create_topics
from tests.support.kafka import (
    QUIET,
    KafkaRecord,
    NewRecord,
    produce,
    read_topic,
    unique,
    wait_until,
)
from worker.cli.main import run
from worker.core.messages import (
    DeadLetterReason,
    Origin,
    Replay,
    dead_letter,
    encode,
    late_event,
)
from worker.letters.replay import ATTEMPT_HEADER, LETTER_HEADER

STREAMS = ("sensor_events", "anomalies", "late_events", "dead_letters", "replays")
EVENT = b'{"machine_id": "m-1", "timestamp": "2026-03-02T06:15:30Z", "vibration": true}'


@dataclass
class Desk:
    """The topics of one test, and the command line that is pointed at them."""

    settings: dict[str, str]
    _letters: Counter[tuple[str, int]] = field(default_factory=Counter)

    @property
    def brokers(self) -> str:
        return self.settings["kafka.brokers"]

    def topic(self, stream: str) -> str:
        return self.settings[f"topics.{stream}"]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "DRIFTDETECTOR_" + key.upper().replace(".", "__"): value
            for key, value in self.settings.items()
        }

    def write(self, stream: str, records: list[NewRecord]) -> None:
        produce(self.brokers, self.topic(stream), records)

    def refuse(
        self,
        values: list[bytes | None],
        reason: DeadLetterReason = "invalid-field",
        key: bytes | None = b"m-1",
        partition: int = 0,
    ) -> list[str]:
        """Publish events and their dead letters; returns the ids of these.

        Only for partitions to which the test has published nothing else.
        """
        source = self.topic("sensor_events")
        self.write("sensor_events", [NewRecord(value, key, partition) for value in values])
        first = self._letters["sensor_events", partition]
        self._letters["sensor_events", partition] += len(values)
        letters = [
            encode(dead_letter(reason, "why", Origin(source, partition, first + i), 5, key, value))
            for i, value in enumerate(values)
        ]
        return self.letters("dead_letters", letters, key, partition)

    def delay(self, values: list[bytes], partition: int = 0) -> list[str]:
        """Publish late events; returns their ids."""
        source = self.topic("sensor_events")
        self.write("sensor_events", [NewRecord(value, b"m-1", partition) for value in values])
        first = self._letters["sensor_events", partition]
        self._letters["sensor_events", partition] += len(values)
        letters = [
            encode(
                late_event(
                    "m-1", 10**15, 10**15 + 750 * 10**6, Origin(source, partition, first + i), value
                )
            )
            for i, value in enumerate(values)
        ]
        return self.letters("late_events", letters, b"m-1", partition)

    def letters(
        self, stream: str, values: list[bytes | None], key: bytes | None = None, partition: int = 0
    ) -> list[str]:
        """Write records to a topic of letters; returns their ids."""
        self.write(stream, [NewRecord(value, key, partition) for value in values])
        first = self._letters[stream, partition]
        self._letters[stream, partition] += len(values)
        return [f"{self.topic(stream)}-{partition}-{first + i}" for i in range(len(values))]

    def published(self) -> list[KafkaRecord]:
        """Committed records of the input that a replay published."""
        records = read_topic(self.brokers, self.topic("sensor_events"))
        return [record for record in records if LETTER_HEADER in dict(record.headers)]

    def replayed(self) -> Counter[str]:
        """How often each letter was published."""
        return Counter(str(dict(r.headers)[LETTER_HEADER], "ascii") for r in self.published())

    def attempts(self) -> list[int]:
        return [int(dict(r.headers)[ATTEMPT_HEADER] or b"") for r in self.published()]

    def marks(self) -> list[Replay]:
        records = read_topic(self.brokers, self.topic("replays"))
        return [msgspec.json.decode(record.value or b"", type=Replay) for record in records]

    def dead_letters(self) -> list[str]:
        """Ids of all dead letters, of each partition in order."""
        records = read_topic(self.brokers, self.topic("dead_letters"))
        return [f"{r.topic}-{r.partition}-{r.offset}" for r in records]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A command as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "worker", *arguments],
            cwd=CHECKOUT,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def make_desk(brokers: str) -> Desk:
    """Create topics that no other test has."""
    settings = {
        "kafka.brokers": brokers,
        "worker.app_id": unique("app"),
        **{f"topics.{stream}": unique(stream.replace("_", "-")) for stream in STREAMS},
    }
    create_topics(settings)
    admin = AdminClient({"bootstrap.servers": brokers}, logger=QUIET)
    topics = {settings[f"topics.{stream}"] for stream in STREAMS}
    wait_until(lambda: topics <= admin.list_topics(timeout=10).topics.keys(), "topics are known")
    return Desk(settings)


def replay(*arguments: str) -> int:
    """Replay dead letters without asking; returns the exit status."""
    return run(["dead-letters", "replay", "--yes", "--rate", "100000", *arguments])
