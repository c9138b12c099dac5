from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from load.local_kafka import LocalKafka
from tests.support.kafka import create_topics, read_topic, unique
from worker.cli.main import run
from worker.core.messages import format_time_us

ROOT = Path(__file__).parents[2]
PUMP = ROOT / "tests/data/pump.toml"


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def test_a_file_gets_the_simulated_time_at_once_and_always_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    begun_s = time.monotonic()
    for file in files:
        command = f"simulate --out {file} --machines 3 --speed 60 --duration 2m --seed 5"
        assert run(command.split()) == 0
    assert time.monotonic() - begun_s < 30
    assert files[0].read_bytes() == files[1].read_bytes()
    events = [json.loads(line) for line in lines(files[0])]
    assert len(events) == 3 * 2 * 60 * 6
    assert {event["machine_id"] for event in events} == {"m-0001", "m-0002", "m-0003"}
    assert "2,160 events of 3 machines" in capsys.readouterr().out


def test_another_channel_set_interval_and_the_truth_work_too(tmp_path: Path) -> None:
    out, truth = tmp_path / "out.jsonl", tmp_path / "truth.json"
    command = (
        f"simulate --channels {PUMP} --out {out} --truth {truth} --machines 20 --interval 10m "
        "--speed 1000 --duration 10m --late-rate 0.05 --garbage-rate 0.05"
    )
    assert run(command.split()) == 0
    document = json.loads(truth.read_text())
    assert document["spec"] == "pump"
    assert len(document["faults"]) > 10
    assert document["end"] == format_time_us(1_767_225_600_000_000 + 10_000 * 60_000_000)
    first = json.loads(lines(out)[0])
    assert list(first) == ["machine_id", "timestamp", "flow", "pressure", "motor_current"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--out x.jsonl", "--duration: a file needs an end"),
        ("--out x.jsonl --duration 1m --broker a:1", "--out: events go either"),
        ("--duration soon", "--duration: 'soon' is not a duration"),
        ("--interval 0s", "--interval: '0s' is not a duration"),
        ("--channels none.toml", "--channels: none.toml cannot be read"),
        ("--out none/x.jsonl --duration 1m", "--out: none/x.jsonl cannot be written"),
        ("--out x.jsonl --duration 1m --truth none/t", "--truth: none/t cannot be written"),
    ],
)
def test_a_wrong_option_gives_one_sentence_and_a_bad_status(
    options: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["simulate", *options.split()]) == 78
    errors = capsys.readouterr().err.strip().splitlines()
    assert errors[-1].startswith(f"error: {sentence}")


def test_a_missing_broker_gives_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("worker.gateway.CONNECT_S", 1.0)
    assert run(["simulate", "--broker", "localhost:1", "--duration", "5s"]) == 69
    assert "no broker answers at localhost:1" in capsys.readouterr().err


def test_a_missing_topic_gives_one_sentence(
    kafka: LocalKafka, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"simulate --broker {kafka.bootstrap_servers} --topic nothing-here --duration 5s"
    assert run(command.split()) == 69
    assert "topic 'nothing-here' does not exist" in capsys.readouterr().err


def test_published_events_catch_up_with_the_clock_and_never_pass_it(
    kafka: LocalKafka, tmp_path: Path
) -> None:
    topic = unique("sensor-events")
    create_topics(kafka.bootstrap_servers, topic)
    truth = tmp_path / "truth.json"
    command = (
        f"simulate --broker {kafka.bootstrap_servers} --topic {topic} --machines 20 "
        f"--interval 10s --speed 600 --duration 4s --truth {truth}"
    )
    assert run(command.split()) == 0
    ended = format_time_us(time.time_ns() // 1000)
    records = read_topic(kafka.bootstrap_servers, topic)
    assert len(records) == pytest.approx(20 * 4 * 60, rel=0.1)
    partition_of: dict[bytes | None, int] = {}
    for record in records:
        event = json.loads(record.value or b"")
        assert record.key == event["machine_id"].encode()
        assert event["timestamp"] < ended
        assert partition_of.setdefault(record.key, record.partition) == record.partition
    assert len(set(partition_of.values())) == 4
    newest = max(json.loads(record.value or b"")["timestamp"] for record in records)
    assert newest > format_time_us(time.time_ns() // 1000 - 300_000_000)
    document = json.loads(truth.read_text())
    assert document["end"] <= ended


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly_with_a_summary(
    kafka: LocalKafka, tmp_path: Path, number: signal.Signals
) -> None:
    topic = unique("sensor-events")
    create_topics(kafka.bootstrap_servers, topic)
    truth = tmp_path / "truth.json"
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", "from worker.cli.main import main; main()", "simulate"),
            *("--broker", kafka.bootstrap_servers, "--topic", topic, "--truth", str(truth)),
            *("--speed", "60"),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 30
        while not truth.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1.5)
        process.send_signal(number)
        out, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "events of 50 machines" in out
    assert "Traceback" not in errors
    events = int(out.split()[0].replace(",", ""))
    assert events == len(read_topic(kafka.bootstrap_servers, topic)) > 0
