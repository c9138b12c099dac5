"""The scoring worker as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from confluent_kafka.admin import ClusterMetadata  # type: ignore[attr-defined]

from worker.assets import asset_dir
from worker.core.changelog import StateReader
from worker.core.state import PartitionState
from worker.kafka_config import connect
from worker.metrics import Metrics
from worker.models.bundle import Bundle, load_bundle
from worker.online.feed import OnlineFeed
from worker.online.metrics import OnlineMetrics
from worker.online.redis_store import RedisWriter
from worker.online.store import OnlineWriter
from worker.pipelines import create_pipeline, create_scoring, state_limits
from worker.service import (
    CONNECT_DEADLINE_S,
    Agent,
    ServiceApp,
    create_service,
    find_destinations,
    run_until_signal,
)
from worker.settings import Settings
from worker.transport.processor import Destinations
from worker.transport.rebuild import Clients, OnProgress, Rebuild, Rebuilt


def create_app(
    settings: Settings,
    bundle: Bundle,
    metadata: ClusterMetadata,
    online: OnlineWriter | None = None,
) -> ServiceApp:
    """Build the scoring worker; it connects when it is started.

    Args:
        metadata: all topics of the cluster, just fetched.
        online: where the latest of each machine is kept; None: in the Redis of the settings, if
            they name one.

    Raises:
        TopicError: a topic is missing, or the changelog does not fit the input topic.
    """
    limits = state_limits(settings, bundle)
    metrics = Metrics()
    metrics.set_model(bundle.model_version, bundle.framework)
    if online is None and settings.online.url is not None:
        online = RedisWriter(settings)
    feed = None
    if online is not None:
        interval_s = settings.online.flush_interval_ms / 1000
        online_metrics = OnlineMetrics(metrics.registry)
        feed = OnlineFeed(bundle.spec, bundle.model_version, online, online_metrics, interval_s)
    app = create_service(
        settings,
        Agent(
            name="scoring",
            application=create_scoring(settings, bundle),
            destinations=_destinations(settings, metadata),
            table="machine-state",
            entries="machines",
            new_reader=lambda partition: StateReader(
                bundle.spec, limits, f"{settings.changelog_topic} partition {partition}"
            ),
            metrics=metrics,
            model_version=bundle.model_version,
            witness=feed,
        ),
    )
    metrics.watch_machines(
        lambda: {
            partition: len(owned.state) for partition, owned in app.processor.owned.copy().items()
        }
    )
    return app


def run_worker(settings: Settings) -> None:
    """Run the scoring worker in this process until SIGTERM or SIGINT.

    Raises:
        DriftDetectorError: it could not start, or had to end; state and outputs are
            as of the last commit.
    """
    bundle = load_bundle(
        settings.worker.bundle, asset_dir("models"), threads=settings.worker.inference_threads
    )
    state_limits(settings, bundle)  # refused before waiting for a broker
    _, metadata = connect(settings.kafka, CONNECT_DEADLINE_S)
    run_until_signal(
        partial(create_app, settings, bundle, metadata),
        f"scoring with {bundle.model_version}",
    )


def rebuild_state(settings: Settings, on_progress: OnProgress) -> Iterator[Rebuilt]:
    """Replace the changelog by state computed from the input topic; see :class:`Rebuild`.

    Yields:
        Each partition when it is committed.

    Raises:
        DriftDetectorError: it was refused, or could not go on; running it again is safe.
    """
    bundle = load_bundle(settings.worker.bundle, asset_dir("models"), threads=1)
    admin, metadata = connect(settings.kafka, CONNECT_DEADLINE_S)
    destinations = _destinations(settings, metadata)
    limits = state_limits(settings, bundle)
    rebuild = Rebuild(
        Clients.create(settings, admin),
        group=settings.worker.app_id,
        source=destinations.source,
        changelog=destinations.changelog,
        pipeline=create_pipeline(settings, bundle),
        new_state=lambda next_offset: PartitionState(bundle.spec, next_offset, limits),
        on_progress=on_progress,
    )
    yield from rebuild.run(len(metadata.topics[destinations.source].partitions))


def _destinations(settings: Settings, metadata: ClusterMetadata) -> Destinations:
    names = settings.topics
    streams = {
        "anomalies": names.anomalies,
        "anomaly-episodes": names.anomaly_episodes,
        "sensor-health": names.sensor_health,
        "late-events": names.late_events,
        "dead-letters": names.dead_letters,
        "drift-partials": settings.partials_topic,
    }
    return find_destinations(
        settings.kafka.brokers, metadata, names.sensor_events, settings.changelog_topic, streams
    )
