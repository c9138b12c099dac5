"""``driftdetector drift accept`` and ``reference show``."""

from __future__ import annotations

from datetime import datetime

import msgspec
import pytest

from load.local_kafka import LocalKafka
from tests.support.kafka import NewRecord, create_topics, produce, read_topic, unique
from worker.cli.channels import default_channels, read_spec
from worker.cli.main import run
from worker.contracts import example_drift_event
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


@pytest.fixture
def app_id(kafka: LocalKafka, monkeypatch: pytest.MonkeyPatch) -> str:
    """An application whose topics exist."""
    name = unique("app")
    monkeypatch.setenv("DRIFTDETECTOR_KAFKA__BROKERS", kafka.bootstrap_servers)
    monkeypatch.setenv("DRIFTDETECTOR_WORKER__APP_ID", name)
    monkeypatch.setenv("DRIFTDETECTOR_TOPICS__DRIFT_EVENTS", f"{name}-drift-events")
    create_topics(kafka.bootstrap_servers, f"{name}-drift-partials", partitions=4)
    create_topics(kafka.bootstrap_servers, f"{name}-drift-events", partitions=1)
    return name


def tell(kafka: LocalKafka, app_id: str, *statuses: str) -> None:
    """What the agent says of an event of the fleet, with these statuses."""
    example = example_drift_event(read_spec(default_channels()))
    told = [
        NewRecord(msgspec.json.encode({**example, "status": status}), b"fleet")
        for status in statuses
    ]
    produce(kafka.bootstrap_servers, f"{app_id}-drift-events", told)


def test_an_acceptance_goes_where_the_partials_of_its_group_are(
    kafka: LocalKafka, app_id: str
) -> None:
    tell(kafka, app_id, "opened", "updated")
    assert run(["drift", "accept", "--note", "new tools"]) == 0
    (record,) = read_topic(kafka.bootstrap_servers, f"{app_id}-drift-partials")
    assert (record.key, record.partition) == (b"fleet", partition_of(b"fleet", 4))
    acceptance = msgspec.json.decode(record.value or b"", type=DriftAcceptance)
    assert (acceptance.group, acceptance.note) == ("fleet", "new tools")
    assert acceptance.features is None
    assert isinstance(acceptance.accepted_at, datetime)


@pytest.mark.parametrize("statuses", [(), ("opened", "closed")])
def test_what_is_not_open_cannot_be_accepted(
    kafka: LocalKafka, app_id: str, statuses: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    tell(kafka, app_id, *statuses)
    assert run(["drift", "accept", "--note", "new tools"]) == 78
    assert "no event of fleet is open" in capsys.readouterr().err
    assert read_topic(kafka.bootstrap_servers, f"{app_id}-drift-partials") == []


def test_a_feature_that_did_not_drift_cannot_be_accepted(
    kafka: LocalKafka, app_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tell(kafka, app_id, "opened")
    accept = ["drift", "accept", "--note", "x", "--features"]
    assert run([*accept, "model_score"]) == 78
    assert "none of them drifted in what is open of fleet" in capsys.readouterr().err
    assert run([*accept, "nonsense"]) == 78
    assert "has no feature 'nonsense'" in capsys.readouterr().err
