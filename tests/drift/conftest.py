"""A small fleet with a reference, and what it sends after its training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from worker.core.channels import ChannelSpec, parse_spec
from worker.core.drift import Settings
from worker.core.drifting import Drifting, DriftState, Monitors
from worker.core.events import Chunk
from worker.core.outgoing import Record
from worker.core.scoring import PANE_US, Scoring
from worker.core.state import PartitionState
from worker.models.bundle import Bundle, load_bundle
from worker.simulator import FaultRates, FleetChange, Simulator
from worker.training.readings import SIMULATION_START_US, machine_readings, recording_of
from worker.training.train import train

US_PER_MIN = 60_000_000
US_PER_HOUR = 60 * US_PER_MIN
DAY_US = 24 * US_PER_HOUR
MACHINES = 12
INTERVAL_S = 60.0
TRAINING_DAYS = 8
AFTER_US = SIMULATION_START_US + TRAINING_DAYS * DAY_US
WINDOWS_US = (US_PER_HOUR, 6 * US_PER_HOUR)
Event = tuple[bytes, bytes]

SPEC = parse_spec(
    """
    name = "fleet"
    [window]
    length = "10m"
    pane = "1m"
    grace = "2m"
    max_future = "5m"
    [[channel]]
    name = "pressure"
    unit = "bar"
    typical = [4.0, 6.0]
    [[channel]]
    name = "flow"
    unit = "l/min"
    typical = [80.0, 120.0]
    [[channel]]
    name = "current"
    unit = "A"
    typical = [8.0, 12.0]
    [[channel]]
    name = "site"
    kind = "categorical"
    values = ["north", "south"]
    """
)


def events(
    hours: float, changes: Sequence[FleetChange] = (), spec: ChannelSpec = SPEC, seed: int = 31
) -> list[Event]:
    """What the fleet sends from the end of its training on."""
    simulator = Simulator(
        spec,
        start_us=AFTER_US,
        machines=MACHINES,
        interval_s=INTERVAL_S,
        seed=seed,
        faults=FaultRates.none(),
        changes=changes,
    )
    return simulator.advance(AFTER_US + round(hours * US_PER_HOUR))


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of that fleet, with its reference."""
    simulator = Simulator(
        SPEC,
        start_us=SIMULATION_START_US,
        machines=MACHINES,
        interval_s=INTERVAL_S,
        seed=5,
        faults=FaultRates.none(),
    )
    sent = pl.DataFrame([msgspec.json.decode(value) for _, value in simulator.advance(AFTER_US)])
    frame = sent.with_columns(pl.col("timestamp").str.to_datetime(time_unit="us", time_zone="UTC"))
    readings = machine_readings(recording_of(frame, SPEC, "history"), SPEC)
    out = tmp_path_factory.mktemp("models") / "fleet"
    path = train(SPEC, readings, out, training_date="2026-01-31").path
    return load_bundle(path, path)


@dataclass
class Told:
    """What the drift agent published: events and requests, decoded."""

    events: list[dict[str, Any]]
    requests: list[dict[str, Any]]

    @property
    def opened(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["status"] == "opened"]


def partials(
    bundle: Bundle, sent: Sequence[Event], chunk: int = 2000, partition: int = 0
) -> list[Record]:
    """The partials of events that one worker scored, committing after each chunk."""
    scoring = Scoring(bundle.pipeline(), bundle.require_reference().layout)
    state = PartitionState(bundle.spec)
    found = []
    for start in range(0, len(sent), chunk):
        part = sent[start : start + chunk]
        scoring.step(state, chunk_of(part, start, partition))
        found += scoring.summarize(partition, state.next_offset)
    return found


def chunk_of(
    part: Sequence[tuple[bytes | None, bytes | None]], first: int, partition: int
) -> Chunk:
    return Chunk(
        "topic",
        partition,
        first + np.arange(len(part)),
        np.full(len(part), (AFTER_US + 60 * DAY_US) // 1000),
        [key for key, _ in part],
        [value for _, value in part],
    )


def agent(bundle: Bundle, **settings: Any) -> Drifting:
    chosen = Settings(**{"windows_us": WINDOWS_US, **settings})
    return Drifting(
        Monitors(bundle.require_reference(), chosen, bundle.model_version),
        bundle.spec.max_future_us + PANE_US,
    )


def told(records: Sequence[Record]) -> Told:
    def of(stream: str) -> list[dict[str, Any]]:
        return [msgspec.json.decode(r.value) for r in records if r.stream == stream]

    return Told(of("drift-events"), of("retraining-requests"))


def watch(drifting: Drifting, state: DriftState, records: Sequence[Record]) -> list[Record]:
    """What the agent publishes of partials."""
    part = [(record.key, record.value) for record in records]
    return drifting.step(state, chunk_of(part, state.next_offset, 0)).records
