from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from load.local_kafka import LocalKafka
from tests.core.strategies import make_spec
from tests.support.kafka import NewRecord, read_topic
from tests.support.letters import Desk
from worker.cli.main import run
from worker.cluster import Cluster
from worker.core.messages import MaintenanceNotice, event_type
from worker.notices import FIRST_LOOK, Place, find_machine
from worker.settings import load_settings

NOW = datetime.now(UTC).replace(microsecond=0)


def event(minutes_ago: float, machine: str = "mill-7") -> bytes:
    moment = (NOW - timedelta(minutes=minutes_ago)).isoformat()
    return json.dumps({"machine_id": machine, "timestamp": moment, "c0": 1.0}).encode()


def notices(desk: Desk) -> list[tuple[int, bytes | None, dict[str, object]]]:
    """Partition, key and value of what was announced."""
    records = read_topic(desk.brokers, desk.topic("sensor_events"))
    values = [r for r in records if b'"maintenance"' in (r.value or b"")]
    return [(r.partition, r.key, json.loads(r.value or b"")) for r in values]


def test_a_notice_stands_behind_the_machines_newest_event_in_its_partition(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever partition its gateway chose, and whatever else is written under its name."""
    others = [NewRecord(event(0, f"mill-{i}"), f"mill-{i}".encode(), 3) for i in range(8, 11)]
    mine = [(event(30), 3), (event(5), 3), (event(6), 3), (b"{", 1), (event(-60), 1), (b"", 0)]
    desk.write("sensor_events", [NewRecord(value, b"mill-7", p) for value, p in mine])
    desk.write("sensor_events", others)
    command = "maintenance mill-7 --from 2026-03-02T07:00:00+01:00 --until 90m --relearn"
    assert run(command.split()) == 0
    shown = capsys.readouterr().out
    assert "mill-7: maintenance from 2026-03-02T06:00:00.000000Z until 2026-03-02T07:30" in shown
    assert "level is learned anew" in shown
    ((partition, key, value),) = notices(desk)
    assert (partition, key) == (3, b"mill-7")
    assert f"partition {partition} of {desk.topic('sensor_events')}" in shown
    time = datetime.fromisoformat(str(value["timestamp"]))
    assert time == NOW - timedelta(minutes=5)
    begin = {"from": "2026-03-02T06:00:00Z", "until": "2026-03-02T07:30:00Z", "relearn": True}
    assert value["maintenance"] == begin


def test_what_is_announced_and_called_off_is_what_workers_read(desk: Desk) -> None:
    desk.write("sensor_events", [NewRecord(event(1), b"mill-7", 2)])
    begin = "2026-03-02T06:00:00Z"
    assert run(["maintenance", "mill-7", "--from", begin, "--until", "2026-03-02T08:00:00Z"]) == 0
    assert run(["maintenance", "mill-7", "--from", begin, "--cancel"]) == 0
    records = read_topic(desk.brokers, desk.topic("sensor_events"))
    event_of = event_type(make_spec())
    first, last = (msgspec.json.decode(r.value or b"", type=event_of) for r in records[1:])
    moment = datetime.fromisoformat(begin)
    assert first.maintenance == MaintenanceNotice(moment, moment + timedelta(hours=2))
    assert last.maintenance == MaintenanceNotice(moment, moment)


def test_a_machine_is_found_however_far_back_its_events_are(desk: Desk) -> None:
    desk.write("sensor_events", [NewRecord(event(1), b"mill-7", 1)])
    noise = [
        NewRecord(event(0, "noise"), b"noise", p) for p in (1, 1, 2) for _ in range(FIRST_LOOK)
    ]
    desk.write("sensor_events", noise)
    looked: list[tuple[int, int]] = []
    with Cluster(load_settings(None, desk.environment)) as cluster:
        place = find_machine(cluster, "mill-7", lambda done, size: looked.append((done, size)))
    newest_us = round((NOW - timedelta(minutes=1)).timestamp() * 1e6)
    assert place == Place(1, newest_us)
    assert looked[-1] == (3 * FIRST_LOOK + 1, 3 * FIRST_LOOK + 1)
    assert looked == sorted(looked)


def test_a_machine_that_nobody_has_heard_of_gets_no_notice(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.write("sensor_events", [NewRecord(event(1), b"mill-7", 1)])
    assert run(["maintenance", "mill-77", "--until", "1h"]) == 78
    assert "there is no event of machine 'mill-77'" in capsys.readouterr().err
    assert notices(desk) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("", "--until: write when the maintenance ends"),
        ("--until soon", "--until: 'soon' is not a time; write RFC 3339 with an offset"),
        ("--until 2026-03-02T06:00:00", "is not a time"),
        ("--from 2026-03-02T06:00:00Z --until 2026-03-02T05:00:00Z", "is not after the beginning"),
        ("--until 400d", "lasts for more than 366 days"),
        ("--until 36500d", "lasts for more than 366 days"),
        ("--cancel", "--cancel: write with --from when"),
        ("--cancel --from 2h", "--from: '2h' is not a time; write RFC 3339"),
        ("--cancel --from 2026-03-02T06:00:00Z --until 1h", "what is called off has no end"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_kafka_is_asked(
    options: str, sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTDETECTOR_KAFKA__BROKERS", "127.0.0.1:1")
    assert run(["maintenance", "mill-7", *options.split()]) == 78
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_a_topic_that_is_missing_is_named(
    kafka: LocalKafka, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTDETECTOR_KAFKA__BROKERS", kafka.bootstrap_servers)
    monkeypatch.setenv("DRIFTDETECTOR_TOPICS__SENSOR_EVENTS", "nowhere")
    assert run(["maintenance", "mill-7", "--until", "1h"]) == 69
    assert "topic 'nowhere' does not exist" in capsys.readouterr().err
