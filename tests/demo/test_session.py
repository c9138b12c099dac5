from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka.admin import AdminClient

from load.local_kafka import LocalKafka
from tests.support.kafka import NewRecord, create_topics, produce, read_topic, unique
from worker.cli.main import run

ROOT = Path(__file__).parents[2]
PUMP = ROOT / "tests/data/pump.toml"
PROGRAM = [sys.executable, "-m", "worker", "demo"]


def environment(folder: Path) -> dict[str, str]:
    """No settings of the person who runs the tests; the demo's log goes to `folder`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("DRIFTDETECTOR_")}
    return {**kept, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "TERM": "xterm"}


def demo(folder: Path, options: str) -> tuple[dict[str, Any], str]:
    """Run a demo to its end; returns the report and stdout."""
    process = subprocess.run(
        [*PROGRAM, *options.split(), "--report", "out.json"],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    return json.loads((folder / "out.json").read_text()), process.stdout


@contextmanager
def running_demo(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A demo that has begun to publish, and the address of the worker's port."""
    process = subprocess.Popen(
        [*PROGRAM, *options],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    # A demo that never gets ready ends here, and with it the reading of its output.
    deadline = threading.Timer(60, process.kill)
    deadline.start()
    try:
        assert process.stdout is not None
        ready = next((line for line in process.stdout if "The worker is ready" in line), "")
        found = re.search(r"(http://\S+)/health", ready)
        assert found, "the demo ended before it was ready"
        yield process, found[1]
    finally:
        deadline.cancel()
        process.kill()
        process.communicate(timeout=30)


def test_a_demo_accounts_for_every_event_and_finds_most_faults(tmp_path: Path) -> None:
    report, shown = demo(tmp_path, "--duration 12s --seed 7")
    parts = report["events_scored"] + report["events_late"] + report["events_dead"]
    assert report["events_produced"] == parts
    assert min(report["events_late"], report["events_dead"], report["anomalies"]) > 0
    assert report["episodes"] >= report["faults_detected"] >= report["first_channel_right"] > 0
    assert report["faults_injected"] >= 3  # a slow machine gets less far in simulated time
    assert report["faults_detected"] > report["faults_injected"] / 2
    assert report["chance_level"] < 0.2
    assert report["exactly_once"] is False
    assert 12 <= report["duration_s"] < 17
    assert report["simulated_s"] > 0.2 * 86_400
    assert (report["seed"], report["machines"]) == (7, 50)
    assert "cannot keep transactions" in shown
    assert re.search(r"\[ +\d+ s\] simulated .* events/s, lag ", shown)
    assert f"{report['faults_detected']} of {report['faults_injected']} detected" in shown
    log = next(tmp_path.glob("driftdetector-demo-*.log"))
    assert str(log) in shown
    assert "Traceback" not in log.read_text()


def test_on_a_real_kafka_it_is_exactly_once_and_leaves_other_topics_alone(
    kafka: LocalKafka, tmp_path: Path
) -> None:
    brokers = kafka.bootstrap_servers
    other = unique("sensor-events")
    create_topics(brokers, other)
    produce(brokers, other, [NewRecord(b"{}", b"m-0001")])
    report, shown = demo(tmp_path, f"--broker {brokers} --duration 6s --seed 3")
    assert report["exactly_once"] is True
    prefix = re.search(r"Its topics begin with (\S+) ", shown)
    assert prefix
    counts = {
        stream: len(read_topic(brokers, f"{prefix[1]}{stream}"))
        for stream in ("sensor-events", "anomalies", "late-events", "dead-letters")
    }
    assert counts == {
        "sensor-events": report["events_produced"],
        "anomalies": report["anomalies"],
        "late-events": report["events_late"],
        "dead-letters": report["events_dead"],
    }
    assert len(read_topic(brokers, other)) == 1
    names = AdminClient({"bootstrap.servers": brokers}).list_topics(timeout=10).topics
    own = {name for name in names if name.startswith(prefix[1])}
    others = ["anomaly-episodes", "sensor-health", "replays", "machine-state-changelog"]
    others += [
        "drift-partials",
        "drift-state-changelog",
        "drift-events",
        "retraining-requests",
        "audit",
    ]
    assert own == {f"{prefix[1]}{stream}" for stream in [*counts, *others]}


def test_another_channel_set_runs_from_training_to_the_demo(tmp_path: Path) -> None:
    models = tmp_path / "models/pump"
    assert run(["train", "--simulate", "--channels", str(PUMP), "--out", str(models)]) == 0
    report, shown = demo(tmp_path, f"--bundle {models} --duration 12s --seed 7")
    assert report["model_version"] == "pump/1.0.0"
    assert report["events_scored"] > 10_000
    assert report["faults_detected"] > report["faults_injected"] / 2 > 5
    assert "model pump/1.0.0" in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order_and_leaves_no_process(
    tmp_path: Path, number: signal.Signals
) -> None:
    with running_demo(tmp_path, "--report", "out.json") as (process, url):
        with urllib.request.urlopen(f"{url}/health", timeout=10) as response:
            assert json.loads(response.read())["status"] == "healthy"
        children = psutil.Process(process.pid).children(recursive=True)
        threading.Event().wait(2.0)
        process.send_signal(number)
        shown, errors = process.communicate(timeout=30)
    assert (process.returncode, errors, children) == (0, "", [])
    assert "What happened" in shown
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["events_scored"] > 0


def test_a_second_signal_ends_it_at_once() -> None:
    code = (
        "import os, signal, time; from worker.demo.session import Stop; stop = Stop()\n"
        "with stop.on_signals():\n"
        "    os.kill(os.getpid(), signal.SIGINT); assert stop.asked\n"
        "    os.kill(os.getpid(), signal.SIGINT); time.sleep(60)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (process.returncode, process.stderr) == (130, "")


def test_stopped_before_it_scored_anything_it_says_so_and_fails(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*PROGRAM],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    try:
        assert process.stdout is not None
        next(line for line in process.stdout if "The log is in" in line)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 70
    assert errors == "error: the demo was stopped before it scored an event.\n"


def test_on_a_terminal_it_takes_the_screen_and_gives_it_back(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, "--duration", "2s"],
        cwd=tmp_path,
        env={**environment(tmp_path), "COLUMNS": "80", "LINES": "24"},
        stdout=follower,
        stderr=subprocess.PIPE,
    )
    os.close(follower)
    deadline = threading.Timer(60, process.kill)
    deadline.start()
    shown = bytearray()
    try:
        while chunk := read_or_end(leader):
            shown += chunk
        assert process.wait(timeout=30) == 0
    finally:
        deadline.cancel()
        process.kill()
        process.communicate(timeout=30)
        os.close(leader)
    begin, machines, end = (
        shown.find(text) for text in (b"\x1b[?1049h", b"Machines: ", b"\x1b[?1049l")
    )
    assert 0 < begin < machines < end < shown.find(b"What happened")


def read_or_end(leader: int) -> bytes:
    try:
        return os.read(leader, 65_536)
    except OSError:  # what Linux answers when the other side is closed
        return b""
