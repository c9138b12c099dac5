"""The drift agent as a whole: a process of its own, so that scoring knows nothing of it."""

from __future__ import annotations

import logging
from functools import partial

from confluent_kafka.admin import ClusterMetadata  # type: ignore[attr-defined]

from worker.assets import asset_dir
from worker.core.drifting import Drifting, DriftStateReader, Monitors
from worker.core.scoring import PANE_US
from worker.drift_metrics import DriftMetrics
from worker.kafka_config import connect
from worker.models.bundle import Bundle, load_bundle
from worker.pipelines import monitor_settings
from worker.service import (
    CONNECT_DEADLINE_S,
    Agent,
    ServiceApp,
    create_service,
    find_destinations,
    run_until_signal,
)
from worker.settings import Settings

log = logging.getLogger(__name__)


def create_drift_app(settings: Settings, bundle: Bundle, metadata: ClusterMetadata) -> ServiceApp:
    """Build the drift agent; it connects when it is started.

    Args:
        settings: of the scoring workers whose partials it reads.
        metadata: all topics of the cluster, just fetched.

    Raises:
        BundleError: the bundle has no reference.
        TopicError: a topic is missing, or the changelog does not fit the input topic.
    """
    source = metadata.topics.get(settings.topics.sensor_events)
    partitions = 0 if source is None else len(source.partitions)
    monitors = Monitors(
        bundle.require_reference(),
        monitor_settings(settings.drift, partitions),
        bundle.model_version,
    )
    metrics = DriftMetrics()
    metrics.set_model(bundle.model_version, bundle.framework)
    streams = {
        "drift-events": settings.topics.drift_events,
        "retraining-requests": settings.topics.retraining_requests,
        "dead-letters": settings.topics.dead_letters,
    }
    return create_service(
        settings.of_drift_agent(),
        Agent(
            name="drift",
            application=Drifting(monitors, bundle.spec.max_future_us + PANE_US),
            destinations=find_destinations(
                settings.kafka.brokers,
                metadata,
                settings.partials_topic,
                settings.drift_changelog_topic,
                streams,
            ),
            table="drift-state",
            entries="groups",
            new_reader=lambda _: DriftStateReader(monitors, log.warning),
            metrics=metrics,
            model_version=bundle.model_version,
        ),
    )


def run_drift_agent(settings: Settings) -> None:
    """Run the drift agent in this process until SIGTERM or SIGINT.

    Raises:
        DriftDetectorError: it could not start, or had to end; state and outputs are as of the
            last commit.
    """
    bundle = load_bundle(settings.worker.bundle, asset_dir("models"), threads=1)
    bundle.require_reference()  # refused before waiting for a broker
    _, metadata = connect(settings.kafka, CONNECT_DEADLINE_S)
    run_until_signal(
        partial(create_drift_app, settings, bundle, metadata),
        f"watching for drift from {bundle.model_version}",
    )
