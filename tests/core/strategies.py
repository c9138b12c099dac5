"""Channel sets, windows, events and records for Hypothesis, and a model to score them with."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from worker.core.changelog import StateReader
from worker.core.channels import ChannelSpec, spec_from_dict
from worker.core.detection.detector import Detector, Model
from worker.core.episodes import EpisodeRules, Episodes
from worker.core.events import Chunk
from worker.core.health import Health, HealthProfile
from worker.core.outgoing import Outputs
from worker.core.pipeline import Pipeline
from worker.core.planned import PlannedWindow
from worker.core.rows import Row
from worker.core.state import UNLIMITED, PartitionState, StateLimits
from worker.core.vocabulary import FEATURE_KINDS, FeatureKind
from worker.training.fit import Fitted, fit
from worker.training.readings import MachineReadings

START_US = 1_772_432_130_250_000
"""2026-03-02, in the middle of a minute."""


def make_spec(
    channels: int = 2,
    pane_us: int = 60_000_000,
    panes: int = 5,
    grace_us: int = 90_000_000,
    features: Sequence[FeatureKind] = (),
    codes: int = 0,
) -> ChannelSpec:
    """Channels c0, c1, ... of which every second has a physical range, and one categorical.

    `features` are the kinds of model inputs, `codes` the number of channels of kind "event".
    """
    names = [f"c{i}" for i in range(channels)]
    return spec_from_dict(
        {
            "name": "made-up",
            "window": {
                "length": f"{pane_us * panes}us",
                "pane": f"{pane_us}us",
                "grace": f"{grace_us}us",
                "max_future": "5m",
            },
            "channel": [
                {"name": name, "unit": "u", **({"min": -1e4, "max": 1e4} if i % 2 == 0 else {})}
                for i, name in enumerate(names)
            ]
            + [{"name": "mode", "kind": "categorical", "values": ["A", "B"]}]
            + [{"name": f"code{i}", "kind": "event"} for i in range(codes)],
            "derived": [
                {"name": "product", "product": [names[0], names[-1]], "factor": 0.5},
                {"name": "gap", "difference": [names[-1], names[0]]},
            ],
            "feature": [{"kind": kind} for kind in features],
        }
    )


@st.composite
def specs(draw: st.DrawFn) -> ChannelSpec:
    """Any channel set, any window: one pane or many, grace no multiple of the pane."""
    pane_us = draw(st.sampled_from([1_000_000, 7_000_001, 60_000_000, 3_600_000_000]))
    return make_spec(
        channels=draw(st.integers(1, 6)),
        pane_us=pane_us,
        panes=draw(st.sampled_from([1, 2, 3, 24, 60])),
        grace_us=draw(st.integers(1, 4 * pane_us)),
        features=draw(st.lists(st.sampled_from(FEATURE_KINDS), unique=True)),
        codes=draw(st.integers(0, 2)),
    )


@dataclass(frozen=True)
class Event:
    """A reading of one machine; NaN where a channel is missing."""

    machine: str
    time_us: int
    readings: list[float]


def readings() -> st.SearchStrategy[float]:
    """Ordinary ones, missing ones, and ones outside the physical range of c0."""
    return st.one_of(
        st.floats(-1000.0, 1000.0),
        st.sampled_from([math.nan, 0.0, -0.0, 1e5, -1e5]),
        st.floats(9_999.0, 10_001.0),
    )


@st.composite
def events(
    draw: st.DrawFn, spec: ChannelSpec, machines: int = 3, max_size: int = 40
) -> list[Event]:
    """Events in arrival order, whose times step, jump, stand still and run back."""
    length, pane, grace = spec.length_us, spec.pane_us, spec.grace_us
    step = st.one_of(
        st.integers(0, pane),
        st.sampled_from([0, pane, -grace, -grace - 1, -grace + 1, -pane, length, length + pane]),
        st.integers(-2 * grace, 0),
        st.integers(0, 2 * length + grace),
    )
    newest_us = dict.fromkeys(range(machines), START_US)
    result = []
    for machine, forward_us, values in draw(
        st.lists(
            st.tuples(
                st.integers(0, machines - 1),
                step,
                st.lists(readings(), min_size=len(spec.continuous), max_size=len(spec.continuous)),
            ),
            max_size=max_size,
        )
    ):
        time_us = newest_us[machine] + forward_us
        newest_us[machine] = max(newest_us[machine], time_us)
        result.append(Event(f"m{machine}", time_us, values))
    return result


def fill(state: PartitionState, arrived: Sequence[Event]) -> list[int]:
    """Add events to a state; returns for each EMPTY, REFUSED, or the watermark it missed."""
    return windows_of(state, arrived)[1].tolist()


def windows_of(
    state: PartitionState, arrived: Sequence[Event]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Add events to a state; returns aggregates (n, C, 5), zero for those not accepted, and the
    same as `fill`."""
    machines = state.indices([event.machine.encode() for event in arrived])
    times_us = np.array([event.time_us for event in arrived], np.int64)
    values = np.array([e.readings for e in arrived]).reshape(-1, len(state.spec.continuous))
    return state.add(machines, times_us, values)


def read_back(
    spec: ChannelSpec,
    rows: Sequence[Row],
    limits: StateLimits = UNLIMITED,
    next_offset: int = 0,
    batch: int = 10,
) -> PartitionState:
    """The state that a changelog of these rows, at offsets 0, 1, ..., gives."""
    reader = StateReader(spec, limits)
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        reader.read(part, range(start, start + len(part)))
    return reader.finish(next_offset)


@dataclass(frozen=True)
class Raw:
    """A Kafka record before it has an offset."""

    key: bytes | None
    value: bytes | None
    timestamp_ms: int


def payload(spec: ChannelSpec, event: Event, **extra: Any) -> bytes:
    """The event as a gateway writes it; missing readings are left out."""
    fields: dict[str, Any] = {"machine_id": event.machine, "timestamp": event.time_us}
    for channel, reading in zip(spec.continuous, event.readings, strict=True):
        if not math.isnan(reading):
            fields[channel.name] = reading
    return json.dumps(fields | extra).encode()


def raw(spec: ChannelSpec, event: Event, ahead_us: int = 0, **extra: Any) -> Raw:
    """The event as a record; `ahead_us` is how far its time is ahead of Kafka's."""
    timestamp_ms = -(-(event.time_us - ahead_us) // 1000)
    return Raw(event.machine.encode(), payload(spec, event, **extra), timestamp_ms)


@st.composite
def records(draw: st.DrawFn, spec: ChannelSpec, max_size: int = 40) -> list[Raw]:
    """Records of several machines; some unreadable, from the future, or without a value."""
    result = []
    for event in draw(events(spec, max_size=max_size)):
        mode = draw(st.sampled_from(["A", "B"]))
        record = raw(spec, event, mode=mode)
        match draw(st.integers(0, 15)):
            case 0:
                record = replace(record, value=draw(st.sampled_from([None, b"", b"{", b"\xff"])))
            case 1:
                record = replace(record, value=payload(spec, event, mode=mode)[:-1])
            case 2:
                record = raw(spec, event, ahead_us=spec.max_future_us + 1_000_000)
            case 3:
                record = replace(record, key=draw(st.sampled_from([None, b"", b"other"])))
            case 4:
                record = raw(spec, event, timestamp=None)
        result.append(record)
    return result


def chunk_of(
    raws: Sequence[Raw], first_offset: int = 0, topic: str = "sensor-events", partition: int = 0
) -> Chunk:
    """The records at consecutive offsets."""
    return Chunk(
        topic=topic,
        partition=partition,
        offsets=np.arange(first_offset, first_offset + len(raws), dtype=np.int64),
        timestamps_ms=np.array([r.timestamp_ms for r in raws], np.int64),
        keys=[r.key for r in raws],
        values=[r.value for r in raws],
    )


def cut(raws: Sequence[Raw], cuts: Sequence[int], partition: int = 0) -> list[Chunk]:
    """The records as chunks that end at `cuts`; chunks may be empty."""
    ends = [*sorted(min(c, len(raws)) for c in cuts), len(raws)]
    starts = [0, *ends[:-1]]
    return [
        chunk_of(raws[start:end], start, partition=partition)
        for start, end in zip(starts, ends, strict=True)
    ]


def scores_by_bits(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """A model whose score changes when any bit of any input changes; about half are below 0."""
    hashed = np.full(len(features), 2166136261, np.uint32)
    for column in np.ascontiguousarray(features).view(np.uint32).T:
        hashed = (hashed ^ column) * np.uint32(16777619)
        hashed ^= hashed >> np.uint32(15)
    return (hashed.astype(np.float64) / 2**31 - 1).astype(np.float32)


@cache
def learned(channels: int, codes: int) -> Fitted:
    """What training learns of two machines with so many channels around 0, and of codes."""
    spec = make_spec(channels, codes=codes)
    rng = np.random.default_rng(channels)
    machines, rows = 2, 100
    return fit(
        spec,
        MachineReadings(
            source="made up",
            machine_ids=("m0", "m1"),
            starts=np.arange(machines + 1) * rows,
            times_us=np.tile(START_US + np.arange(rows) * 60_000_000, machines),
            values=rng.normal(0.0, 300.0, (machines * rows, channels)),
            impossible=np.zeros((machines * rows, channels), np.bool_),
            categories={},
            rows=np.arange(machines * rows),
        ),
    )


def make_pipeline(
    spec: ChannelSpec,
    model: Model = scores_by_bits,
    threshold: float = 0.2,
    planned: Sequence[PlannedWindow] = (),
) -> Pipeline:
    """A pipeline that knows the machines m0 and m1, and calls many readings anomalies."""
    fitted = learned(len(spec.continuous), len(spec.events))
    expected = np.linspace(-5.0, 5.0, len(spec.feature_names))
    return Pipeline(
        "made-up/1.0.0",
        77,
        Detector(spec, fitted.baselines, fitted.codes, model, expected, threshold=threshold),
        Health(spec, HealthProfile.unknown(len(spec.continuous))),
        Episodes(spec, EpisodeRules()),
        planned,
    )


def run(pipeline: Pipeline, state: PartitionState, chunks: Sequence[Chunk]) -> Outputs:
    """Apply the chunks one after another and add up what they give."""
    total = Outputs()
    for chunk in chunks:
        outputs = pipeline.step(state, chunk)
        total.records += outputs.records
        total.events += outputs.events
        total.scored += outputs.scored
        total.late += outputs.late
        total.anomalies += outputs.anomalies
        total.dead += outputs.dead
        total.masked += outputs.masked
        total.newest_time_us = max(total.newest_time_us, outputs.newest_time_us)
    return total
