"""The pipeline and the limits of state that settings ask for, for whoever applies events."""

from __future__ import annotations

import logging

from worker.core.errors import ConfigError
from worker.core.pipeline import Pipeline
from worker.core.scoring import Scoring
from worker.core.state import StateLimits
from worker.models.bundle import Bundle
from worker.settings import Settings

log = logging.getLogger(__name__)

US_PER_HOUR = 3_600_000_000


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
