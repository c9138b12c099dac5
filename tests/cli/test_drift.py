"""``driftdetector drift accept`` and ``reference show``."""

from __future__ import annotations

from datetime import datetime

import msgspec
import pytest

from load.local_kafka import LocalKafka
from tests.support.kafka import create_topics, read_topic, unique
from worker.cli.main import run
from worker.core.messages import DriftAcceptance
from worker.core.outgoing import partition_of


def test_the_reference_is_shown_with_each_feature(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["reference", "show"]) == 0
    shown = capsys.readouterr().out
    assert "machine-health/1.0.0, reference " in shown
    assert "model_score" in shown


@pytest.mark.parametrize("command", [["reference", "show"], ["drift", "accept", "--note", "x"]])
def test_a_group_that_the_reference_does_not_have_is_refused(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, "--group", "nobody"]) == 78
    assert "knows no group 'nobody'; write one of fleet" in capsys.readouterr().err


def test_an_acceptance_goes_where_the_partials_of_its_group_are(
    kafka: LocalKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    app_id = unique("app")
    monkeypatch.setenv("DRIFTDETECTOR_KAFKA__BROKERS", kafka.bootstrap_servers)
    monkeypatch.setenv("DRIFTDETECTOR_WORKER__APP_ID", app_id)
    create_topics(kafka.bootstrap_servers, f"{app_id}-drift-partials", partitions=4)
    assert run(["drift", "accept", "--note", "new tools"]) == 0
    (record,) = read_topic(kafka.bootstrap_servers, f"{app_id}-drift-partials")
    assert (record.key, record.partition) == (b"fleet", partition_of(b"fleet", 4))
    acceptance = msgspec.json.decode(record.value or b"", type=DriftAcceptance)
    assert (acceptance.group, acceptance.note) == ("fleet", "new tools")
    assert isinstance(acceptance.accepted_at, datetime)
