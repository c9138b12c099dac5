from __future__ import annotations

from pathlib import Path

import pytest

from load.local_kafka import LocalKafka
from tests.support.kafka import create_topics, unique, wait_until
from worker.cli import topics
from worker.cli.main import run
from worker.settings import Settings, TopicSettings


@pytest.fixture
def names(kafka: LocalKafka, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """Configured topic names that no other test has, by setting."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("DRIFTDETECTOR_KAFKA__BROKERS", kafka.bootstrap_servers)
    app_id = unique("app")
    monkeypatch.setenv("DRIFTDETECTOR_WORKER__APP_ID", app_id)
    chosen = Settings(worker={"app_id": app_id}).internal_topics
    for setting in map(str.upper, TopicSettings.model_fields):
        chosen[setting] = unique(setting.lower())
        monkeypatch.setenv(f"DRIFTDETECTOR_TOPICS__{setting}", chosen[setting])
    return chosen


def test_missing_topics_are_reported_then_created_then_as_declared(
    names: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["topics", "check"]) == 1
    assert capsys.readouterr().out.count("missing; driftdetector topics apply creates it") == 13
    assert run(["topics", "apply", "--dry-run"]) == 0
    assert capsys.readouterr().out.count("would be created (4 partitions)") == 9
    assert run(["topics", "check"]) == 1
    capsys.readouterr()
    assert run(["topics", "apply"]) == 0
    shown = capsys.readouterr().out
    wait_until(lambda: run(["topics", "check"]) == 0, "the topics are known")
    capsys.readouterr()
    assert [line.split(": ")[0] for line in shown.splitlines()] == [
        names["SENSOR_EVENTS"],
        names["ANOMALIES"],
        names["ANOMALY_EPISODES"],
        names["AUDIT"],
        names["DEAD_LETTERS"],
        names["DRIFT_EVENTS"],
        names["drift-partials"],
        names["drift-state-changelog"],
        names["LATE_EVENTS"],
        names["machine-state-changelog"],
        names["REPLAYS"],
        names["RETRAINING_REQUESTS"],
        names["SENSOR_HEALTH"],
    ]
    assert shown.count(": created (4 partitions)") == 9
    for command in ("check", "apply"):
        assert run(["topics", command]) == 0
        assert capsys.readouterr().out.count(": as declared") == 13


def test_a_differing_topic_is_shown_as_a_table_with_the_command_to_change_it(
    kafka: LocalKafka, names: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    create_topics(
        kafka.bootstrap_servers,
        names["SENSOR_EVENTS"],
        partitions=2,
        config={"retention.ms": "1000"},
    )
    assert run(["topics", "apply"]) == 1
    shown = capsys.readouterr().out
    assert f"{names['SENSOR_EVENTS']}: differs" in shown
    assert f"{names['machine-state-changelog']}: created (2 partitions)" in shown
    rows = [line.split("│")[1:5] for line in shown.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert [names["SENSOR_EVENTS"], "partitions", "4", "2"] in cells
    assert [names["SENSOR_EVENTS"], "retention.ms", "604800000", "1000"] in cells
    assert f"--topic {names['SENSOR_EVENTS']} --partitions 4" in shown
    assert "--add-config retention.ms=604800000" in shown


def test_the_replication_factor_is_passed_on(
    names: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["topics", "apply", "--replication-factor", "3"]) == 69
    assert "the cluster refuses to create it" in capsys.readouterr().err
    assert run(["topics", "apply", "--replication-factor", "1"]) == 0
    # A busy broker knows of new topics a little after the controller.
    wait_until(lambda: run(["topics", "check"]) == 0, "the topics are known")
    capsys.readouterr()
    assert run(["topics", "apply", "--replication-factor", "3"]) == 1
    assert "replication factor" in capsys.readouterr().out


def test_an_absent_broker_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTDETECTOR_KAFKA__BROKERS", "127.0.0.1:1")
    monkeypatch.setattr(topics, "TIMEOUT_S", 0.5)
    assert run(["topics", "check"]) == 69
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: kafka.brokers: no broker answers at 127.0.0.1:1 within 0.5 s")
    assert err.count("\n") == 1
