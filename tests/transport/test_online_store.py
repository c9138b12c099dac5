"""A worker on a real Kafka beside a Redis that fails in every way: scoring is as without it."""

from __future__ import annotations

import json

from tests.support.kafka import unique, wait_until
from tests.support.online import RedisServer
from tests.transport.conftest import Feeder, Job, simulated
from tests.transport.test_exactly_once import wait_until_all_is_committed

WAIT_S = 60.0
EVENTS, EVENTS_PER_S = 24_000, 2_000


def test_a_redis_that_is_killed_paused_full_and_flushed_changes_no_output(
    job: Job, redis_server: RedisServer
) -> None:
    online = {
        "online.url": redis_server.url,
        "online.timeout_ms": "200",
        "online.flush_interval_ms": "50",
    }
    settings = {**job.settings(unique("online")), **online}
    app_id = settings["worker.app_id"]
    index = f"{app_id}:machines"
    feeder = Feeder(job, simulated(job.bundle, EVENTS), EVENTS_PER_S)
    with job.worker(settings) as worker:

        def figure(name: str) -> float:
            return worker.metrics().get(name, 0.0)

        def heals(what: str) -> None:
            """It is written again, without a restart of the worker."""
            wait_until(
                lambda: figure("online_store_up") == 1.0 and redis_server.client().exists(index),
                f"machines are written after it was {what}",
                WAIT_S,
            )

        def fails(what: str) -> None:
            known = figure("online_write_failures_total")
            wait_until(
                lambda: figure("online_write_failures_total") > known,
                f"it shows that it is {what}",
                WAIT_S,
            )
            assert figure("online_store_up") == 0.0

        worker.wait_until_healthy(WAIT_S)
        feeder.start()
        heals("empty")
        redis_server.kill()
        fails("down")
        redis_server.start_again()
        heals("killed")
        redis_server.pause()
        fails("paused")
        redis_server.resume()
        heals("paused")
        redis_server.client().config_set("maxmemory", "1")
        fails("full")
        redis_server.client().config_set("maxmemory", "0")
        heals("full")
        redis_server.client().flushall()
        heals("flushed")
        feeder.join(WAIT_S)
        wait_until_all_is_committed(job, app_id)
        (name, *_) = redis_server.client().zrange(index, 0, -1)
        known = json.loads(redis_server.client().get(f"{app_id}:machine:{name.decode()}"))
        assert worker.terminate() == 0
    assert job.published(app_id) == job.expected()[0]
    assert "command not allowed when used memory > 'maxmemory'" in job.log(app_id)
    assert known["model_version"] == job.bundle.model_version
