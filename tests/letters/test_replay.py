"""What a replay promises, each promise on a real Kafka."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from load.local_kafka import CHECKOUT
from load.worker_process import WorkerProcess
from tests.support.kafka import QUIET, NewRecord, read_topic, wait_until
from tests.support.letters import EVENT, Desk, replay
from worker.assets import asset_dir
from worker.cli.main import run
from worker.cluster import Cluster, Range
from worker.core.messages import MAX_PAYLOAD_BYTES, Origin, dead_letter, encode, format_time_us
from worker.letters import replay as replaying
from worker.letters.letter import DEAD_LETTERS, read_letter
from worker.letters.replay import MAX_ATTEMPTS
from worker.letters.replays import Replays
from worker.settings import load_settings

LONG = EVENT[:-1] + b', "note": "' + os.urandom(MAX_PAYLOAD_BYTES).hex().encode() + b'"}'


def test_the_original_bytes_go_back_to_their_partition_with_headers(desk: Desk) -> None:
    values: list[bytes | None] = [EVENT, b'\xff\x00{"timestamp": 1', EVENT[:-1] + b' ,"n": 1}']
    ids = desk.refuse(values, partition=2) + desk.refuse([EVENT], key=b"\xff\x00", partition=1)
    assert replay("--untimed") == 0
    found = desk.published()
    assert [(r.partition, r.key, r.value) for r in found] == [
        (1, b"\xff\x00", EVENT),
        *((2, b"m-1", value) for value in values),
    ]
    assert [r.headers for r in found] == [
        (
            ("driftdetector-replay-attempt", b"1"),
            ("driftdetector-replay-of", letter_id.encode()),
        )
        for letter_id in [ids[3], *ids[:3]]
    ]
    marks = {mark.letter: mark for mark in desk.marks()}
    source = desk.topic("sensor_events")
    assert marks[ids[1]].origin == Origin(source, 2, 1)
    assert marks[ids[1]].published == Origin(source, 2, 4)
    keys = [record.key for record in read_topic(desk.brokers, desk.topic("replays"))]
    assert sorted(keys) == sorted(f"{source}-{r.partition}-{r.offset}".encode() for r in found)


def test_long_events_are_published_a_few_at_a_time(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaying, "MAX_BATCH_BYTES", 2 * len(EVENT))
    sizes = []
    publish = replaying.Replayer._publish
    monkeypatch.setattr(
        replaying.Replayer,
        "_publish",
        lambda self, batch: sizes.append(len(batch)) or publish(self, batch),
    )
    ids = desk.refuse([EVENT] * 5)
    assert replay() == 0
    assert sizes == [2, 2, 1]
    assert desk.replayed() == dict.fromkeys(ids, 1)


def test_late_events_are_replayed_too_and_both_kinds_know_of_each_other(desk: Desk) -> None:
    (late_id,) = desk.delay([EVENT])
    desk.refuse([EVENT], partition=1)
    assert run(["late-events", "replay", "--yes"]) == 0
    assert desk.replayed() == {late_id: 1}
    assert replay() == 0
    assert len(desk.published()) == 2


def test_what_was_replayed_is_skipped_until_again_is_asked_for(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = desk.refuse([EVENT] * 3)
    assert replay(ids[1]) == 0
    assert replay() == 0
    assert "1  already replayed; --again repeats them" in capsys.readouterr().err
    assert desk.replayed() == dict.fromkeys(ids, 1)
    assert replay() == 0
    assert "0 dead letters can be replayed" in capsys.readouterr().err
    assert replay("--again", ids[0]) == 0
    assert desk.replayed()[ids[0]] == 2
    assert sorted(desk.attempts()) == [1, 1, 1, 2]


def test_two_letters_about_one_record_are_one_event(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.refuse([EVENT])
    (value,) = [r.value for r in read_topic(desk.brokers, desk.topic("dead_letters"))]
    desk.letters("dead_letters", [value])
    assert replay("--again") == 0
    assert "1  the same event as another letter" in capsys.readouterr().err
    assert len(desk.published()) == 1
    assert replay() == 0
    assert len(desk.published()) == 1


def test_filters_choose_and_a_limit_takes_the_oldest(desk: Desk) -> None:
    first = desk.refuse([EVENT] * 3)
    second = desk.refuse([EVENT], "key-mismatch", key=b"m-2", partition=1)
    assert replay("--reason", "key-mismatch") == 0
    assert desk.replayed() == {second[0]: 1}
    assert replay("--machine", "m-1", "--limit", "2") == 0
    assert desk.replayed() == dict.fromkeys([*first[:2], *second], 1)


def test_a_dry_run_and_a_refusal_publish_nothing(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.refuse([EVENT])
    assert run(["dead-letters", "replay", "--dry-run"]) == 0
    assert run(["dead-letters", "replay"]) == 78
    shown = capsys.readouterr().err
    assert shown.count("1 dead letters can be replayed") == 2
    assert "error: nothing was replayed: there is no terminal to ask; add --yes." in shown
    assert not desk.published()


KILLED = """
import os, signal
from worker.cli.main import run
from worker.letters.replay import Replayer

step, calls = Replayer.{step}, []

def killed(self, *arguments):
    result = step(self, *arguments)
    calls.append(1)
    if len(calls) == 2:
        self._producer.flush(30)
        os.kill(os.getpid(), signal.SIGKILL)
    return result

Replayer.{step} = killed
run(["dead-letters", "replay", "--yes", "--rate", "2"])
"""


@pytest.mark.parametrize(
    ("step", "committed"), [("_send_events", 2), ("_send_marks", 2), ("_publish", 4)]
)
def test_a_replay_killed_between_any_two_steps_is_repeated_without_a_second_copy(
    desk: Desk, step: str, committed: int
) -> None:
    ids = desk.refuse([EVENT] * 7)
    done = subprocess.run(
        [sys.executable, "-c", KILLED.format(step=step)],
        cwd=CHECKOUT,
        env={**os.environ, **desk.environment},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    assert len(desk.published()) == committed
    assert replay() == 0
    assert desk.replayed() == dict.fromkeys(ids, 1)


def test_a_killed_replay_is_finished_by_the_next_one_without_a_second_copy(desk: Desk) -> None:
    ids = desk.refuse([EVENT] * 8_000) + desk.refuse([EVENT] * 8_000, partition=3)
    for kill in (1, 2):
        done = len(desk.marks())
        process = desk.start("dead-letters", "replay", "--yes", "--rate", "4000")
        wait_until(lambda done=done: len(desk.marks()) > done, f"replay {kill} has begun", 60)
        process.kill()
        assert process.wait(30) == -9
    assert 0 < len(desk.marks()) < len(ids)
    assert replay() == 0
    assert desk.replayed() == dict.fromkeys(ids, 1)
    assert sorted(mark.letter for mark in desk.marks()) == sorted(ids)


def test_of_two_replays_at_once_the_later_goes_on_and_nothing_is_published_twice(
    desk: Desk,
) -> None:
    ids = desk.refuse([EVENT] * 400)
    first = desk.start("dead-letters", "replay", "--yes", "--rate", "20")
    wait_until(lambda: bool(desk.marks()), "the first has begun", 60)
    assert replay() == 0
    out, err = first.communicate(timeout=60)
    assert first.returncode == 75, err
    assert out == ""
    assert err.splitlines()[-1].startswith("error: another replay has begun and goes on; this one")
    assert desk.replayed() == dict.fromkeys(ids, 1)


def test_what_another_replay_published_after_the_plan_was_made_is_left_out(desk: Desk) -> None:
    ids = desk.refuse([EVENT] * 3)
    with Cluster(load_settings(None, {}, desk.settings)) as cluster:
        replays = Replays(desk.topic("sensor_events"))
        replays.read(cluster, pending=False)
        chooser = replaying.Chooser(cluster, replays, replaying.Rules())
        letters = [
            read_letter(DEAD_LETTERS, record)
            for batch in cluster.read(*_everything(cluster, desk.topic("dead_letters")))
            for record in batch
        ]
        assert len(list(chooser.choose(letters, replaying.Tally()))) == 3
        assert replay(ids[0], ids[2]) == 0
        replayer = replaying.Replayer(cluster, replays)
        tally = replaying.Tally()
        replayer.publish(chooser.choose(letters, tally), 1000, tally, lambda _: None)
    assert tally.skipped == {replaying.REPLAYED: 2}
    assert desk.replayed() == dict.fromkeys(ids, 1)


def test_a_cut_payload_is_fetched_whole_or_left_out(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    source = desk.topic("sensor_events")
    (there,) = desk.refuse([LONG])
    desk.refuse([LONG], partition=1)
    _delete_records(desk, source, 1, before=1)
    # Another record where the original was, as in a topic that was made anew.
    other = dead_letter("invalid-field", "why", Origin(source, 0, 0), 5, b"m-1", LONG + b" ")
    desk.letters("dead_letters", [encode(other)], partition=2)
    assert replay() == 0
    assert f"2  original no longer in {source}" in capsys.readouterr().err
    assert desk.replayed() == {there: 1}
    assert [record.value for record in desk.published()] == [LONG]


def test_a_cut_key_is_fetched_whole(desk: Desk) -> None:
    key = b"k" * (MAX_PAYLOAD_BYTES + 10)
    source = desk.topic("sensor_events")
    desk.write("sensor_events", [NewRecord(EVENT, key, 0)])
    letter = dead_letter("key-mismatch", "why", Origin(source, 0, 0), 5, key, EVENT)
    desk.letters("dead_letters", [encode(letter)])
    assert replay() == 0
    assert [record.key for record in desk.published()] == [key]


def test_what_cannot_be_replayed_is_left_out_with_its_reason(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    source = desk.topic("sensor_events")
    (good,) = desk.refuse([EVENT])
    desk.refuse([b'{"machine_id": "m-1", "vibration": true}', b"\xff", None], partition=1)
    elsewhere = [Origin("another", 0, 0), Origin(source, 77, 0), Origin(source, 0, 2**63)]
    letters: list[bytes | None] = [
        encode(dead_letter("invalid-field", "why", origin, 5, b"m-1", EVENT))
        for origin in elsewhere
    ]
    desk.letters("dead_letters", [*letters, b"nonsense", b"{}", b"", None], partition=2)
    assert replay() == 0
    assert desk.replayed() == {good: 1}
    shown = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]
    assert shown[2] == "10 are left out:"
    untimed = "with --untimed they count as measured when they are replayed"
    assert set(shown[3:]) == {
        "5 unreadable letter",
        f"3 no readable timestamp of its own; {untimed}",
        f"1 from another topic than {source}",
        f"1 from a partition that {source} does not have",
    }


def test_an_event_that_the_topic_takes_no_more_does_not_hold_up_the_others(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    source = desk.topic("sensor_events")
    ids = desk.refuse([EVENT, LONG, EVENT])
    _configure(desk, source, "max.message.bytes", "4096")
    assert replay() == 0
    assert f"replayed 2 dead letters to {source}, left out 1" in capsys.readouterr().out
    assert desk.replayed() == {ids[0]: 1, ids[2]: 1}


def test_attempts_count_on_through_real_refusals_until_the_event_is_poison(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = format_time_us(time.time_ns() // 1000)
    event = {"machine_id": "m-1", "timestamp": now, "vibration": 2.0, "machine_type": "X"}
    desk.write("sensor_events", [NewRecord(json.dumps(event).encode(), b"m-1")])
    with WorkerProcess(desk.settings, tmp_path / "worker.log") as worker:
        for refusals in range(1, MAX_ATTEMPTS + 2):
            worker.wait_for_events(refusals, 60)
            wait_until(lambda n=refusals: len(desk.dead_letters()) == n, "it is refused again")
            assert desk.attempts() == list(range(1, refusals))
            assert replay() == 0
    assert desk.attempts() == [1, 2, 3]
    assert "1  refused again after 3 replays; --again repeats them" in capsys.readouterr().err

    # The fix: a bundle whose channels know the category.
    bundle = shutil.copytree(asset_dir("models") / "machine-health" / "1.0.0", tmp_path / "fixed")
    manifest = (bundle / "model.toml").read_text()
    assert manifest.count('"H",') == 1
    (bundle / "model.toml").write_text(manifest.replace('"H",', '"H", "X",'))
    settings = {**desk.settings, "worker.bundle": str(bundle)}
    with WorkerProcess(settings, tmp_path / "worker.log") as worker:
        newest = desk.dead_letters()[-1]
        assert replay("--again", newest) == 0
        worker.wait_for_events(1, 60)
        assert worker.metrics()["events_scored_total"] == 1
    assert desk.attempts() == [1, 2, 3, 4]
    assert len(desk.dead_letters()) == MAX_ATTEMPTS + 1


def _everything(cluster: Cluster, topic: str) -> tuple[str, dict[int, Range]]:
    return topic, cluster.ranges(topic)


def _delete_records(desk: Desk, topic: str, partition: int, before: int) -> None:
    admin = AdminClient({"bootstrap.servers": desk.brokers}, logger=QUIET)
    place = TopicPartition(topic, partition, before)
    for future in admin.delete_records([place]).values():
        future.result(30)


def _configure(desk: Desk, topic: str, key: str, value: str) -> None:
    admin = AdminClient({"bootstrap.servers": desk.brokers}, logger=QUIET)
    entry = ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(30)

    def known() -> bool:
        found = admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)])
        return all(f.result(30)[key].value == value for f in found.values())

    wait_until(known, f"{key} of {topic} is {value}")
