"""Fixtures and reporting for tests that need a real Apache Kafka or a real Redis."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from load.local_kafka import LocalKafka, LocalKafkaMissingError, find_java, find_version
from tests.support.online import RedisServer

RAN_ON_KAFKA = pytest.StashKey["KafkaCount"]()
MISSING = pytest.StashKey[str | None]()


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """One Apache Kafka for the whole session; every test takes topics and groups of its own."""
    with LocalKafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own, which it may kill."""
    if shutil.which("redis-server") is None:
        missing = "redis-server is not installed: apt-get install redis-server"
        if os.environ.get("CI") == "true":
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    server = RedisServer(tmp_path)
    try:
        yield server
    finally:
        server.kill()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RAN_ON_KAFKA] = KafkaCount()
    config.pluginmanager.register(config.stash[RAN_ON_KAFKA])
    config.stash[MISSING] = _what_is_missing()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "kafka" in getattr(item, "fixturenames", ()):
            item.add_marker("kafka")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    missing = item.config.stash[MISSING]
    if missing is None or item.get_closest_marker("kafka") is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    if item.get_closest_marker("kafka") is not None:
        item.user_properties.append(("ran on", "kafka"))


class KafkaCount:
    """Counts in the process that reports, wherever the tests ran."""

    def __init__(self) -> None:
        self.tests = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Look at each finished test."""
        if report.when == "call" and ("ran on", "kafka") in report.user_properties:
            self.tests += 1


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    missing = config.stash[MISSING]
    count = config.stash[RAN_ON_KAFKA].tests
    if missing is None:
        tests = "1 test" if count == 1 else f"{count} tests"
        terminalreporter.write_line(f"{tests} ran against Apache Kafka {find_version()}")
    else:
        terminalreporter.write_line(f"No test ran against Apache Kafka: {missing}")


def _what_is_missing() -> str | None:
    try:
        find_java()
        find_version()
    except LocalKafkaMissingError as error:
        return str(error)
    return None
