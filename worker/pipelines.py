"""What settings ask of the core: pipeline, limits of state, monitors of drift."""

from __future__ import annotations

import logging

from worker.core.channels import US_PER_S
from worker.core.drift import Settings as MonitorSettings
from worker.core.errors import ConfigError
from worker.core.pipeline import Pipeline
from worker.core.scoring import Scoring
from worker.core.state import StateLimits
from worker.models.bundle import Bundle
from worker.settings import DriftSettings, Settings

log = logging.getLogger(__name__)

US_PER_MIN = 60 * US_PER_S
US_PER_HOUR = 60 * US_PER_MIN


def create_scoring(settings: Settings, bundle: Bundle) -> Scoring:
    """What a worker with these settings does with a chunk."""
    reference = bundle.reference
    if reference is None:
        log.warning(
            "%s has no reference of its training, so nothing is watched for drift; train it anew",
            bundle.model_version,
        )
    layout = None if reference is None else reference.layout
    return Scoring(create_pipeline(settings, bundle), layout)


def create_pipeline(settings: Settings, bundle: Bundle) -> Pipeline:
    """The pipeline of a worker with these settings."""
    return bundle.pipeline(
        budget=settings.detection.budget,
        threshold=settings.detection.threshold,
        rules=settings.episodes.rules(),
        planned=settings.maintenance.planned(),
    )


def state_limits(settings: Settings, bundle: Bundle) -> StateLimits:
    """What bounds the state of a partition.

    Raises:
        ConfigError: machines would be forgotten while their window still holds readings.
    """
    limits = StateLimits(
        retention_us=settings.worker.machine_retention_h * US_PER_HOUR,
        max_machines=settings.worker.max_machines,
    )
    spec = bundle.spec
    needed_us = spec.length_us + spec.grace_us + spec.pane_us
    if limits.retention_us < needed_us:
        raise ConfigError(
            f"worker.machine_retention_h: {settings.worker.machine_retention_h} h are shorter than "
            f"what the window of {bundle.model_version} spans; write at least "
            f"{-(-needed_us // US_PER_HOUR)}."
        )
    return limits


def monitor_settings(drift: DriftSettings, partitions: int) -> MonitorSettings:
    """As the core takes them; ``partitions``: of the topic that the workers read."""
    return MonitorSettings(
        windows_us=tuple(minutes * US_PER_MIN for minutes in drift.windows_min),
        grace_us=drift.grace_s * US_PER_S,
        patience_us=drift.patience_min * US_PER_MIN,
        alpha=drift.false_alarm_rate,
        min_rows=drift.minimum_sample,
        persistence=drift.persistence,
        recovery=drift.recovery,
        retrain_after_us=drift.retrain_after_h * US_PER_HOUR,
        retrain_again_us=drift.retrain_cool_down_h * US_PER_HOUR,
        partitions=partitions,
    )
