"""Topics as declared in topics/*.toml, and how a cluster differs from them.

Creates what is missing and reports every difference; changes no existing topic.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its stub hides them
    AdminClient,
    ClusterMetadata,
    ConfigResource,
    NewTopic,
)

from worker.assets import asset_dir
from worker.core.errors import BrokerError, ConfigError, TopicError
from worker.kafka_config import describe
from worker.settings import Settings

INPUT = "sensor-events"
CHANGELOG = "machine-state-changelog"
_SAME = "same as "


class Declaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of topics/.

    Attributes:
        name: the default name; ``topics.*`` of the settings may give another.
        key: what the record key is.
        partitions: a number, or as many as another topic has, whose state it holds.
        config: Kafka's own topic settings, as text.
        schema: file in schemas/ of the record's value; None: not JSON.
    """

    name: str
    description: str
    key: str
    partitions: int | Literal["same as sensor-events", "same as drift-partials"]
    config: dict[str, str]
    schema: str | None = None


class Topic(NamedTuple):
    """A declared topic under its name in the cluster."""

    name: str
    partitions: int
    declaration: Declaration


class Difference(NamedTuple):
    """One setting of an existing topic that is not as declared.

    Attributes:
        hint: the command that would change it, or why none can.
    """

    topic: str
    setting: str
    declared: str
    actual: str
    hint: str


class Comparison(NamedTuple):
    """What a cluster has of the declared topics."""

    missing: list[Topic]
    differences: list[Difference]


def load_declarations(folder: Path | None = None) -> dict[str, Declaration]:
    """Read topics/*.toml.

    Args:
        folder: where they are; None: DriftDetector's own.

    Returns:
        Declarations by default name, the input topic first.

    Raises:
        ConfigError: naming the file that is not a declaration.
    """
    declarations = {}
    for path in sorted((folder or asset_dir("topics")).glob("*.toml")):
        try:
            declaration = msgspec.convert(tomllib.loads(path.read_text("utf-8")), Declaration)
        except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            raise ConfigError(f"{path}: not a topic declaration: {error}.") from error
        if declaration.name != path.stem:
            raise ConfigError(f'{path}: name must be that of the file; write "{path.stem}".')
        declarations[declaration.name] = declaration
    if INPUT not in declarations:
        raise ConfigError(f"{folder or 'topics/'}: {INPUT}.toml is missing; restore it.")
    return {INPUT: declarations.pop(INPUT), **declarations}


def topic_name(declaration: Declaration, settings: Settings) -> str:
    """The declared topic's name in the cluster."""
    if (name := settings.internal_topics.get(declaration.name)) is not None:
        return name
    own: str = getattr(settings.topics, declaration.name.replace("-", "_"))
    return own


def plan(
    settings: Settings, declarations: Mapping[str, Declaration], metadata: ClusterMetadata
) -> list[Topic]:
    """Name the topics and settle their partitions.

    Those of a changelog follow its input topic as the cluster has it, not as it is
    declared: state of partition n must be in partition n.
    """

    def partitions(declaration: Declaration) -> int:
        if isinstance(declaration.partitions, int):
            return declaration.partitions
        source = declarations[declaration.partitions.removeprefix(_SAME)]
        existing = metadata.topics.get(topic_name(source, settings))
        return len(existing.partitions) if existing else partitions(source)

    return [
        Topic(topic_name(declaration, settings), partitions(declaration), declaration)
        for declaration in declarations.values()
    ]


def compare(
    admin: AdminClient,
    metadata: ClusterMetadata,
    topics: Iterable[Topic],
    brokers: str,
    timeout_s: float,
    replication_factor: int | None = None,
) -> Comparison:
    """Compare the cluster with the declared topics; writes nothing.

    Args:
        metadata: all topics of the cluster, just fetched.
        brokers: written into the hints.
        replication_factor: compared too unless None.

    Raises:
        BrokerError: the cluster does not tell a topic's settings.
    """
    topics = list(topics)
    present = [topic for topic in topics if topic.name in metadata.topics]
    configs = _describe_configs(admin, [topic.name for topic in present], timeout_s)
    differences: list[Difference] = []
    for topic in present:
        partitions = metadata.topics[topic.name].partitions
        differences += _partition_differences(topic, len(partitions), brokers)
        copies = min((len(p.replicas) for p in partitions.values()), default=0)
        if replication_factor is not None and copies != replication_factor:
            differences.append(_replication_difference(topic.name, replication_factor, copies))
        for key, declared in topic.declaration.config.items():
            actual = configs[topic.name].get(key)
            if actual is None or not _same_value(declared, actual):
                differences.append(_config_difference(topic.name, key, declared, actual, brokers))
    return Comparison([t for t in topics if t.name not in metadata.topics], differences)


def create(
    admin: AdminClient,
    topics: Iterable[Topic],
    timeout_s: float,
    replication_factor: int | None = None,
    dry_run: bool = False,
) -> None:
    """Create topics; one that exists by now is left as it is.

    Args:
        replication_factor: None: the cluster's default.
        dry_run: only ask the cluster whether it would.

    Raises:
        TopicError: the cluster refuses one.
    """
    requests = [
        NewTopic(
            topic.name,
            num_partitions=topic.partitions,
            replication_factor=-1 if replication_factor is None else replication_factor,
            config=topic.declaration.config,
        )
        for topic in topics
    ]
    if not requests:
        return
    futures: dict[str, Future[None]] = admin.create_topics(
        requests,
        operation_timeout=timeout_s,
        request_timeout=timeout_s,
        validate_only=dry_run,
    )
    for name, future in futures.items():
        try:
            future.result(timeout_s + 1)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise TopicError(
                    f"topic {name}: the cluster refuses to create it: {describe(error)}."
                ) from error


def _describe_configs(
    admin: AdminClient, names: list[str], timeout_s: float
) -> dict[str, dict[str, str | None]]:
    if not names:
        return {}
    resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in names]
    found = {}
    for resource, future in admin.describe_configs(resources, request_timeout=timeout_s).items():
        try:
            entries = future.result(timeout_s + 1)
        except KafkaException as error:
            raise BrokerError(
                f"topic {resource.name}: the cluster does not tell its settings: "
                f"{describe(error)}; the user of kafka.client needs the right DescribeConfigs."
            ) from error
        found[resource.name] = {key: entry.value for key, entry in entries.items()}
    return found


def _same_value(declared: str, actual: str) -> bool:
    # Lists, such as cleanup.policy, have no order.
    return set(declared.split(",")) == set(actual.split(","))


def _partition_differences(topic: Topic, actual: int, brokers: str) -> list[Difference]:
    if actual == topic.partitions:
        return []
    if isinstance(topic.declaration.partitions, str):
        hint = (
            "state and events no longer match; stop the workers, delete this topic and let them "
            "start anew, or give them another worker.app_id"
        )
    elif actual > topic.partitions:
        hint = "Kafka cannot remove partitions; declare as many as there are"
    else:
        hint = (
            f"kafka-topics.sh --bootstrap-server {brokers} --alter --topic {topic.name} "
            f"--partitions {topic.partitions}"
        )
        if topic.declaration.name == INPUT:
            hint += "  (machines move to other partitions, away from their state)"
    return [Difference(topic.name, "partitions", str(topic.partitions), str(actual), hint)]


def _replication_difference(name: str, declared: int, actual: int) -> Difference:
    hint = "kafka-reassign-partitions.sh changes it, with a plan of which broker gets which copy"
    return Difference(name, "replication factor", str(declared), str(actual), hint)


def _config_difference(
    name: str, key: str, declared: str, actual: str | None, brokers: str
) -> Difference:
    value = f"[{declared}]" if "," in declared else declared
    hint = (
        f"kafka-configs.sh --bootstrap-server {brokers} --alter --entity-type topics "
        f"--entity-name {name} --add-config {key}={value}"
    )
    if actual is None:
        hint = "this version of Kafka does not know the setting"
    return Difference(name, key, declared, actual or "(unknown)", hint)
