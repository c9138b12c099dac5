"""Machines as a store has them."""

from __future__ import annotations

from worker.online.machine import OnlineMachine, WindowStats


def machine(
    machine_id: str = "m-0001", score: float = 0.5, state: bytes = b"\x00\xff"
) -> OnlineMachine:
    """A machine with one channel that was read and one that never was."""
    return OnlineMachine(
        machine_id=machine_id,
        timestamp="2026-03-02T06:00:00.250000Z",
        written_at="2026-03-02T06:00:01.000000Z",
        model_version="made-up/1.0.0",
        anomaly_score=score,
        threshold=-0.25,
        confidence=0.75,
        experience=1.0,
        is_anomaly=score < -0.25,
        under_maintenance=False,
        values={"torque": 40.1, "speed": None},
        features={"torque": 40.1, "rolling_std_torque": 0.1},
        windows={
            "torque": WindowStats(3, 40.0, 0.1, 39.9, 40.1),
            "speed": WindowStats(0, None, None, None, None),
        },
        state=state,
    )
