"""Messages about machines, as the topics have them, short to write."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.support.online import machine as document
from worker.api.fleet import Fleet
from worker.core.messages import (
    Acknowledgement,
    Anomaly,
    Cause,
    DriftEvent,
    Episode,
    SensorHealth,
)
from worker.online.machine import OnlineMachine

AT_MS = 1_772_431_200_000
"""2026-03-02T06:00:00Z."""


def at(minute: int) -> str:
    return f"2026-03-02T06:{minute:02}:00.000000Z"


def fleet() -> Fleet:
    return Fleet(("torque", "speed"))


def known(machine_id: str, minute: int = 0, **more: Any) -> OnlineMachine:
    times = {"timestamp": at(minute), "written_at": at(minute)}
    return msgspec.structs.replace(document(machine_id), **(times | more))


def anomaly(machine_id: str, minute: int = 0, torque: float = 99.0) -> Anomaly:
    return Anomaly(
        id=f"sensor-events-0-{minute}",
        machine_id=machine_id,
        timestamp=at(minute),
        is_anomaly=True,
        anomaly_score=-0.5,
        threshold=-0.25,
        confidence=0.99,
        experience=1.0,
        severity="medium",
        episode_id=None,
        reason="torque is high.",
        causes=[],
        channels=["torque"],
        values={"torque": torque, "speed": None},
        categories={},
        model_version="made-up/1.0.0",
    )


def episode(
    machine_id: str, sequence: int = 1, status: str = "opened", minute: int = 0, **more: Any
) -> Episode:
    told = Episode(
        id=f"{machine_id}@{at(minute)}",
        machine_id=machine_id,
        status=status,  # type: ignore[arg-type]
        sequence=sequence,
        opened_at=at(minute),
        began_at=at(minute),
        last_anomalous_at=at(minute),
        closed_at=at(59) if status == "closed" else None,
        close_reason="recovered" if status == "closed" else None,
        severity="medium",
        anomalies=sequence,
        anomaly_score=-0.5,
        worst_at=at(minute),
        reason="torque is 99 Nm, 8 standard deviations above the expected 40.",
        causes=[Cause("torque", "Nm", 99.0, 40.0, 8.0, 0.9)],
        model_version="made-up/1.0.0",
    )
    return msgspec.structs.replace(told, **more)


def health(
    machine_id: str, kind: str = "stuck", status: str = "opened", channel: str | None = "speed"
) -> SensorHealth:
    return SensorHealth(
        id=f"{machine_id}@{at(1)}/{kind}" + (f"/{channel}" if channel else ""),
        machine_id=machine_id,
        kind=kind,  # type: ignore[arg-type]
        channel=channel,
        status=status,  # type: ignore[arg-type]
        opened_at=at(1),
        closed_at=at(2) if status == "closed" else None,
        value=3.0,
        unit="rpm",
        detail="speed is exactly 3 rpm for 12 readings in a row",
        effect="speed is left out",
    )


def acknowledgement(episode_id: str, who: str = "K. Brandt", note: str = "") -> Acknowledgement:
    machine_id = episode_id.rpartition("@")[0]
    return Acknowledgement(episode_id, machine_id, at(3), who, note, None)


def drift(group: str = "fleet", sequence: int = 1, status: str = "opened") -> DriftEvent:
    return DriftEvent(
        id=f"{group}@{at(5)}",
        group=group,
        kind="drift",
        status=status,  # type: ignore[arg-type]
        sequence=sequence,
        began_at=at(4),
        opened_at=at(5),
        last_at=at(5 + sequence),
        closed_at=at(30) if status == "closed" else None,
        close_reason="recovered" if status == "closed" else None,
        window_s=300.0,
        score=0.5,
        p_value=1e-6,
        features=[],
        machines=[],
        advice="recalibrated-sensor",
        reason="torque: +5 Nm.",
        reference="00",
        model_version="made-up/1.0.0",
    )
