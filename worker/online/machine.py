"""One machine as the online store has it: the document, and how it is made and read.

docs/online-features.md is its contract with other services.
"""

from __future__ import annotations

import math
from datetime import datetime

import msgspec
import numpy as np

from worker.core import windows
from worker.core.channels import ChannelSpec
from worker.core.latest import Latest
from worker.core.messages import format_time_us, to_time_us
from worker.core.prediction import Known


class WindowStats(msgspec.Struct, frozen=True):
    """Rolling aggregates of one channel, in its unit; None where it had no reading.

    Attributes:
        std: population standard deviation.
    """

    count: int
    mean: float | None
    std: float | None
    min: float | None
    max: float | None


class OnlineMachine(msgspec.Struct, frozen=True):
    """A machine right after its last event that was scored and committed.

    Attributes:
        timestamp: that event's time, RFC 3339 UTC.
        written_at: when the worker took it for writing, by its clock, RFC 3339 UTC.
        anomaly_score: in [-1, 1], lower is worse.
        experience: share of the machine's warm-up that is done, 1 for machines of the training.
        values: readings of the continuous channels as they were used; None where missing or
            masked.
        features: the model's inputs by name.
        windows: rolling aggregates by channel, the event's own reading included.
        state: the machine's own row exactly as in the changelog (docs/architecture.md),
            base64 in JSON.
    """

    machine_id: str
    timestamp: str
    written_at: str
    model_version: str
    anomaly_score: float
    threshold: float
    confidence: float
    experience: float
    is_anomaly: bool
    under_maintenance: bool
    values: dict[str, float | None]
    features: dict[str, float]
    windows: dict[str, WindowStats]
    state: bytes


def machines_of(
    spec: ChannelSpec, model_version: str, latest: Latest, written_at: str
) -> list[OnlineMachine]:
    """The documents of k machines."""
    channels = [channel.name for channel in spec.continuous]
    features = [feature.name for feature in spec.features]
    documents = []
    for i, name in enumerate(latest.machine_ids):
        score, threshold, confidence, experience = latest.scores[i].tolist()
        documents.append(
            OnlineMachine(
                machine_id=name.decode(),
                timestamp=format_time_us(int(latest.times_us[i])),
                written_at=written_at,
                model_version=model_version,
                anomaly_score=score,
                threshold=threshold,
                confidence=confidence,
                experience=experience,
                is_anomaly=score < threshold,
                under_maintenance=bool(latest.maintained[i]),
                values={
                    channel: None if math.isnan(value) else value
                    for channel, value in zip(channels, latest.values[i].tolist(), strict=True)
                },
                features=dict(zip(features, latest.inputs[i].tolist(), strict=True)),
                windows={
                    channel: WindowStats(int(count), *numbers) if count else _EMPTY
                    for channel, (count, *numbers) in zip(
                        channels, latest.aggregates[i].tolist(), strict=True
                    )
                },
                state=latest.rows[i],
            )
        )
    return documents


_EMPTY = WindowStats(0, None, None, None, None)
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(OnlineMachine)


def encode_machine(machine: OnlineMachine) -> bytes:
    """The machine as JSON."""
    return _ENCODER.encode(machine)


def decode_machine(document: bytes) -> OnlineMachine | None:
    """Read what :func:`encode_machine` wrote; None: something else."""
    try:
        return _DECODER.decode(document)
    except (msgspec.DecodeError, UnicodeError):
        return None


def known(spec: ChannelSpec, machine: OnlineMachine) -> Known | None:
    """What :class:`worker.core.prediction.Predictor` needs of a machine.

    Returns:
        None where the document was written for other channels.
    """
    aggregates = np.zeros((len(spec.continuous), windows.STATS))
    try:
        time_us = to_time_us(datetime.fromisoformat(machine.timestamp))
        for row, channel in zip(aggregates, spec.continuous, strict=True):
            stats = machine.windows[channel.name]
            row[:] = stats.count, stats.mean, stats.std, stats.min, stats.max
    except (KeyError, ValueError):
        return None
    empty = aggregates[:, windows.COUNT] == 0.0
    aggregates[empty] = 0.0, 0.0, 0.0, math.inf, -math.inf
    return Known(machine.state, aggregates, time_us)
