"""Commands under test see no settings of the person who runs the tests."""

from __future__ import annotations

import os

import pytest

from load.local_kafka import LocalKafka
from tests.support.letters import Desk, make_desk


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("DRIFTDETECTOR_") and name != "DRIFTDETECTOR_DATA":
            monkeypatch.delenv(name)


@pytest.fixture
def desk(kafka: LocalKafka, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Topics of its own, and an environment in which commands use them."""
    desk = make_desk(kafka.bootstrap_servers)
    for name, value in desk.environment.items():
        monkeypatch.setenv(name, value)
    return desk
