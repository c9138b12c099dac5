"""Sensors that fail, through the whole pipeline: told as such, and never a machine's episode."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest

from tests.core.test_health_profile import KINDS, SPECS
from worker.core.channels import ChannelSpec
from worker.core.events import Chunk
from worker.core.state import PartitionState
from worker.models.bundle import load_bundle
from worker.simulator import Fault, FaultRates, Simulator
from worker.training.readings import machine_readings, recording_of
from worker.training.train import train

START_US = 1_767_225_600_000_000
DAY_US = 86_400_000_000
MACHINES = 8
TRAINING_DAYS, DAYS = 3, 4
RECORDS = 4000


class Told(NamedTuple):
    faults: list[Fault]
    health: list[dict[str, Any]]
    episodes: list[dict[str, Any]]


def simulator(spec: ChannelSpec, rates: FaultRates) -> Simulator:
    return Simulator(
        spec, start_us=START_US, machines=MACHINES, interval_s=60.0, seed=23, faults=rates
    )


def bundle_of(spec: ChannelSpec, folder: Path) -> Path:
    healthy = simulator(spec, FaultRates.none())
    readings = healthy.readings(START_US + TRAINING_DAYS * DAY_US)
    columns = {c.name: readings.values[:, i] for i, c in enumerate(spec.continuous)}
    ids = pl.Series(healthy.machine_ids)[readings.machines]
    frame = pl.DataFrame({"machine_id": ids, "timestamp": readings.times_us, **columns})
    recorded = machine_readings(recording_of(frame, spec, "simulation"), spec)
    return train(spec, recorded, folder, training_date="2026-01-04").path


def run(spec: ChannelSpec, folder: Path) -> Told:
    """Days after the training, in which sensors fail and machines do not."""
    bundle = load_bundle(str(bundle_of(spec, folder)), folder)
    pipeline, state = bundle.pipeline(), PartitionState(bundle.spec)
    failing = simulator(spec, FaultRates(machine=0.0, sensor=2.0, drift=0.0))
    begin_us = START_US + TRAINING_DAYS * DAY_US
    failing.advance(begin_us)
    events = failing.advance(begin_us + DAYS * DAY_US)
    told: dict[str, list[dict[str, Any]]] = {"sensor-health": [], "anomaly-episodes": []}
    for start in range(0, len(events), RECORDS):
        keys, payloads = zip(*events[start : start + RECORDS], strict=True)
        offsets = np.arange(start, start + len(keys))
        # Of a broker that takes each record when it is sent.
        stamps_ms = np.array([us(json.loads(payload)["timestamp"]) // 1000 for payload in payloads])
        chunk = Chunk("sensor-events", 0, offsets, stamps_ms, keys, payloads)
        for record in pipeline.step(state, chunk).records:
            told.get(record.stream, []).append(json.loads(record.value))
    faults = [fault for fault in failing.truth().faults if fault.end_us > begin_us]
    return Told(faults, told["sensor-health"], told["anomaly-episodes"])


def us(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1e6)


def tells(message: dict[str, Any], fault: Fault, within_us: int) -> bool:
    """Whether the message opens the fault's condition within that time of its beginning."""
    return (
        message["status"] == "opened"
        and message["kind"] in KINDS[fault.kind]
        and message["machine_id"] == fault.machine_id
        and (message["channel"] is None or message["channel"] in fault.channels)
        and fault.start_us <= us(message["opened_at"]) <= fault.start_us + within_us
    )


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_sensor_faults_are_told_within_a_window_and_open_no_episode(
    spec: ChannelSpec, tmp_path: Path
) -> None:
    told = run(spec, tmp_path)
    begin_us = START_US + TRAINING_DAYS * DAY_US
    lasting = [
        fault
        for fault in told.faults
        if fault.start_us >= begin_us and fault.end_us - fault.start_us > spec.length_us // 2
    ]
    assert {fault.kind for fault in lasting} == set(KINDS)
    for fault in lasting:
        assert any(tells(message, fault, spec.length_us) for message in told.health), fault
    for message in told.health:
        assert message["status"] == "closed" or any(
            tells(message, fault, fault.end_us + 60_000_000 - fault.start_us)
            for fault in told.faults
        ), message
    impossible = [
        m for m in told.health if m["kind"] in KINDS["glitch"] and m["status"] == "opened"
    ]
    assert all(isinstance(message["value"], float) for message in impossible)
    because_of_a_sensor = [
        (episode["machine_id"], episode["opened_at"], episode["reason"], fault)
        for episode in told.episodes
        for fault in told.faults
        if episode["status"] == "opened"
        and episode["machine_id"] == fault.machine_id
        and fault.start_us <= us(episode["opened_at"]) < fault.end_us + spec.length_us
    ]
    assert because_of_a_sensor == []
