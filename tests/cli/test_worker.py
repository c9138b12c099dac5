"""``driftdetector worker`` as a process: what stops it at once, and what it tells."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from load.local_kafka import LocalKafka, free_port
from load.worker_process import WorkerProcess, create_topics
from tests.support.kafka import QUIET, unique
from tests.support.kafka import create_topics as create_plain_topics
from worker.assets import asset_dir

TIMEOUT_S = 90.0


def run_worker(**variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worker", "worker"],
        env={**os.environ, "DRIFTDETECTOR_HTTP__PORT": "0", **variables},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def assert_one_sentence(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == status
    for word in words:
        assert word in errors[0]


def test_a_wrong_setting_is_one_sentence() -> None:
    done = run_worker(DRIFTDETECTOR_WORKER__COMMIT_INTERVAL_MS="soon")
    assert_one_sentence(done, 78, "worker.commit_interval_ms", "soon")


def test_a_missing_broker_is_one_sentence() -> None:
    done = run_worker(DRIFTDETECTOR_KAFKA__BROKERS=f"127.0.0.1:{free_port()}")
    assert_one_sentence(done, 69, "kafka.brokers", "no broker answers")


def test_missing_topics_are_one_sentence_with_the_command_that_helps(kafka: LocalKafka) -> None:
    app_id = unique("missing")
    done = run_worker(
        DRIFTDETECTOR_KAFKA__BROKERS=kafka.bootstrap_servers, DRIFTDETECTOR_WORKER__APP_ID=app_id
    )
    assert_one_sentence(done, 69, f"{app_id}-machine-state-changelog", "driftdetector topics apply")


def test_a_changelog_that_does_not_fit_the_input_is_one_sentence(kafka: LocalKafka) -> None:
    app_id = unique("unfit")
    create_plain_topics(kafka.bootstrap_servers, f"{app_id}-machine-state-changelog", partitions=3)
    settings = {"kafka.brokers": kafka.bootstrap_servers, "worker.app_id": app_id}
    create_topics(settings)
    done = run_worker(
        DRIFTDETECTOR_KAFKA__BROKERS=kafka.bootstrap_servers, DRIFTDETECTOR_WORKER__APP_ID=app_id
    )
    assert_one_sentence(done, 69, "3 partitions", "worker.app_id")


def test_a_corrupted_bundle_is_one_sentence(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(asset_dir("models") / "machine-health" / "1.0.0", bundle)
    model = bundle / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    done = run_worker(DRIFTDETECTOR_WORKER__BUNDLE=str(bundle))
    assert_one_sentence(done, 65, "sha256")


def test_state_of_another_channel_set_is_refused(kafka: LocalKafka, tmp_path: Path) -> None:
    app_id = unique("foreign")
    settings = {
        "kafka.brokers": kafka.bootstrap_servers,
        "worker.app_id": app_id,
        "worker.instance_id": "0",
    }
    create_topics(settings)
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers}, logger=QUIET)
    producer.produce(f"{app_id}-machine-state-changelog", b"\x01" * 64, b"m|0", partition=0)
    assert producer.flush(30) == 0
    with WorkerProcess(settings, tmp_path / "worker.log") as worker:
        assert worker.process.wait(TIMEOUT_S) == 65
    log = (tmp_path / "worker.log").read_text()
    assert "partition 0: the row at offset 0 under key b'm|0' (64 bytes) is damaged" in log
    assert "Traceback" not in log


def test_health_and_metrics_answer_while_it_runs(kafka: LocalKafka, tmp_path: Path) -> None:
    settings = {
        "kafka.brokers": kafka.bootstrap_servers,
        "worker.app_id": unique("healthy"),
        "worker.instance_id": "0",
    }
    create_topics(settings)
    with WorkerProcess(settings, tmp_path / "worker.log") as worker:
        worker.wait_until_healthy(TIMEOUT_S)
        health = json.loads(worker.get("/health"))
        assert health["model_loaded"] is True
        assert health["uptime_seconds"] > 0
        assert 'model_info{framework="onnxruntime' in worker.get("/metrics")
        assert worker.terminate() == 0


@pytest.mark.parametrize("signal_name", ["SIGTERM", "SIGINT"])
def test_a_signal_while_it_starts_ends_it_quietly(
    kafka: LocalKafka, tmp_path: Path, signal_name: str
) -> None:
    import signal
    import time

    app_id = unique("early")
    settings = {"kafka.brokers": kafka.bootstrap_servers, "worker.app_id": app_id}
    create_topics(settings)
    worker = WorkerProcess(settings, tmp_path / "worker.log")
    with worker:
        while not worker.get("/health"):
            assert worker.process.poll() is None
            time.sleep(0.01)
        worker.process.send_signal(getattr(signal, signal_name))
        assert worker.process.wait(TIMEOUT_S) == 0
    assert "Traceback" not in (tmp_path / "worker.log").read_text()
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers}, logger=QUIET)
    group = admin.describe_consumer_groups([app_id])[app_id].result(30)
    assert group.members == []
