"""Publishes acknowledgements of episodes."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from worker.core.errors import BrokerError
from worker.core.messages import Acknowledgement, encode
from worker.kafka_config import create_tuned, describe
from worker.settings import Settings

DELIVERED_S = 5.0


class Auditor:
    """Writes to the topic ``audit``; connects with the first acknowledgement."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, "audit")
        self._producer: Producer | None = None

    async def publish(self, acknowledgement: Acknowledgement) -> None:
        """Publish, and wait until Kafka has it.

        Raises:
            BrokerError: Kafka does not take it in time.
        """
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._publish, acknowledgement)

    def close(self) -> None:
        """Give up the connection."""
        self._thread.shutdown()

    def _publish(self, acknowledgement: Acknowledgement) -> None:
        if self._producer is None:
            defaults = {
                "enable.idempotence": True,
                "delivery.timeout.ms": int(DELIVERED_S * 1000),
                "linger.ms": 0,
            }
            self._producer = create_tuned(Producer, self._settings.kafka, defaults)
        failed: list[KafkaError] = []

        def delivered(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                failed.append(error)

        topic = self._settings.topics.audit
        try:
            self._producer.produce(
                topic,
                encode(acknowledgement),
                acknowledgement.episode_id.encode(),
                on_delivery=delivered,
            )
            left = self._producer.flush(DELIVERED_S + 1)
        except KafkaException as error:
            raise BrokerError(f"topic {topic!r}: {describe(error)}.") from error
        if failed or left:
            cause = describe(failed[0]) if failed else "no broker answers"
            raise BrokerError(f"topic {topic!r} did not take the acknowledgement: {cause}.")
