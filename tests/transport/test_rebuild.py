"""Rebuilding state on a real Kafka: the rows of an undisturbed worker, bit for bit, or nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.support.kafka import QUIET, NewRecord, committed_offsets, produce, read_topic, unique
from tests.transport.conftest import Job, simulated
from tests.transport.test_exactly_once import restored, wait_until_all_is_committed
from worker.app import rebuild_state
from worker.core.errors import FencedError
from worker.settings import load_settings
from worker.transport.rebuild import Rebuilt, Stage

WAIT_S = 60.0
KILLED = """
import os, signal, sys
from worker.app import rebuild_state
from worker.settings import load_settings

def kill_while_rows_are_written(partition, stage, done, total):
    if (partition, stage) == (1, "writing"):
        os.kill(os.getpid(), signal.SIGKILL)

for rebuilt in rebuild_state(load_settings(None, os.environ), kill_while_rows_are_written):
    print(rebuilt.partition, flush=True)
"""


def environment(settings: dict[str, str]) -> dict[str, str]:
    return {
        **os.environ,
        **{
            "DRIFTDETECTOR_" + key.upper().replace(".", "__"): value
            for key, value in settings.items()
        },
    }


def run_rebuild(settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worker", "worker", "--rebuild-state"],
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


def rebuild_here(settings: dict[str, str]) -> list[Rebuilt]:
    def ignore(partition: int, stage: Stage, done: int, total: int) -> None: ...

    return list(rebuild_state(load_settings(None, {}, settings), ignore))


def rows(job: Job, settings: dict[str, str]) -> dict[int, dict[bytes, bytes]]:
    """The latest row of each key in the changelog, by partition.

    Which keys these are must be the same after a rebuild; of the values, what is restored from
    them: each row also has the machine's newest event time as it was when the row was written.
    """
    latest: dict[int, dict[bytes, bytes]] = {}
    topic = f"{settings['worker.app_id']}-machine-state-changelog"
    for record in read_topic(job.kafka.bootstrap_servers, topic):
        kept = latest.setdefault(record.partition, {})
        assert record.key is not None
        if record.value is None:
            kept.pop(record.key, None)
        else:
            kept[record.key] = record.value
    return {partition: kept for partition, kept in latest.items() if kept}


def keys(rows: dict[int, dict[bytes, bytes]]) -> dict[int, set[bytes]]:
    return {partition: set(latest) for partition, latest in rows.items()}


def work(job: Job, settings: dict[str, str]) -> None:
    """Let a worker process everything there is."""
    with job.worker(settings) as worker:
        worker.wait_until_healthy(WAIT_S)
        wait_until_all_is_committed(job, settings["worker.app_id"])
        assert worker.terminate() == 0


def put(job: Job, settings: dict[str, str], *records: NewRecord) -> None:
    topic = f"{settings['worker.app_id']}-machine-state-changelog"
    produce(job.kafka.bootstrap_servers, topic, records)


def test_a_damaged_row_stops_the_worker_until_state_is_rebuilt(job: Job) -> None:
    settings = job.settings(unique("damaged"))
    app_id = settings["worker.app_id"]
    job.feed(simulated(job.bundle, 20_000, seed=21))
    work(job, settings)
    before, state = rows(job, settings), restored(job, settings)
    damaged = min(before[2])
    put(
        job,
        settings,
        NewRecord(b"nonsense", damaged, 2),
        NewRecord(b"nonsense", b"nobody's", 2),
        NewRecord(before[1][min(before[1])], b"stray|1", 2),
    )
    with job.worker(settings) as worker:
        assert worker.process.wait(WAIT_S) == 65
    assert "--rebuild-state" in job.log(app_id)
    assert repr(damaged) in job.log(app_id)

    done = run_rebuild(settings)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    assert keys(rows(job, settings)) == keys(before)
    assert restored(job, settings) == state

    job.feed(simulated(job.bundle, 20_000, seed=22))
    work(job, settings)
    published, state = job.expected()
    assert job.published(app_id) == published
    assert restored(job, settings) == state


def test_a_rebuild_that_was_killed_or_fenced_is_run_again(job: Job) -> None:
    settings = job.settings(unique("killed"), worker__processing_guarantee="at_least_once")
    records = simulated(job.bundle, 20_000, seed=23)
    job.feed(records)
    work(job, settings)
    before, state = rows(job, settings), restored(job, settings)
    put(job, settings, *(NewRecord(b"nonsense", b"nobody's", partition) for partition in range(4)))
    killed = subprocess.run(
        [sys.executable, "-c", KILLED],
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert killed.returncode == -9, killed.stderr
    assert killed.stdout == "0\n"

    rebuilt = rebuild_here(settings)
    assert keys(rows(job, settings)) == keys(before)
    assert restored(job, settings) == state
    assert [partition.rows_removed for partition in rebuilt] == [0, 1, 1, 1]
    assert sum(partition.events for partition in rebuilt) == len(records)
    assert sum(partition.machines for partition in rebuilt) == 200

    def start_another(partition: int, stage: Stage, done: int, total: int) -> None:
        if (partition, stage) == (1, "reading"):
            rebuild_here(settings)

    with pytest.raises(FencedError, match="another rebuild"):
        list(rebuild_state(load_settings(None, {}, settings), start_another))
    assert restored(job, settings) == state


def test_partitions_that_were_never_read_are_emptied(job: Job) -> None:
    settings = job.settings(unique("unread"))
    put(job, settings, NewRecord(b"nonsense", b"nobody's", 3))
    rebuilt = rebuild_here(settings)
    assert rows(job, settings) == {}
    assert [(p.events, p.rows_written, p.rows_removed) for p in rebuilt] == [
        (0, 0, 0),
        (0, 0, 0),
        (0, 0, 0),
        (0, 0, 1),
    ]
    assert {partition.warning for partition in rebuilt} == {None}


def test_what_retention_has_deleted_is_told(job: Job) -> None:
    settings = job.settings(unique("retention"))
    job.feed(simulated(job.bundle, 20_000, machines=20, seed=25))
    work(job, settings)
    offsets = committed_offsets(job.kafka.bootstrap_servers, settings["worker.app_id"], job.source)
    ends = {partition: end for partition, (end, _) in offsets.items()}
    admin = AdminClient({"bootstrap.servers": job.kafka.bootstrap_servers}, logger=QUIET)
    # Partition 0 keeps the last events only, 1 an old part more than the window, 2 none, 3 all.
    kept = {0: ends[0] - 50, 1: 10, 2: ends[2]}
    deletions = [TopicPartition(job.source, p, offset) for p, offset in kept.items()]
    for future in admin.delete_records(deletions).values():
        future.result(WAIT_S)
    warnings = [partition.warning or "" for partition in rebuild_here(settings)]
    assert "retention has deleted the events before 20" in warnings[0]
    assert "retention has deleted all events that had been read" in warnings[2]
    assert (warnings[1], warnings[3]) == ("", "")


def test_a_large_state_is_one_transaction_and_no_worker_may_be_up(job: Job) -> None:
    settings = job.settings(unique("large"))
    app_id = settings["worker.app_id"]
    start_ms = 1_700_000_000_000
    event = b'{"machine_id":"m%d","timestamp":%d,"vibration":1.5,"temperature":40.0}'
    produce(
        job.kafka.bootstrap_servers,
        job.source,
        (
            NewRecord(event % (machine, start_ms + minute * 60_000), b"m%d" % machine, partition=0)
            for minute in range(65)
            for machine in range(2_000)
        ),
    )
    admin = AdminClient({"bootstrap.servers": job.kafka.bootstrap_servers}, logger=QUIET)
    offsets = ConsumerGroupTopicPartitions(app_id, [TopicPartition(job.source, 0, 130_000)])
    admin.alter_consumer_group_offsets([offsets])[app_id].result(WAIT_S)
    rebuilt = rebuild_here(settings)[0]
    assert (rebuilt.events, rebuilt.machines) == (130_000, 2_000)
    assert rebuilt.rows_written >= 2_000 * 65
    with job.worker(settings) as worker:
        worker.wait_until_healthy(WAIT_S)
        with pytest.raises(FencedError, match=f"{app_id}-0 still in consumer group"):
            rebuild_here(settings)
        assert worker.terminate() == 0
    assert "of 2000 machines" in job.log(app_id)
