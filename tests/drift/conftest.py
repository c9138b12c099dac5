"""A small fleet with a reference, and what it sends after its training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest

from load.drift_fleet import AFTER_US, DAY_US, US_PER_HOUR, Event, train_fleet
from worker.core.drift import Settings
from worker.core.drifting import Drifting, DriftState, Monitors
from worker.core.events import Chunk
from worker.core.outgoing import Record
from worker.core.scoring import PANE_US, Scoring
from worker.core.state import PartitionState
from worker.models.bundle import Bundle

WINDOWS_US = (US_PER_HOUR, 6 * US_PER_HOUR)


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of that fleet, with its reference."""
    return train_fleet(tmp_path_factory.mktemp("models"))


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
