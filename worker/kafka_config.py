"""From settings to librdkafka's configuration, and clients that do not print without end.

A librdkafka client whose broker is away reports it several times a second, on
stderr unless it is given a logger. Every client of DriftDetector is configured
here, so its reports go to the logger ``driftdetector.kafka``, each at most twice a minute.
Which errors pass by themselves, and are worth another attempt, is decided here too.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its stub hides them
    AdminClient,
    ClusterMetadata,
)
from pydantic import SecretStr
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_fixed

from worker.core.errors import BrokerError, ConfigError
from worker.settings import KafkaSettings

LOGGER_NAME = "driftdetector.kafka"
REPEAT_AFTER_S = 30.0
RETRY_EVERY_S = 0.1
# What librdkafka itself repeats in most calls, but hands out in some; it marks only errors of
# transactions as retriable.
_PASSING = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TRANSPORT,
        KafkaError._WAIT_COORD,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.UNKNOWN_LEADER_EPOCH,
    }
)
PRODUCER_REPLACED = frozenset(
    {
        KafkaError._FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.PRODUCER_FENCED,
    }
)
"""Codes that tell a producer that another has taken its transactional id."""

T = TypeVar("T")
Client = TypeVar("Client")


def client_config(kafka: KafkaSettings, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The configuration of one client: brokers, the person's own settings, then ``extra``.

    Secrets are in plain text in it: never log it.
    """
    values = {
        key: value.get_secret_value() if isinstance(value, SecretStr) else value
        for key, value in kafka.client.items()
    }
    logger = kafka_logger()
    return {
        **values,
        "bootstrap.servers": kafka.brokers,
        "logger": logger,
        "error_cb": lambda error: _report(logger, error),
        **(extra or {}),
    }


def create_client(
    make: Callable[[dict[str, Any]], Client],
    kafka: KafkaSettings,
    extra: Mapping[str, Any] | None = None,
) -> Client:
    """Make a ``Consumer``, ``Producer`` or ``AdminClient``; it connects in the background.

    Raises:
        ConfigError: librdkafka refuses a setting of ``kafka.client``.
    """
    try:
        return make(client_config(kafka, extra))
    except KafkaException as error:
        raise ConfigError(
            f"kafka.client: librdkafka refuses it: {describe(error)}; correct or remove that key."
        ) from error


def create_tuned(
    make: Callable[[dict[str, Any]], Client], kafka: KafkaSettings, defaults: Mapping[str, Any]
) -> Client:
    """Like :func:`create_client`, but tuning in ``kafka.client`` wins over ``defaults``.

    What exactly-once depends on cannot be written there (see ``settings.TRANSPORT_KEYS``).
    """
    left = {key: value for key, value in defaults.items() if key not in kafka.client}
    return create_client(make, kafka, left)


def connect(kafka: KafkaSettings, timeout_s: float) -> tuple[AdminClient, ClusterMetadata]:
    """Make an admin client and fetch the cluster's metadata.

    Args:
        kafka: how to reach it.
        timeout_s: how long to keep trying; a broker that is starting gets this time.

    Raises:
        BrokerError: no broker answered in time.
        ConfigError: librdkafka refuses a setting of ``kafka.client``.
    """
    causes: list[str] = []
    report = {"error_cb": lambda error: causes.append(describe(error))}
    admin = create_client(AdminClient, kafka, report)
    try:
        return admin, admin.list_topics(timeout=timeout_s)
    except KafkaException as error:
        admin.poll(0)  # delivers what the connection threads reported
        cause = next((text for text in causes if "brokers are down" not in text), describe(error))
        raise BrokerError(
            f"kafka.brokers: no broker answers at {kafka.brokers} within {timeout_s:g} s "
            f"({cause}); start Kafka, or set DRIFTDETECTOR_KAFKA__BROKERS to where it is."
        ) from error


def is_passing(error: KafkaError) -> bool:
    """Whether an error goes away by itself: a leader moves, a broker restarts."""
    return not error.fatal() and (error.retriable() or error.code() in _PASSING)


def retried(call: Callable[[], T], deadline_s: float) -> T:
    """The result of a librdkafka call, which is repeated while its error is a passing one.

    Raises:
        KafkaException: the error is not a passing one, or has not passed in time.
    """
    result: T = Retrying(
        retry=retry_if_exception(
            lambda error: isinstance(error, KafkaException) and is_passing(error.args[0])
        ),
        wait=wait_fixed(RETRY_EVERY_S),
        stop=stop_after_delay(deadline_s),
        before_sleep=_log_retry,
        reraise=True,
    )(call)
    return result


def describe(error: KafkaException | KafkaError) -> str:
    """An error of librdkafka in its own words, without its codes."""
    inner = error.args[0] if isinstance(error, KafkaException) and error.args else error
    text = inner.str() if isinstance(inner, KafkaError) else str(inner)
    return text.rstrip(".")


def kafka_logger() -> logging.Logger:
    """The logger of all clients; silent until the program configures logging."""
    logger = logging.getLogger(LOGGER_NAME)
    if not any(isinstance(known, _RepeatFilter) for known in logger.filters):
        logger.addFilter(_RepeatFilter())
        logger.addHandler(logging.NullHandler())
    return logger


class _RepeatFilter(logging.Filter):
    """Passes a message again only after ``REPEAT_AFTER_S``, whatever its numbers are."""

    def __init__(self) -> None:
        super().__init__()
        self._passed_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        text = re.sub(r"\d+", "0", record.getMessage())
        last_s = self._passed_s.get(text)
        if last_s is not None and record.created - last_s < REPEAT_AFTER_S:
            return False
        if len(self._passed_s) > 1000:
            self._passed_s.clear()
        self._passed_s[text] = record.created
        return True


def _log_retry(attempt: RetryCallState) -> None:
    error = attempt.outcome.exception() if attempt.outcome else None
    if isinstance(error, KafkaException):
        kafka_logger().warning("%s; trying again", describe(error))


def _report(logger: logging.Logger, error: KafkaError) -> None:
    logger.log(logging.ERROR if error.fatal() else logging.WARNING, "%s", describe(error))
