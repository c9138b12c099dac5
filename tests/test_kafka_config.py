from __future__ import annotations

import logging
import time
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from pydantic import SecretStr

from load.local_kafka import LocalKafka
from tests.support.kafka import NewRecord, create_topics, produce, unique
from worker import kafka_config
from worker.core.errors import BrokerError, ConfigError
from worker.core.messages import MAX_PAYLOAD_BYTES, Origin, dead_letter, encode
from worker.kafka_config import (
    client_config,
    connect,
    create_client,
    describe,
    is_passing,
    kafka_logger,
    retried,
)
from worker.settings import KafkaSettings
from worker.topics import load_declarations

NOBODY = KafkaSettings(brokers="127.0.0.1:1")


def record(text: str, created_s: float) -> logging.LogRecord:
    made = logging.LogRecord("driftdetector.kafka", logging.WARNING, "", 0, text, None, None)
    made.created = created_s
    return made


def test_a_client_gets_the_brokers_and_the_secrets_in_plain_text() -> None:
    kafka = KafkaSettings(brokers="a:1", client={"sasl.password": SecretStr("hush"), "x": "y"})
    config = client_config(kafka, {"group.id": "g"})
    assert config["bootstrap.servers"] == "a:1"
    assert (config["sasl.password"], config["x"], config["group.id"]) == ("hush", "y", "g")


def test_what_the_program_needs_wins_over_the_persons_settings() -> None:
    kafka = KafkaSettings(client={"socket.timeout.ms": "1"})
    assert client_config(kafka, {"socket.timeout.ms": 2})["socket.timeout.ms"] == 2


def test_a_client_setting_that_librdkafka_does_not_know_is_one_sentence() -> None:
    kafka = KafkaSettings(client={"security.protokoll": "SSL"})
    with pytest.raises(ConfigError, match=r'^kafka\.client: .*"security\.protokoll".*remove'):
        create_client(Producer, kafka)


def test_an_absent_broker_is_one_sentence_with_its_cause_within_the_time() -> None:
    started_s = time.monotonic()
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:1 within 0\.5 s .*refused.*BROKERS") as e:
        connect(NOBODY, 0.5)
    assert time.monotonic() - started_s < 3
    assert "\n" not in str(e.value)


def test_an_absent_broker_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    consumer = create_client(Consumer, NOBODY, {"group.id": "g"})
    deadline_s = time.monotonic() + 1.5
    while time.monotonic() < deadline_s:
        consumer.poll(0.1)
    consumer.close()
    assert capfd.readouterr() == ("", "")


def test_a_client_reports_an_absent_broker_to_the_log_but_not_endlessly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    consumer = create_client(Consumer, KafkaSettings(brokers="localhost:2"), {"group.id": "g"})
    deadline_s = time.monotonic() + 2
    while time.monotonic() < deadline_s:
        consumer.poll(0.1)
    consumer.close()
    texts = [r.getMessage() for r in caplog.records if r.name == kafka_config.LOGGER_NAME]
    assert any("localhost" in text for text in texts)
    assert len(texts) <= 6


def test_a_repeated_message_passes_again_after_half_a_minute() -> None:
    repeats = kafka_config._RepeatFilter()
    assert repeats.filter(record("3 brokers are down", 0.0))
    assert not repeats.filter(record("2 brokers are down", 29.0))
    assert repeats.filter(record("another message", 29.0))
    assert repeats.filter(record("1 brokers are down", 30.0))


def test_the_memory_of_messages_is_bounded() -> None:
    repeats = kafka_config._RepeatFilter()
    for i in range(3000):
        repeats.filter(record("x" * i, 0.0))
    assert len(repeats._passed_s) <= 1001


def test_the_logger_is_set_up_once() -> None:
    assert len(kafka_logger().handlers) == len(kafka_logger().handlers)


def test_errors_are_described_without_codes() -> None:
    error = KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down.")
    assert describe(error) == describe(KafkaException(error)) == "1/1 brokers are down"


def test_a_dead_letter_with_the_longest_key_can_be_sent(kafka: LocalKafka) -> None:
    declared = load_declarations()
    topics = {name: unique(name) for name in ("sensor-events", "dead-letters")}
    for name, topic in topics.items():
        create_topics(kafka.bootstrap_servers, topic, config=declared[name].config)
    key = b"k" * 1_048_000
    produce(kafka.bootstrap_servers, topics["sensor-events"], [NewRecord(b"{}", key)])
    letter = dead_letter("key-mismatch", "x", Origin("t", 0, 0), 0, key, b"{" * 65_536)
    producer = create_client(Producer, KafkaSettings(brokers=kafka.bootstrap_servers))
    errors: list[KafkaError | None] = []
    producer.produce(
        topics["dead-letters"],
        encode(letter),
        key[:MAX_PAYLOAD_BYTES],
        on_delivery=lambda e, _: errors.append(e),
    )
    assert producer.flush(20) == 0
    assert errors == [None]


def test_a_present_broker_tells_its_topics(kafka: LocalKafka) -> None:
    _, metadata = connect(KafkaSettings(brokers=kafka.bootstrap_servers), 10.0)
    assert len(metadata.brokers) == 1


def failing(*codes: int) -> Callable[[], str]:
    """A call that fails with each code in turn, then works."""
    left = iter(codes)

    def call() -> str:
        for code in left:
            raise KafkaException(KafkaError(code))
        return "done"

    return call


def test_a_call_is_repeated_while_leaders_and_coordinators_move() -> None:
    call = failing(KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.NOT_COORDINATOR)
    assert retried(call, 10.0) == "done"


def test_an_error_that_stays_is_raised_at_once_and_a_passing_one_after_the_deadline() -> None:
    with pytest.raises(KafkaException) as refused:
        retried(failing(KafkaError.TOPIC_AUTHORIZATION_FAILED), 10.0)
    assert refused.value.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
    with pytest.raises(KafkaException) as late:
        retried(failing(*[KafkaError.NOT_COORDINATOR] * 100), 0.3)
    assert late.value.args[0].code() == KafkaError.NOT_COORDINATOR


def test_a_fatal_error_never_counts_as_passing() -> None:
    assert is_passing(KafkaError(KafkaError.TOPIC_EXCEPTION, "retry", False, True))
    assert not is_passing(KafkaError(KafkaError.NOT_COORDINATOR, "gone", True, True))
