"""What a drift monitor says, as messages."""

from __future__ import annotations

import math

from worker.core import drift
from worker.core.channels import US_PER_S
from worker.core.messages import (
    DriftEvent,
    DriftFeature,
    DriftMachine,
    DriftTest,
    RetrainingRequest,
    format_time_us,
)

LARGEST = 1e300
"""JSON has no infinity."""


def drift_event(event: drift.DriftEvent) -> DriftEvent:
    """The message about an event."""
    return DriftEvent(
        id=event.id,
        group=event.group,
        kind=event.kind,
        status=event.status,
        sequence=event.sequence,
        began_at=format_time_us(event.began_us),
        opened_at=format_time_us(event.opened_us),
        last_at=format_time_us(event.last_us),
        closed_at=None if event.closed_us is None else format_time_us(event.closed_us),
        close_reason=event.close_reason,
        window_s=event.window_us / US_PER_S,
        score=_number(event.score),
        p_value=_number(event.p_value),
        features=[_feature(one) for one in event.features],
        machines=[DriftMachine(one.machine_id, _number(one.share)) for one in event.machines],
        advice=event.advice,
        reason=event.reason,
        reference=event.reference,
        model_version=event.model_version,
    )


def retraining_request(request: drift.RetrainingRequest) -> RetrainingRequest:
    """The message that asks for a training."""
    return RetrainingRequest(
        id=request.id,
        group=request.group,
        event_id=request.event_id,
        requested_at=format_time_us(request.at_us),
        reason=request.reason,
        reference=request.reference,
        model_version=request.model_version,
    )


def _feature(one: drift.FeatureDrift) -> DriftFeature:
    return DriftFeature(
        feature=one.feature,
        unit=one.unit,
        score=_number(one.score),
        direction=one.direction,
        effect=_number(one.effect),
        p_value=_number(one.p_value),
        effective_rows=_number(one.effective_rows),
        smallest_detectable=_known(one.smallest_detectable),
        tests=[
            DriftTest(
                name=test.name,
                value=_number(test.value),
                p_value=_known(test.p_value),
                effect=_number(test.effect),
                unit=test.unit,
                effective_rows=_number(test.effective_rows),
                smallest_detectable=_known(test.smallest_detectable),
                voted=test.voted,
            )
            for test in one.tests
        ],
    )


def _number(value: float) -> float:
    return 0.0 if math.isnan(value) else min(max(float(value), -LARGEST), LARGEST)


def _known(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
