from __future__ import annotations

import socket
from pathlib import Path

import pytest

from load import local_kafka
from load.local_kafka import LocalKafka, LocalKafkaError, LocalKafkaMissingError
from tests.support.kafka import NewRecord, create_topics, produce, read_topic, unique


def test_records_come_back_in_order_with_key_headers_and_timestamp(kafka: LocalKafka) -> None:
    topic = unique("round-trip")
    create_topics(kafka.bootstrap_servers, topic, partitions=2)
    sent = [
        NewRecord(
            value=str(n).encode(),
            key=b"press-1" if n % 5 else None,
            partition=n % 2,
            timestamp_ms=1_700_000_000_000 + n,
            headers=(("n", str(n).encode()),),
        )
        for n in range(100)
    ]
    produce(kafka.bootstrap_servers, topic, sent)

    read = read_topic(kafka.bootstrap_servers, topic)

    assert [(r.partition, r.offset) for r in read] == [(p, o) for p in (0, 1) for o in range(50)]
    by_number = sorted(read, key=lambda record: record.timestamp_ms)
    assert [
        NewRecord(r.value, r.key, r.partition, r.timestamp_ms, r.headers) for r in by_number
    ] == sent


def test_a_ten_megabyte_record_is_accepted(kafka: LocalKafka) -> None:
    topic = unique("large")
    create_topics(kafka.bootstrap_servers, topic, partitions=1)
    produce(kafka.bootstrap_servers, topic, [NewRecord(b"x" * (10 * 1024 * 1024))])

    assert [len(r.value or b"") for r in read_topic(kafka.bootstrap_servers, topic)] == [10_485_760]


@pytest.mark.kafka
def test_records_and_address_survive_a_kill_and_a_restart(tmp_path: Path) -> None:
    with LocalKafka(tmp_path / "data") as broker:
        address = broker.bootstrap_servers
        create_topics(address, "kept", partitions=1)
        produce(address, "kept", [NewRecord(b"before")])
        broker.kill()
        assert broker.pid is None
        broker.start()
        produce(address, "kept", [NewRecord(b"between")])
        broker.restart()

        assert broker.bootstrap_servers == address
        assert [r.value for r in read_topic(address, "kept")] == [b"before", b"between"]
    assert broker.pid is None


@pytest.mark.kafka
def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind((local_kafka.HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(LocalKafkaError, match=f"Port {port} .* is taken"):
            LocalKafka(tmp_path, port=port).start()


@pytest.mark.kafka
def test_a_broker_that_cannot_start_ends_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "topics").mkdir()
    (tmp_path / "topics" / "meta.properties").write_text("version=1\nnode.id=7\n")
    with pytest.raises(LocalKafkaError, match=r"(?s)ended while starting.*No readable meta"):
        LocalKafka(tmp_path).start()


def test_missing_jars_are_reported_with_the_target_that_fetches_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_kafka, "LIBS", tmp_path)
    with pytest.raises(LocalKafkaMissingError, match="make kafka-jars"):
        LocalKafka()


def test_an_old_java_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(LocalKafkaMissingError, match="not Java 17 or newer"):
        local_kafka.find_java()


def test_an_absent_java_is_named_with_the_package_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LocalKafkaMissingError, match="apt-get install default-jre-headless"):
        local_kafka.find_java()
