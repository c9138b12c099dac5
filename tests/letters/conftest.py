from __future__ import annotations

import pytest

from load.local_kafka import LocalKafka
from tests.support.letters import Desk, make_desk


@pytest.fixture
def desk(kafka: LocalKafka, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Topics of its own, and an environment in which commands use them."""
    desk = make_desk(kafka.bootstrap_servers)
    for name, value in desk.environment.items():
        monkeypatch.setenv(name, value)
    return desk
