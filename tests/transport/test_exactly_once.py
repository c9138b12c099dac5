"""The promise: whatever ends a worker, outputs and state equal those of an undisturbed run.

See also tests/load/test_torture.py, where workers are killed, frozen and cut off.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from load import feed, verdict
from load.feed import events
from load.worker_process import WorkerProcess
from tests.support.kafka import committed_offsets, read_topic, unique, wait_until
from tests.transport.conftest import US_PER_S, Feeder, Job, simulated
from worker.gateway import now_us

WAIT_S = 60.0


def wait_until_all_is_committed(job: Job, app_id: str) -> None:
    """Until the group has committed the end of every input partition."""
    brokers = job.kafka.bootstrap_servers

    def done() -> bool:
        committed = committed_offsets(brokers, app_id, job.source)
        return all(offset >= end for offset, end in committed.values() if end)

    wait_until(done, f"{app_id} has committed all of {job.source}", WAIT_S)


def restored(job: Job, settings: dict[str, str]) -> dict[int, dict[bytes, bytes]]:
    """The rows of a table that is restored from the changelog as a starting worker does it."""
    states = verdict.restored(settings, job.bundle, range(4))
    return {partition: dict(state.snapshot()) for partition, state in states.items()}


def test_workers_that_come_and_go_hand_partitions_over_without_loss_or_repetition(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So slow that during each rebalance chunks of partitions that stay wait for their turn.
    monkeypatch.setenv("MUTANT", "slow-steps")
    settings = job.settings(unique("rebalanced"))
    app_id = settings["worker.app_id"]

    def start(instance_id: str) -> WorkerProcess:
        mine = {**settings, "worker.instance_id": instance_id}
        log = job.folder / f"{app_id}.log"
        return WorkerProcess(mine, log, "tests.support.mutant_worker")

    source = events(
        job.bundle.spec,
        machines=200,
        interval_s=15.0,
        start_us=now_us() - 48 * 3600 * US_PER_S,
        seed=6,
        troubled=True,
    )
    feeder = feed.Feeder(job.kafka.bootstrap_servers, job.source, source, per_s=1_500)
    feeder.start()
    with start("0") as first:
        first.wait_for_events(1, WAIT_S)
        with start("1") as second, start("2") as third:
            second.wait_for_events(1, WAIT_S)
            third.wait_for_events(1, WAIT_S)
            assert second.terminate() == 0
            assert third.terminate() == 0
        feeder.stop()
        wait_until_all_is_committed(job, app_id)
        assert first.terminate() == 0

    published, rows = job.expected()
    assert job.published(app_id) == published
    assert restored(job, settings) == rows


def test_sigterm_commits_leaves_the_group_and_exits_0(job: Job) -> None:
    job.feed(simulated(job.bundle, 20_000, seed=7))
    settings = job.settings(unique("terminated"))
    app_id = settings["worker.app_id"]
    with job.worker(settings) as worker:
        worker.wait_for_events(1, WAIT_S)
        started_s = time.monotonic()
        assert worker.terminate() == 0
    # A static member that did not leave would keep its partitions for its session timeout, 30 s.
    with job.worker({**settings, "worker.instance_id": "other"}) as successor:
        wait_until_all_is_committed(job, app_id)
        assert time.monotonic() - started_s < 20.0
        assert successor.terminate() == 0
    assert job.published(app_id) == job.expected()[0]


@pytest.mark.parametrize("mutant", ["a-chunk-overtakes-the-stop", "stopped-during-a-commit"])
def test_chunks_that_wait_when_the_worker_is_stopped_are_left_to_the_next_start(
    job: Job, monkeypatch: pytest.MonkeyPatch, mutant: str
) -> None:
    monkeypatch.setenv("MUTANT", mutant)
    settings = job.settings(unique("stopped"))
    app_id = settings["worker.app_id"]
    # One partition, and chunks of it that come faster than they are applied.
    feeder = Feeder(job, simulated(job.bundle, 10_000, machines=1, seed=9), events_per_s=5_000)
    with WorkerProcess(settings, job.folder / "log", "tests.support.mutant_worker") as worker:
        worker.wait_until_healthy(WAIT_S)
        feeder.start()
        if mutant == "a-chunk-overtakes-the-stop":
            worker.wait_for_events(5_000, WAIT_S)
            worker.process.terminate()
        assert worker.process.wait(WAIT_S) == 0
    feeder.join(WAIT_S)
    with job.worker(settings) as successor:
        wait_until_all_is_committed(job, app_id)
        assert successor.terminate() == 0
    assert job.published(app_id) == job.expected()[0]


def test_a_second_process_of_the_same_instance_fences_the_first(job: Job) -> None:
    settings = job.settings(unique("fenced"))
    app_id = settings["worker.app_id"]
    feeder = Feeder(job, simulated(job.bundle, 60_000, seed=8), events_per_s=5_000)
    feeder.start()
    with job.worker(settings) as first:
        first.wait_for_events(1, WAIT_S)
        with job.worker(settings) as second:
            assert first.process.wait(WAIT_S) == 75
            feeder.join(WAIT_S)
            wait_until_all_is_committed(job, app_id)
            assert second.terminate() == 0
    # Whichever client is told first.
    assert re.search("another worker .*has taken (over|this one's place)", job.log(app_id))
    assert "Traceback" not in job.log(app_id)
    assert job.published(app_id) == job.expected()[0]


def test_an_episode_that_is_open_when_a_worker_is_killed_closes_once_under_its_id(job: Job) -> None:
    machine = b"m-0001"
    records = simulated(job.bundle, 20 * 300, machines=20, troubled=False)
    places = [place for place, record in enumerate(records) if record.key == machine]
    for place in places[100:140]:
        event = json.loads(records[place].value or b"")
        event["vibration"] += 10.0
        records[place] = replace(records[place], value=json.dumps(event).encode())
    settings = job.settings(unique("episode"))
    app_id = settings["worker.app_id"]

    job.feed(records[: places[120]])
    with job.worker(settings) as worker:
        wait_until_all_is_committed(job, app_id)
        worker.kill()
    opened = episodes(job, app_id, machine)
    job.feed(records[places[120] :])
    with job.worker(settings) as worker:
        wait_until_all_is_committed(job, app_id)
        assert worker.terminate() == 0

    assert [episode["status"] for episode in opened] == ["opened"]
    told = episodes(job, app_id, machine)
    assert {episode["id"] for episode in told} == {opened[0]["id"]}
    assert [episode["sequence"] for episode in told] == list(range(1, len(told) + 1))
    assert [e["status"] for e in told if e["status"] != "updated"] == ["opened", "closed"]
    assert told[-1]["close_reason"] == "recovered"
    assert job.published(app_id) == job.expected()[0]


def episodes(job: Job, app_id: str, machine: bytes) -> list[dict[str, Any]]:
    """What was told of a machine's episodes, in order."""
    read = read_topic(job.kafka.bootstrap_servers, f"{app_id}-anomaly-episodes")
    return [json.loads(record.value or b"") for record in read if record.key == machine]


def test_at_least_once_may_repeat_but_loses_nothing(job: Job) -> None:
    settings = job.settings(unique("repeating"), worker__processing_guarantee="at_least_once")
    app_id = settings["worker.app_id"]
    feeder = Feeder(job, simulated(job.bundle, 50_000, seed=10), events_per_s=3_500)
    feeder.start()
    for _ in range(3):
        with job.worker(settings) as worker:
            worker.wait_for_events(1, WAIT_S)
            time.sleep(0.4)
            worker.kill()
    feeder.join(WAIT_S)
    with job.worker(settings) as worker:
        worker.wait_until_healthy(WAIT_S)
        wait_until_all_is_committed(job, app_id)
        assert worker.terminate() == 0
    # Events that are applied again meet a state that may hold them already, so anomalies near
    # the threshold can come or go; which records are late or dead does not depend on that.
    published, expected = job.published(app_id), job.expected()[0]
    for place, records in expected.items():
        if place[0] == "dead-letters":
            assert set(published[place]) == set(records)
        elif place[0] == "late-events":
            assert origins(records) <= origins(published[place])


def origins(records: Counter[tuple[bytes | None, bytes | None]]) -> set[int]:
    """Offsets of the events that late-event messages are about."""
    return {json.loads(value or b"")["origin"]["offset"] for _, value in records}
