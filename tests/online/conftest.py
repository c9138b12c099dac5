"""Settings of a worker with a Redis."""

from __future__ import annotations

import pytest

from tests.support.online import RedisServer
from worker.settings import OnlineSettings, Settings


@pytest.fixture
def settings(redis_server: RedisServer) -> Settings:
    """It writes to the test's Redis, and gives up soon."""
    online = {"url": redis_server.url, "timeout_ms": 200, "flush_interval_ms": 50}
    return Settings(online=OnlineSettings.model_validate(online))
