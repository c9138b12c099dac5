from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from load.local_kafka import LocalKafka
from tests.support.kafka import create_topics, unique, wait_until
from worker.assets import asset_dir
from worker.core.errors import BrokerError, ConfigError, TopicError
from worker.core.messages import MAX_EVENT_BYTES, MAX_PAYLOAD_BYTES
from worker.kafka_config import connect
from worker.settings import KafkaSettings, Settings
from worker.topics import (
    CHANGELOG,
    INPUT,
    Comparison,
    Declaration,
    Topic,
    compare,
    create,
    load_declarations,
    plan,
)

TIMEOUT_S = 20.0


@pytest.fixture
def settings(kafka: LocalKafka) -> Settings:
    """Settings with topic names that no other test has."""
    streams = ("sensor_events", "anomalies", "anomaly_episodes", "sensor_health", "late_events")
    names = {name: unique(name) for name in streams}
    return Settings(
        kafka={"brokers": kafka.bootstrap_servers},
        topics={
            **names,
            "dead_letters": unique("dead-letters"),
            "replays": unique("replays"),
            "drift_events": unique("drift-events"),
            "retraining_requests": unique("retraining-requests"),
            "audit": unique("audit"),
        },
        worker={"app_id": unique("app")},
    )


def planned(settings: Settings) -> tuple[AdminClient, list[Topic], Comparison]:
    admin, metadata = connect(settings.kafka, TIMEOUT_S)
    topics = plan(settings, load_declarations(), metadata)
    return admin, topics, compare(admin, metadata, topics, settings.kafka.brokers, TIMEOUT_S)


def apply(settings: Settings) -> None:
    admin, _, comparison = planned(settings)
    create(admin, comparison.missing, TIMEOUT_S)
    # The controller has them; the broker learns of them a moment later.
    wait_until(lambda: not planned(settings)[2].missing, "the broker knows the topics")


def change(settings: Settings, topic: str, key: str, value: str) -> None:
    admin, _ = connect(settings.kafka, TIMEOUT_S)
    entry = ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(TIMEOUT_S)

    def visible() -> bool:
        found = admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)])
        return all(f.result(TIMEOUT_S)[key].value == value for f in found.values())

    wait_until(visible, f"{key} of {topic} is {value}")


def test_every_stream_and_the_changelog_are_declared() -> None:
    declarations = load_declarations()
    assert next(iter(declarations)) == INPUT
    outputs = {"anomalies", "anomaly-episodes", "sensor-health", "late-events", "dead-letters"}
    drift = {"drift-partials", "drift-state-changelog", "drift-events", "retraining-requests"}
    assert set(declarations) == {INPUT, CHANGELOG, "replays", "audit", *outputs, *drift}


def test_declared_schemas_exist() -> None:
    schemas = [d.schema for d in load_declarations().values() if d.schema]
    assert len(schemas) == 10
    assert all((asset_dir("schemas") / name).is_file() for name in schemas)


def test_the_changelog_is_compacted_and_follows_the_input() -> None:
    changelog = load_declarations()[CHANGELOG]
    assert changelog.config["cleanup.policy"] == "compact"
    assert changelog.partitions == "same as sensor-events"


def test_a_replay_is_never_forgotten() -> None:
    assert load_declarations()["replays"].config["cleanup.policy"] == "compact"


def test_the_broker_stamps_sensor_events_so_that_future_timestamps_can_be_judged() -> None:
    for declaration in load_declarations().values():
        assert declaration.config["message.timestamp.type"] == "LogAppendTime"


def test_the_longest_event_fits_into_every_topic_it_may_reach() -> None:
    declarations = load_declarations()
    for name in (INPUT, "late-events"):
        assert int(declarations[name].config["max.message.bytes"]) > MAX_EVENT_BYTES * 4 / 3 + 4096
    # A dead letter holds its key and payload, cut, as base64; and the cut key is its own.
    longest_letter = (2 * 4 / 3 + 1) * MAX_PAYLOAD_BYTES + 4096
    assert int(declarations["dead-letters"].config["max.message.bytes"]) > longest_letter


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("sensor-events", "name = ", "not a topic declaration"),
        ("sensor-events", 'name = "sensor-events"', "not a topic declaration"),
        ("anomalies", None, 'name must be that of the file; write "anomalies"'),
        ("sensor-events", "unknown = 1\n", "not a topic declaration"),
    ],
)
def test_a_wrong_declaration_is_refused_in_one_sentence_that_names_its_file(
    tmp_path: Path, name: str, text: str | None, says: str
) -> None:
    original = (asset_dir("topics") / "sensor-events.toml").read_text("utf-8")
    broken = original if text is None else (text + original if text.startswith("u") else text)
    (tmp_path / f"{name}.toml").write_text(broken)
    with pytest.raises(ConfigError, match=says) as caught:
        load_declarations(tmp_path)
    assert f"{name}.toml" in str(caught.value)


def test_without_the_input_there_are_no_declarations(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sensor-events\.toml is missing"):
        load_declarations(tmp_path)


def test_a_fresh_cluster_gets_every_topic_under_its_configured_name(settings: Settings) -> None:
    apply(settings)
    _, topics, comparison = planned(settings)
    assert comparison == Comparison([], [])
    assert [topic.name for topic in topics] == [
        settings.topics.sensor_events,
        settings.topics.anomalies,
        settings.topics.anomaly_episodes,
        settings.topics.audit,
        settings.topics.dead_letters,
        settings.topics.drift_events,
        settings.partials_topic,
        settings.drift_changelog_topic,
        settings.topics.late_events,
        settings.changelog_topic,
        settings.topics.replays,
        settings.topics.retraining_requests,
        settings.topics.sensor_health,
    ]


def test_a_dry_run_creates_nothing(settings: Settings) -> None:
    admin, topics, comparison = planned(settings)
    create(admin, comparison.missing, TIMEOUT_S, dry_run=True)
    assert planned(settings)[2].missing == topics


def test_topics_that_somebody_else_creates_meanwhile_are_no_error(settings: Settings) -> None:
    admin, _, comparison = planned(settings)
    apply(settings)
    create(admin, comparison.missing, TIMEOUT_S)


def test_the_changelog_follows_the_partitions_that_the_input_really_has(
    settings: Settings,
) -> None:
    create_topics(settings.kafka.brokers, settings.topics.sensor_events, partitions=7)
    apply(settings)
    _, metadata = connect(settings.kafka, TIMEOUT_S)
    assert len(metadata.topics[settings.changelog_topic].partitions) == 7


def test_differences_are_reported_with_the_command_that_changes_them(settings: Settings) -> None:
    apply(settings)
    change(settings, settings.topics.anomalies, "retention.ms", "1000")
    _, _, comparison = planned(settings)
    (retention,) = comparison.differences
    assert retention[:4] == (settings.topics.anomalies, "retention.ms", "2592000000", "1000")
    assert retention.hint == (
        f"kafka-configs.sh --bootstrap-server {settings.kafka.brokers} --alter --entity-type "
        f"topics --entity-name {retention.topic} --add-config retention.ms=2592000000"
    )


def test_an_existing_topic_is_never_changed(settings: Settings) -> None:
    create_topics(settings.kafka.brokers, settings.topics.anomalies, partitions=2)
    before = planned(settings)[2].differences
    apply(settings)
    after = planned(settings)[2].differences
    assert before == after
    assert {d.topic for d in after} == {settings.topics.anomalies}


def test_too_few_and_too_many_partitions_have_different_hints(settings: Settings) -> None:
    create_topics(settings.kafka.brokers, settings.topics.sensor_events, partitions=2)
    create_topics(settings.kafka.brokers, settings.topics.anomalies, partitions=9)
    create_topics(settings.kafka.brokers, settings.changelog_topic, partitions=3)
    differences = planned(settings)[2].differences
    partitions = {d.topic: d for d in differences if d.setting == "partitions"}
    too_few = partitions[settings.topics.sensor_events]
    assert "kafka-topics.sh" in too_few.hint
    assert "away from their state" in too_few.hint
    assert "cannot remove" in partitions[settings.topics.anomalies].hint
    changelog = partitions[settings.changelog_topic]
    assert (changelog.declared, changelog.actual) == ("2", "3")
    assert "worker.app_id" in changelog.hint


def test_another_replication_factor_is_a_difference_only_when_it_is_asked_for(
    settings: Settings,
) -> None:
    apply(settings)
    admin, metadata = connect(settings.kafka, TIMEOUT_S)
    topics = plan(settings, load_declarations(), metadata)
    brokers = settings.kafka.brokers
    found = compare(admin, metadata, topics, brokers, TIMEOUT_S, replication_factor=3)
    assert [d[1:4] for d in found.differences] == [("replication factor", "3", "1")] * len(topics)


def test_a_topic_that_the_cluster_refuses_is_one_sentence(settings: Settings) -> None:
    admin, topics, _ = planned(settings)
    with pytest.raises(TopicError, match=rf"^topic {topics[0].name}: .*refuses.*\.$"):
        create(admin, topics[:1], TIMEOUT_S, replication_factor=3)
    nonsense = msgspec.structs.replace(topics[0].declaration, config={"no.such.key": "1"})
    with pytest.raises(TopicError, match=r"no\.such\.key"):
        create(admin, [topics[0]._replace(declaration=nonsense)], TIMEOUT_S)


def test_a_setting_that_the_cluster_does_not_know_is_a_difference(settings: Settings) -> None:
    apply(settings)
    admin, metadata = connect(settings.kafka, TIMEOUT_S)
    topic = plan(settings, load_declarations(), metadata)[0]
    odd = msgspec.structs.replace(topic.declaration, config={"no.such.key": "1"})
    found = compare(admin, metadata, [topic._replace(declaration=odd)], "b:1", TIMEOUT_S)
    assert found.differences[0].actual == "(unknown)"
    assert "does not know" in found.differences[0].hint


def test_lists_are_compared_without_their_order(settings: Settings) -> None:
    apply(settings)
    change(settings, settings.topics.anomalies, "cleanup.policy", "compact,delete")
    admin, metadata = connect(settings.kafka, TIMEOUT_S)
    topic = plan(settings, load_declarations(), metadata)[1]
    for policy, count in (("delete,compact", 0), ("delete", 1)):
        declared = msgspec.structs.replace(topic.declaration, config={"cleanup.policy": policy})
        asked = [topic._replace(declaration=declared)]
        assert len(compare(admin, metadata, asked, "b:1", TIMEOUT_S).differences) == count


def test_a_topic_whose_settings_the_cluster_does_not_tell_is_one_sentence(
    settings: Settings,
) -> None:
    admin, metadata = connect(settings.kafka, TIMEOUT_S)
    gone = Topic("gone", 4, load_declarations()[INPUT])
    metadata.topics["gone"] = type("Gone", (), {"partitions": {}})()
    with pytest.raises(BrokerError, match="topic gone: the cluster does not tell its settings"):
        compare(admin, metadata, [gone], "b:1", TIMEOUT_S)


def test_declared_names_do_not_change_with_the_configured_ones() -> None:
    settings = Settings(kafka=KafkaSettings(), topics={"anomalies": "factory-1.anomalies"})
    declaration: Declaration = load_declarations()["anomalies"]
    assert declaration.name == "anomalies"
    assert settings.topics.anomalies == "factory-1.anomalies"
