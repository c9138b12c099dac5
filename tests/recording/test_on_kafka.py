"""Recording and replaying on a real Kafka."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from load.local_kafka import LocalKafka
from tests.support.kafka import QUIET, NewRecord, create_topics, produce, read_topic, unique
from worker.cli.main import run
from worker.recording.files import gaps, segments_of
from worker.recording.parquet import read_batches

KILLS = 10
RECORDS = 120_000

Row = tuple[int, int, int, bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]


@pytest.fixture
def topic(kafka: LocalKafka, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DRIFTDETECTOR_KAFKA__BROKERS", kafka.bootstrap_servers)
    name = unique("recorded")
    create_topics(kafka.bootstrap_servers, name, partitions=3)
    return name


def some(count: int, seed: int = 1) -> list[NewRecord]:
    """Records of all kinds, also such as are no events."""
    chance = random.Random(seed)
    values = [b"", None, b"\xff\x00garbage", b'{"machine_id":"a"}', b"x" * 3_000]
    return [
        NewRecord(
            chance.choice(values),
            chance.choice([None, b"", b"a", b"m-%d" % chance.randrange(9)]),
            chance.randrange(3),
            1_767_225_600_000 + i * 1_000,
            chance.choice([(), (("trace", b"1"), ("trace", b"\xff"))]),
        )
        for i in range(count)
    ]


def in_kafka(kafka: LocalKafka, topic: str) -> list[Row]:
    return [
        (r.partition, r.offset, r.timestamp_ms, r.key, r.value, r.headers)
        for r in read_topic(kafka.bootstrap_servers, topic)
    ]


def in_files(root: Path, topic: str) -> list[Row]:
    return [
        (
            row["partition"],
            row["offset"],
            round(row["timestamp"].timestamp() * 1000),
            row["key"],
            row["value"],
            tuple((h["key"], h["value"]) for h in row["headers"] or ()),
        )
        for batch in read_batches(segments_of(root, topic), 10_000)
        for row in batch.to_pylist()
    ]


def without_offsets(rows: list[Row]) -> list[tuple[object, ...]]:
    return [(row[0], *row[2:]) for row in rows]


def test_a_recording_has_every_byte_and_a_replay_gives_it_back(
    kafka: LocalKafka, topic: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    produce(kafka.bootstrap_servers, topic, some(2_000))
    assert run(["record", topic, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path)
    recorded = in_files(tmp_path, topic)
    assert recorded == in_kafka(kafka, topic)
    assert len(recorded) == 2_000
    other = unique("replayed")
    create_topics(kafka.bootstrap_servers, other, partitions=3)
    assert run(["replay", str(tmp_path), "--to", other, "--speed", "max"]) == 0
    assert without_offsets(in_kafka(kafka, other)) == without_offsets(recorded)


def test_a_second_run_records_only_what_is_new(
    kafka: LocalKafka, topic: str, tmp_path: Path
) -> None:
    records = some(900)
    for part in (records[:300], records[300:301], records[301:]):
        produce(kafka.bootstrap_servers, topic, part)
        assert run(["record", topic, "--out", str(tmp_path)]) == 0
    assert in_files(tmp_path, topic) == in_kafka(kafka, topic)
    assert gaps(segments_of(tmp_path, topic)) == []
    before = segments_of(tmp_path, topic)
    assert run(["record", topic, "--out", str(tmp_path)]) == 0
    assert segments_of(tmp_path, topic) == before


def test_each_day_has_files_of_its_own(kafka: LocalKafka, topic: str, tmp_path: Path) -> None:
    hours = [NewRecord(b"%d" % h, b"m", 0, 1_767_225_600_000 + h * 3_600_000) for h in range(60)]
    produce(kafka.bootstrap_servers, topic, hours)
    assert run(["record", topic, "--out", str(tmp_path)]) == 0
    days = {segment.path.parent.name: segment.begin for segment in segments_of(tmp_path, topic)}
    assert days == {"date=2026-01-01": 0, "date=2026-01-02": 24, "date=2026-01-03": 48}


def test_times_and_offsets_bound_a_recording(kafka: LocalKafka, topic: str, tmp_path: Path) -> None:
    hours = [NewRecord(b"%d" % h, b"m", 0, 1_767_225_600_000 + h * 3_600_000) for h in range(10)]
    produce(kafka.bootstrap_servers, topic, hours)
    span = ["--since", "2026-01-01T02:00:00Z", "--until", "2026-01-01T05:00:00Z"]
    assert run(["record", topic, "--out", str(tmp_path / "times"), *span]) == 0
    assert [row[1] for row in in_files(tmp_path / "times", topic)] == [2, 3, 4]
    assert run(["record", topic, "--out", str(tmp_path / "at"), "--offsets", "0:4-6"]) == 0
    assert [row[1] for row in in_files(tmp_path / "at", topic)] == [4, 5]


def test_aborted_transactions_are_not_recorded(
    kafka: LocalKafka, topic: str, tmp_path: Path
) -> None:
    producer = Producer(
        {"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": unique("t")},
        logger=QUIET,
    )
    producer.init_transactions(30)
    for value, keep in ((b"1", True), (b"2", False), (b"3", True)):
        producer.begin_transaction()
        producer.produce(topic, value, b"m", partition=0)
        (producer.commit_transaction if keep else producer.abort_transaction)(30)
    assert run(["record", topic, "--out", str(tmp_path)]) == 0
    assert [row[4] for row in in_files(tmp_path, topic)] == [b"1", b"3"]


def test_what_kafka_deleted_before_it_was_recorded_is_told(
    kafka: LocalKafka, topic: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    produce(kafka.bootstrap_servers, topic, [NewRecord(b"v", b"m", 0)] * 10)
    assert run(["record", topic, "--out", str(tmp_path), "--offsets", "0:0-4"]) == 0
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers}, logger=QUIET)
    for future in admin.delete_records([TopicPartition(topic, 0, 7)]).values():
        future.result(30)
    capsys.readouterr()
    assert run(["record", topic, "--out", str(tmp_path)]) == 0
    assert f"offsets 4 to 6 of {topic} partition 0 were deleted" in capsys.readouterr().err
    assert [row[1] for row in in_files(tmp_path, topic)] == [0, 1, 2, 3, 7, 8, 9]


def test_a_recording_of_another_cluster_is_not_continued(
    kafka: LocalKafka, topic: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    produce(kafka.bootstrap_servers, topic, some(300))
    assert run(["record", topic, "--out", str(tmp_path)]) == 0
    other = unique("recorded")
    create_topics(kafka.bootstrap_servers, other, partitions=3)
    (tmp_path / f"topic={topic}").rename(tmp_path / f"topic={other}")
    assert run(["record", other, "--out", str(tmp_path)]) == 74
    assert "another cluster or an earlier topic" in capsys.readouterr().err


def test_a_recorder_killed_ten_times_leaves_no_gap_and_no_duplicate(
    kafka: LocalKafka, topic: str, tmp_path: Path
) -> None:
    padding = b"%0200d"
    records = [
        NewRecord(padding % i + random.Random(i).randbytes(200), b"m-%d" % (i % 50), i % 3)
        for i in range(RECORDS)
    ]
    produce(kafka.bootstrap_servers, topic, records)
    produced = len(records)
    command = [sys.executable, "-m", "worker", "record", topic, "--out", str(tmp_path)]
    chance = random.Random(7)
    interrupted = 0
    # On a busy machine a recorder may be done before it is killed; then there is more to do.
    while interrupted < KILLS and produced < 3 * RECORDS:
        finished = len(segments_of(tmp_path, topic))
        with subprocess.Popen(
            [*command, "--file-mb", "1"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        ) as process:
            wanted = finished + chance.randrange(1, 4)
            deadline_s = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline_s:
                if len(list(tmp_path.rglob("*.parquet"))) >= wanted:
                    time.sleep(chance.random() * 0.01)
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.001)
            killed = process.wait(60) == -signal.SIGKILL
        interrupted += killed
        if not killed:
            produce(kafka.bootstrap_servers, topic, records[: RECORDS // 4])
            produced += RECORDS // 4
    assert interrupted == KILLS
    assert run([*command[3:], "--file-mb", "1"]) == 0
    assert gaps(segments_of(tmp_path, topic)) == []
    recorded = in_files(tmp_path, topic)
    assert len(recorded) == produced
    assert recorded == in_kafka(kafka, topic)


def test_following_ends_in_order_when_asked_to(
    kafka: LocalKafka, topic: str, tmp_path: Path
) -> None:
    produce(kafka.bootstrap_servers, topic, some(100))
    command = [sys.executable, "-m", "worker", "record", topic, "--out", str(tmp_path), "--follow"]
    with subprocess.Popen(
        [*command, "--file-minutes", "0.01"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as process:
        for count in (100, 150):
            deadline_s = time.monotonic() + 60
            while len(in_files(tmp_path, topic)) < count and time.monotonic() < deadline_s:
                time.sleep(0.05)
            produce(kafka.bootstrap_servers, topic, some(50, seed=count))
        process.terminate()
        assert process.wait(60) == 0
    recorded = in_files(tmp_path, topic)
    assert recorded == in_kafka(kafka, topic)[: len(recorded)] or len(recorded) < 200
    assert run([*command[3:-1]]) == 0
    assert in_files(tmp_path, topic) == in_kafka(kafka, topic)


def test_machines_times_and_loops_choose_what_is_played(
    kafka: LocalKafka, topic: str, tmp_path: Path
) -> None:
    begin_ms = 1_767_225_600_000
    events = [
        NewRecord(
            b'{"machine_id":"m-%d","timestamp":%d}' % (i % 2, begin_ms + i * 1000),
            b"m-%d" % (i % 2),
            0,
            begin_ms + i * 1000,
        )
        for i in range(6)
    ]
    produce(kafka.bootstrap_servers, topic, events)
    assert run(["record", topic, "--out", str(tmp_path)]) == 0
    other = unique("replayed")
    create_topics(kafka.bootstrap_servers, other, partitions=3)
    command = ["replay", str(tmp_path), "--to", other, "--speed", "max", "--machine", "m-1"]
    assert run([*command, "--since", "2026-01-01T00:00:02Z", "--loops", "2"]) == 0
    played = in_kafka(kafka, other)
    assert [row[2] - begin_ms for row in played] == [3_000, 5_000, 5_001, 7_001]
    assert played[0][4] == events[3].value
    assert b"2026-01-01T00:00:07.001000Z" in (played[3][4] or b"")


def test_a_topic_with_too_few_partitions_is_refused(
    kafka: LocalKafka, topic: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    produce(kafka.bootstrap_servers, topic, [NewRecord(b"v", b"m", 2)])
    assert run(["record", topic, "--out", str(tmp_path)]) == 0
    other = unique("replayed")
    create_topics(kafka.bootstrap_servers, other, partitions=2)
    assert run(["replay", str(tmp_path), "--to", other]) == 78
    assert "has 2 partitions" in capsys.readouterr().err


def test_a_folder_without_recording_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["replay", str(tmp_path), "--to", "somewhere"]) == 78
    assert "is no recording" in capsys.readouterr().err
