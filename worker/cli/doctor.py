"""``driftdetector doctor``: check all that a worker needs, and say what to do."""

from __future__ import annotations

import importlib
import platform
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Literal, NamedTuple

import typer

from worker.cli.context import context_of
from worker.cli.health import check_health
from worker.core.errors import ConfigError, DriftDetectorError
from worker.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its stub hides them
        AdminClient,
        ClusterMetadata,
    )

EXIT_FAILED = 1
# Together below ten seconds, also where nothing answers.
CONNECT_TIMEOUT_S = 4.0
REQUEST_TIMEOUT_S = 2.0
# Only where a broker has answered: the first records of a busy one can take seconds.
READ_TIMEOUT_S = 10.0
CLOCK_TOLERANCE_S = 2.0
SLOW_LATENCY_MS = 100.0
# Distribution, and what importing it proves: that its compiled parts fit this machine.
PACKAGES = {
    "faust-streaming": "faust",
    "confluent-kafka": "confluent_kafka",
    "onnxruntime": "onnxruntime",
    "numpy": "numpy",
    "numba": "numba",
    "msgspec": "msgspec",
}

Status = Literal["ok", "warn", "fail"]
_COLOURS: dict[Status, str] = {"ok": "green", "warn": "yellow", "fail": "red"}


class Check(NamedTuple):
    """The result of one check: what was looked at, how it is, and what to do about it."""

    name: str
    status: Status
    text: str


def register(app: typer.Typer) -> None:
    """Add the command ``doctor``."""
    app.command("doctor")(doctor)


def doctor(context: typer.Context) -> None:
    """Check settings, broker, topics, bundle, clock and port; exit 1 when something fails."""
    from rich.console import Console

    console = Console(soft_wrap=True)
    failed = False
    for check in all_checks(context_of(context).settings):
        colour = _COLOURS[check.status]
        console.print(f"[{colour}]{check.status:<5}[/] {check.name:<9} ", end="")
        console.print(check.text, markup=False, highlight=False)
        failed |= check.status == "fail"
    raise typer.Exit(EXIT_FAILED if failed else 0)


def all_checks(load: Callable[[], Settings]) -> Iterator[Check]:
    """Run the checks one after the other, in at most ten seconds.

    Args:
        load: gives the settings, or raises ConfigError.
    """
    yield check_python()
    try:
        settings = load()
    except ConfigError as error:
        yield Check("settings", "fail", str(error))
        yield Check("others", "warn", "not checked, because they depend on the settings")
        return
    yield _guarded("settings", lambda: _check_settings(settings))
    yield from _check_cluster(settings)
    yield _guarded("bundle", lambda: check_bundle(settings))
    yield _guarded("port", lambda: check_port(settings))


def check_python() -> Check:
    """Whether this Python and the packages load."""
    found = []
    for distribution, module in PACKAGES.items():
        try:
            importlib.import_module(module)
            found.append(f"{distribution} {metadata.version(distribution)}")
        except (ImportError, OSError) as error:
            text = f"{distribution} does not load ({error}); install driftdetector again"
            return Check("python", "fail", text)
    return Check("python", "ok", f"Python {platform.python_version()}, {', '.join(found)}")


def check_topics(settings: Settings, admin: AdminClient, cluster: ClusterMetadata) -> Check:
    """Whether the cluster's topics are as declared; a changed retention is only a warning."""
    from worker import topics

    planned = topics.plan(settings, topics.load_declarations(), cluster)
    brokers = settings.kafka.brokers
    missing, differences = topics.compare(admin, cluster, planned, brokers, REQUEST_TIMEOUT_S)
    if missing:
        names = ", ".join(topic.name for topic in missing)
        return Check("topics", "fail", f"missing: {names}; run driftdetector topics apply")
    for difference in differences:
        if difference.topic == settings.changelog_topic and difference.setting == "partitions":
            text = (
                f"{difference.topic} has {difference.actual} partitions and "
                f"{settings.topics.sensor_events} {difference.declared}: {difference.hint}"
            )
            return Check("topics", "fail", text)
    if differences:
        shown = ", ".join(f"{d.topic} {d.setting}" for d in differences)
        text = f"not as declared: {shown}; driftdetector topics check shows what would change them"
        return Check("topics", "warn", text)
    partitions = planned[0].partitions
    return Check("topics", "ok", f"{len(planned)} as declared, {partitions} partitions of input")


def check_clock(settings: Settings, cluster: ClusterMetadata) -> Check:
    """Compare this clock with the stamp that the broker gave the newest sensor event."""
    from confluent_kafka import KafkaException

    from worker.kafka_config import describe

    if settings.topics.sensor_events not in cluster.topics:
        return Check("clock", "warn", "not checked, because there are no sensor events to compare")
    try:
        stamp_s = _newest_append_time_s(settings, cluster)
    except TimeoutError:
        text = f"not checked, because reading the newest event took over {READ_TIMEOUT_S:.0f} s"
        return Check("clock", "warn", text)
    except KafkaException as error:
        return Check("clock", "warn", f"not checked: {describe(error)}")
    if stamp_s is None:
        text = "not checked, because the broker has stamped no sensor event that is still there"
        return Check("clock", "warn", text)
    age_s = time.time() - stamp_s
    if age_s < -CLOCK_TOLERANCE_S:
        text = f"this clock is at least {-age_s:.1f} s behind the broker's; synchronise both by NTP"
        return Check("clock", "warn", text)
    if age_s > 60:
        text = "not behind the broker's; whether it is ahead shows only while events arrive"
        return Check("clock", "ok", text)
    return Check("clock", "ok", f"at most {max(age_s, 0):.1f} s ahead of the broker's, not behind")


def check_bundle(settings: Settings) -> Check:
    """Whether the model bundle exists and passes all its checks."""
    from worker.assets import asset_dir
    from worker.models.bundle import load_bundle

    threads = settings.worker.inference_threads
    bundle = load_bundle(settings.worker.bundle, asset_dir("models"), threads=threads)
    features = len(bundle.spec.feature_names)
    text = f"{bundle.model_version}, {features} features, {bundle.framework}"
    if bundle.reference is None:
        text += "; no drift reference, so drift is not watched until it is trained anew"
    return Check("bundle", "ok", text)


def check_port(settings: Settings) -> Check:
    """Whether the worker's HTTP port is free, or a worker answers on it."""
    http = settings.http
    family = socket.AF_INET6 if ":" in http.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((http.host.strip("[]"), http.port))
    except OSError as error:
        if check_health(http, REQUEST_TIMEOUT_S)[0]:
            return Check("port", "ok", f"a healthy worker answers on {http.host}:{http.port}")
        text = f"{http.host}:{http.port} cannot be used: {error.strerror}; set http.port to another"
        return Check("port", "fail", text)
    return Check("port", "ok", f"{http.host}:{http.port or 'any'} is free")


def _check_settings(settings: Settings) -> Check:
    if settings.worker.processing_guarantee == "at_least_once":
        text = "valid; at_least_once: after a crash outputs may come twice, with the same id"
        return Check("settings", "ok", text)
    return Check("settings", "ok", "valid; driftdetector config show lists them")


def _check_cluster(settings: Settings) -> Iterator[Check]:
    from confluent_kafka import KafkaException

    from worker.kafka_config import connect, describe

    try:
        admin, cluster = connect(settings.kafka, CONNECT_TIMEOUT_S)
        started_s = time.perf_counter()
        cluster = admin.list_topics(timeout=REQUEST_TIMEOUT_S)
    except (DriftDetectorError, KafkaException) as error:
        text = describe(error) if isinstance(error, KafkaException) else str(error)
        yield Check("broker", "fail", text)
        yield Check("topics", "warn", "not checked, because no broker answers")
        yield Check("clock", "warn", "not checked, because no broker answers")
        return
    latency_ms = (time.perf_counter() - started_s) * 1000
    slow = latency_ms > SLOW_LATENCY_MS
    yield Check(
        "broker",
        "warn" if slow else "ok",
        f"{settings.kafka.brokers}: {len(cluster.brokers)} in cluster {cluster.cluster_id}, "
        f"answers in {latency_ms:.1f} ms{'; run the worker nearer to it' if slow else ''}",
    )
    yield _guarded("topics", lambda: check_topics(settings, admin, cluster))
    yield _guarded("clock", lambda: check_clock(settings, cluster))


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except DriftDetectorError as error:
        return Check(name, "fail", str(error))


def _newest_append_time_s(settings: Settings, cluster: ClusterMetadata) -> float | None:
    """When the broker stamped the newest sensor event; None where it has stamped none.

    Raises:
        KafkaException: the broker refuses, or does not say where its newest events are.
        TimeoutError: the broker did not hand its newest events over in time.
    """
    from confluent_kafka import (
        TIMESTAMP_LOG_APPEND_TIME,
        Consumer,
        KafkaError,
        TopicPartition,
    )

    from worker.kafka_config import create_client, retried

    topic = settings.topics.sensor_events
    # Assigned by hand: the group is never joined and nothing is committed.
    group = f"{settings.worker.app_id}-doctor"
    extra = {"group.id": group, "enable.auto.commit": False, "enable.partition.eof": True}
    consumer = create_client(Consumer, settings.kafka, extra)
    deadline_s = time.monotonic() + READ_TIMEOUT_S
    newest_ms = -1
    try:
        starts = []
        for partition in cluster.topics[topic].partitions:
            place = TopicPartition(topic, partition)
            ask = partial(consumer.get_watermark_offsets, place, timeout=READ_TIMEOUT_S)
            low, high = retried(ask, READ_TIMEOUT_S)
            # The last offset may be a transaction's marker, which no consumer sees.
            starts.append(TopicPartition(topic, partition, max(low, high - 2)))
        consumer.assign(starts)
        unread = len(starts)
        while unread:
            if time.monotonic() > deadline_s:
                raise TimeoutError
            for message in consumer.consume(100, timeout=0.1):
                error = message.error()
                kind, stamp_ms = message.timestamp()
                if error is None and kind == TIMESTAMP_LOG_APPEND_TIME:
                    newest_ms = max(newest_ms, stamp_ms)
                unread -= error is not None and error.code() == KafkaError._PARTITION_EOF
    finally:
        consumer.close()
    return newest_ms / 1000 if newest_ms >= 0 else None
