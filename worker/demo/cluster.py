"""Where a demo runs: a broker embedded in this process or a real one, and its own topics."""

from __future__ import annotations

import time

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import ClusterMetadata  # type: ignore[attr-defined]

from worker import topics
from worker.core.errors import BrokerError, TopicError
from worker.kafka_config import connect, describe, kafka_logger
from worker.settings import KafkaSettings, Settings, TopicSettings

CONNECT_S = 10.0
TOPICS_S = 30.0


class EmbeddedBroker:
    """librdkafka's mock cluster: one broker in this process, while this object lives.

    It keeps about 5 MB of each partition, makes 4 partitions a topic, and takes
    transactions without keeping what they promise, so nothing on it is exactly once.

    Attributes:
        address: ``HOST:PORT``.

    Raises:
        BrokerError: it does not start.
    """

    def __init__(self) -> None:
        try:
            self._host = Producer({"test.mock.num.brokers": 1, "logger": kafka_logger()})
            (broker,) = self._host.list_topics(timeout=CONNECT_S).brokers.values()
        except KafkaException as error:
            raise BrokerError(
                f"the embedded broker does not start: {describe(error)}; name a real one with "
                "--broker HOST:PORT."
            ) from error
        self.address = f"{broker.host}:{broker.port}"

    def prepare(self, settings: Settings) -> tuple[Settings, ClusterMetadata]:
        """The settings for a worker on this broker, its topics created."""
        own = settings.model_copy(
            update={
                "kafka": KafkaSettings(brokers=self.address),
                "topics": TopicSettings(),
                "worker": settings.worker.model_copy(
                    update={
                        "app_id": "demo",
                        "instance_id": "0",
                        "processing_guarantee": "at_least_once",
                    }
                ),
            }
        )
        for name in _topic_names(own):
            self._host.list_topics(name, timeout=CONNECT_S)  # it makes what it is asked about
        _, metadata = connect(own.kafka, CONNECT_S)
        return own, metadata


def prepare_real(settings: Settings, run_name: str) -> tuple[Settings, ClusterMetadata]:
    """The settings for a worker on a real Kafka, with new topics of its own.

    Args:
        run_name: consumer group, and beginning of every topic's name.

    Raises:
        BrokerError: no broker answers.
        TopicError: the cluster refuses a topic, or does not make it ready in time.
    """
    defaults = TopicSettings()
    own = settings.model_copy(
        update={
            "topics": TopicSettings(**{key: f"{run_name}-{name}" for key, name in defaults}),
            "worker": settings.worker.model_copy(update={"app_id": run_name, "instance_id": "0"}),
        }
    )
    admin, metadata = connect(own.kafka, CONNECT_S)
    planned = topics.plan(own, topics.load_declarations(), metadata)
    topics.create(admin, planned, TOPICS_S)
    deadline_s = time.monotonic() + TOPICS_S
    while True:
        metadata = admin.list_topics(timeout=CONNECT_S)
        waiting = [name for name in _topic_names(own) if not _has_leaders(metadata, name)]
        if not waiting:
            return own, metadata
        if time.monotonic() > deadline_s:
            raise TopicError(
                f"topic {waiting[0]!r} was created but has no leader after {TOPICS_S:g} s; look "
                "at the brokers' logs."
            )
        time.sleep(0.1)


def _topic_names(settings: Settings) -> list[str]:
    return [*(name for _, name in settings.topics), *settings.internal_topics.values()]


def _has_leaders(metadata: ClusterMetadata, name: str) -> bool:
    topic = metadata.topics.get(name)
    return topic is not None and all(p.leader >= 0 for p in topic.partitions.values())
