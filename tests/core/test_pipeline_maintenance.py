"""Planned maintenance and episodes through the whole pipeline."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.core.strategies import (
    START_US,
    Event,
    Raw,
    chunk_of,
    cut,
    events,
    make_pipeline,
    make_spec,
    raw,
    read_back,
    run,
)
from worker.core.outgoing import Outputs
from worker.core.pipeline import Pipeline
from worker.core.planned import PlannedWindow
from worker.core.rows import Row
from worker.core.state import PartitionState, StateLimits

SPEC = make_spec()
MINUTE_US = 60_000_000
WILD = 4_000.0
"""More than ten standard deviations from what training saw."""


def indifferent(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """A forest that finds nothing unusual."""
    return np.full(len(features), -0.4, np.float32)


def pipeline_with(*planned: PlannedWindow) -> Pipeline:
    return make_pipeline(SPEC, indifferent, threshold=-0.1, planned=planned)


PIPELINE = pipeline_with()


def at(minute: float, value: float = 0.0, machine: str = "m0", **notice: Any) -> Raw:
    """An event with a reading, or with a notice of maintenance in minutes instead."""
    wobble = [300.0 * math.sin(k * minute * minute) for k in (1.0, 1.7)]
    event = Event(
        machine, START_US + round(minute * MINUTE_US), [value + wobble[0], wobble[1] - value]
    )
    if not notice:
        return raw(SPEC, event)
    times = {key: START_US + notice[key] * MINUTE_US for key in ("begin", "until")}
    maintenance = {"from": times["begin"], "until": times["until"]}
    if "relearn" in notice:
        maintenance["relearn"] = notice["relearn"]
    return raw(SPEC, event, c0=None, c1=None, maintenance=maintenance)


def told(outputs: Outputs, stream: str) -> list[dict[str, Any]]:
    return [json.loads(record.value) for record in outputs.records if record.stream == stream]


def episodes(outputs: Outputs) -> list[tuple[str, str | None]]:
    return [(e["status"], e["close_reason"]) for e in told(outputs, "anomaly-episodes")]


def after(*raws: Raw, pipeline: Pipeline = PIPELINE) -> Outputs:
    return run(pipeline, PartitionState(SPEC), [chunk_of(raws)])


def wild(first: int, last: int, machine: str = "m0") -> list[Raw]:
    return [at(minute, WILD, machine) for minute in range(first, last)]


@st.composite
def announcing(draw: st.DrawFn) -> list[Raw]:
    """Records of which some announce, extend or call off maintenance around their time."""
    result = []
    for event in draw(events(SPEC)):
        begin_us = event.time_us + draw(st.integers(-3, 3)) * MINUTE_US
        until_us = begin_us + draw(st.sampled_from([0, 1, 3, 10])) * MINUTE_US
        notice = {"from": begin_us, "until": until_us, "relearn": draw(st.booleans())}
        extra = {"maintenance": notice} if draw(st.integers(0, 3)) == 0 else {}
        result.append(raw(SPEC, event, **extra))
    return result


@settings(max_examples=100, deadline=None)
@given(announcing(), st.lists(st.integers(0, 40), max_size=5), st.integers(0, 5))
def test_maintenance_and_episodes_are_the_same_however_cut_and_restarted(
    raws: list[Raw], cuts: list[int], stop: int
) -> None:
    limits = StateLimits(retention_us=20 * MINUTE_US)
    sunday = PlannedWindow("m[01]", START_US, START_US + 3 * MINUTE_US, True, 30 * MINUTE_US)
    pipeline = make_pipeline(SPEC, planned=[sunday])
    whole = PartitionState(SPEC, limits=limits)
    expected = run(pipeline, whole, [chunk_of(raws)])
    chunks = cut(raws, cuts)
    running, log = PartitionState(SPEC, limits=limits), list[Row]()
    found = run(pipeline, running, chunks[:stop])
    log += running.take_changes()
    restarted = read_back(SPEC, log, limits, running.next_offset)
    found.records += run(pipeline, restarted, chunks[stop:]).records
    assert found.records == expected.records
    assert restarted.snapshot() == whole.snapshot()


def test_an_event_in_a_machines_life_is_one_episode_that_its_anomalies_name() -> None:
    outputs = after(*[at(m) for m in range(5)], *wild(5, 12), *[at(m) for m in range(12, 400)])
    assert [e for e in episodes(outputs) if e[0] != "updated"] == [
        ("opened", None),
        ("closed", "recovered"),
    ]
    (name,) = {episode["id"] for episode in told(outputs, "anomaly-episodes")}
    anomalies = told(outputs, "anomalies")
    assert {anomaly["episode_id"] for anomaly in anomalies} == {name}
    closed = told(outputs, "anomaly-episodes")[-1]
    assert closed["anomalies"] == len(anomalies) == outputs.anomalies >= 7
    assert closed["causes"][0]["channel"] in ("c0", "c1")


def test_maintenance_that_is_announced_closes_an_episode_and_lets_nothing_open() -> None:
    notice = at(8, begin=8, until=20)
    outputs = after(*[at(m) for m in range(5)], *wild(5, 8), notice, *wild(9, 20))
    assert episodes(outputs) == [("opened", None), ("closed", "maintenance")]
    times = [anomaly["timestamp"] for anomaly in told(outputs, "anomalies")]
    assert len(times) == 3
    assert outputs.scored == outputs.events == 20


def test_maintenance_in_the_settings_lets_nothing_open_for_the_machines_it_names() -> None:
    window = PlannedWindow("m0", START_US, START_US + 20 * MINUTE_US)
    pipeline = pipeline_with(window)
    events_of = {m: [*wild(5, 12, m)] for m in ("m0", "m1")}
    assert episodes(after(*events_of["m0"], pipeline=pipeline)) == []
    assert episodes(after(*events_of["m1"], pipeline=pipeline)) == [("opened", None)]


def test_after_a_change_the_level_is_learned_anew_only_where_that_was_said() -> None:
    for relearn in (False, True):
        notice = at(5, begin=5, until=10, relearn=relearn)
        raws = [*[at(m) for m in range(5)], notice, *wild(8, 40)]
        (scored,) = PIPELINE.step(PartitionState(SPEC), chunk_of(raws)).scored_events
        expected = scored.scores.expected[:, 0]
        assert (abs(expected[8:] - WILD).max() < 1_000) == relearn


def test_an_event_whose_notice_is_refused_is_a_dead_letter_and_changes_nothing() -> None:
    """Not even the relearning that is due at the first event after a window."""
    windows = [at(1, begin=k, until=k + 1, relearn=True) for k in (2, 10, 20, 30)]
    refused = at(4, WILD, begin=40, until=50)
    states = [PartitionState(SPEC) for _ in range(2)]
    outputs = run(PIPELINE, states[0], [chunk_of([at(0), *windows, refused, at(5)])])
    (letter,) = told(outputs, "dead-letters")
    assert letter["reason"] == "too-many-windows"
    assert outputs.dead == {"too-many-windows": 1}
    assert outputs.events == 7 == outputs.scored + 1
    run(PIPELINE, states[1], [chunk_of([at(0), *windows, at(5)])])
    assert states[0].snapshot() == states[1].snapshot()


def test_a_notice_that_ends_before_it_begins_is_a_dead_letter() -> None:
    outputs = after(at(0), at(1, begin=10, until=9))
    (letter,) = told(outputs, "dead-letters")
    assert letter["reason"] == "invalid-field"
    assert "maintenance ends before it begins" in letter["detail"]


def test_a_machine_that_is_forgotten_closes_its_episode_at_its_newest_event() -> None:
    limits = StateLimits(retention_us=60 * MINUTE_US)
    state = PartitionState(SPEC, limits=limits)
    names = ["m1", "m0", "m-z", "m-a"]
    raws = [at(5, WILD, name) for name in names for _ in range(1)]
    raws = [*[at(m, 0.0, name) for name in names for m in range(3)], *raws, at(500, 0.0, "other")]
    outputs = run(PIPELINE, state, [chunk_of(raws)])
    closed = [e for e in told(outputs, "anomaly-episodes") if e["status"] == "closed"]
    opened = {e["machine_id"] for e in told(outputs, "anomaly-episodes")} & {"m0", "m1"}
    assert opened == {"m0", "m1"}
    assert [e["machine_id"] for e in closed] == sorted(e["machine_id"] for e in closed)
    assert {e["close_reason"] for e in closed} == {"forgotten"}
    assert {e["closed_at"] for e in closed} == {e["opened_at"] for e in closed}


def test_the_clock_that_a_refused_event_moved_is_the_same_however_events_are_cut() -> None:
    windows = [at(1, begin=k, until=k + 1) for k in (2, 10, 20, 30)]
    refused = at(4, begin=40, until=50)
    raws = [at(0, machine="m1"), *windows, refused, at(3, machine="m1")]
    whole, single = PartitionState(SPEC), PartitionState(SPEC)
    run(PIPELINE, whole, [chunk_of(raws)])
    run(PIPELINE, single, [chunk_of([raw], first_offset=k) for k, raw in enumerate(raws)])
    assert whole.snapshot() == single.snapshot()
