from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from load.local_kafka import LocalKafka
from tests.support.kafka import NewRecord, create_topics, produce, unique
from worker.cli import doctor
from worker.cli.doctor import Check, all_checks, check_bundle, check_port
from worker.cli.main import run
from worker.core.errors import ConfigError
from worker.kafka_config import connect
from worker.settings import Settings, TopicSettings
from worker.topics import compare, create, load_declarations, plan

TIMEOUT_S = 20.0


@pytest.fixture
def port() -> int:
    """A port that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def settings(kafka: LocalKafka, port: int) -> Settings:
    """Settings for the real broker, with topic names that no other test has."""
    return Settings(
        kafka={"brokers": kafka.bootstrap_servers},
        topics={name: unique(name) for name in TopicSettings.model_fields},
        worker={"app_id": unique("app")},
        http={"port": port},
    )


def apply(settings: Settings) -> None:
    admin, metadata = connect(settings.kafka, TIMEOUT_S)
    topics = plan(settings, load_declarations(), metadata)
    missing = compare(admin, metadata, topics, settings.kafka.brokers, TIMEOUT_S).missing
    create(admin, missing, TIMEOUT_S)


def checks(settings: Settings) -> dict[str, Check]:
    return {check.name: check for check in all_checks(lambda: settings)}


def test_on_a_prepared_cluster_nothing_fails(settings: Settings) -> None:
    apply(settings)
    produce(
        settings.kafka.brokers,
        settings.topics.sensor_events,
        [NewRecord(b"{}", b"machine", partition) for partition in (0, 3)],
    )
    found = checks(settings)
    assert list(found) == ["python", "settings", "broker", "topics", "clock", "bundle", "port"]
    assert {name: check.status for name, check in found.items()} == dict.fromkeys(found, "ok")
    assert "at most" in found["clock"].text


def test_missing_topics_fail_with_the_command_that_creates_them(settings: Settings) -> None:
    found = checks(settings)
    assert found["topics"].status == "fail"
    assert settings.changelog_topic in found["topics"].text
    assert "driftdetector topics apply" in found["topics"].text
    assert found["clock"].status == "warn"


def test_another_retention_is_a_warning(settings: Settings) -> None:
    create_topics(
        settings.kafka.brokers, settings.topics.anomalies, config={"retention.ms": "1000"}
    )
    apply(settings)
    found = checks(settings)["topics"]
    assert found.status == "warn"
    assert f"{settings.topics.anomalies} retention.ms" in found.text


def test_a_changelog_with_other_partitions_fails(settings: Settings) -> None:
    create_topics(settings.kafka.brokers, settings.changelog_topic, partitions=3)
    apply(settings)
    found = checks(settings)["topics"]
    assert found.status == "fail"
    assert "3 partitions" in found.text


def test_without_records_the_clock_is_not_checked(settings: Settings) -> None:
    apply(settings)
    assert checks(settings)["clock"].text.startswith("not checked")


@pytest.mark.parametrize(
    ("shift_s", "status", "says"),
    [(-60.0, "warn", "behind the broker's"), (3600.0, "ok", "not behind")],
)
def test_the_clock_is_compared_with_the_brokers_stamp(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    shift_s: float,
    status: str,
    says: str,
) -> None:
    apply(settings)
    topic = settings.topics.sensor_events
    produce(settings.kafka.brokers, topic, [NewRecord(b"{}", b"machine")])
    _, metadata = connect(settings.kafka, TIMEOUT_S)
    real = time.time
    monkeypatch.setattr(doctor.time, "time", lambda: real() + shift_s)
    found = doctor.check_clock(settings, metadata)
    assert found.status == status
    assert says in found.text


def test_a_broker_too_slow_to_hand_events_over_is_not_taken_for_one_without_any(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(settings)
    produce(settings.kafka.brokers, settings.topics.sensor_events, [NewRecord(b"{}", b"machine")])
    _, metadata = connect(settings.kafka, TIMEOUT_S)
    monkeypatch.setattr(doctor, "READ_TIMEOUT_S", 1e-6)
    found = doctor.check_clock(settings, metadata)
    assert found.status == "warn"
    assert found.text.startswith("not checked")
    assert "no sensor event" not in found.text


def test_stamps_of_gateways_say_nothing_about_the_brokers_clock(settings: Settings) -> None:
    topic = settings.topics.sensor_events
    create_topics(settings.kafka.brokers, topic, config={"message.timestamp.type": "CreateTime"})
    ahead_ms = int(time.time() * 1000) + 1_800_000
    produce(settings.kafka.brokers, topic, [NewRecord(b"{}", b"machine", 0, ahead_ms)])
    _, metadata = connect(settings.kafka, TIMEOUT_S)
    assert doctor.check_clock(settings, metadata).text.startswith("not checked")


def test_an_absent_broker_fails_in_ten_seconds_without_a_traceback(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRIFTDETECTOR_KAFKA__BROKERS", "127.0.0.1:1")
    monkeypatch.setenv("DRIFTDETECTOR_HTTP__PORT", str(port))
    started_s = time.monotonic()
    assert run(["doctor"]) == 1
    assert time.monotonic() - started_s < 10
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["ok", "python"],
        ["ok", "settings"],
        ["fail", "broker"],
        ["warn", "topics"],
        ["warn", "clock"],
        ["ok", "bundle"],
        ["ok", "port"],
    ]
    assert "DRIFTDETECTOR_KAFKA__BROKERS" in lines[2]


def test_wrong_settings_fail_and_leave_the_others_unchecked() -> None:
    def load() -> Settings:
        raise ConfigError("http.port: wrong.")

    found = {check.name: check for check in all_checks(load)}
    assert found["settings"] == Check("settings", "fail", "http.port: wrong.")
    assert list(found) == ["python", "settings", "others"]


def test_a_package_that_does_not_load_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.PACKAGES, "no-such-package", "no_such_package")
    found = doctor.check_python()
    assert found.status == "fail"
    assert "no-such-package does not load" in found.text


def test_an_unknown_bundle_fails_in_one_sentence() -> None:
    settings = Settings(worker={"bundle": "no-such-bundle"})
    found = doctor._guarded("bundle", lambda: check_bundle(settings))
    assert found.status == "fail"
    assert "no-such-bundle" in found.text


def test_a_taken_port_fails_with_what_to_set(port: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        found = check_port(Settings(http={"port": port}))
    assert found.status == "fail"
    assert "http.port" in found.text


def test_an_address_of_another_machine_fails() -> None:
    found = check_port(Settings(http={"host": "192.0.2.1", "token": "t"}))
    assert found.status == "fail"


def test_a_healthy_worker_on_the_port_is_fine(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "check_health", lambda *_: (True, "healthy"))
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        found = check_port(Settings(http={"port": port}))
    assert found.status == "ok"


def test_at_least_once_is_explained() -> None:
    settings = Settings(worker={"processing_guarantee": "at_least_once"})
    assert "may come twice" in doctor._check_settings(settings).text
