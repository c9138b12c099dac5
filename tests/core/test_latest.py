from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.strategies import (
    START_US,
    Event,
    chunk_of,
    cut,
    events,
    make_pipeline,
    make_spec,
    raw,
)
from worker.core.latest import SCORE, Latest, LatestEvents
from worker.core.state import PartitionState, StateLimits

SPEC = make_spec()
PIPELINE = make_pipeline(SPEC)


def by_machine(latest: Latest) -> dict[bytes, tuple[object, ...]]:
    return {
        name: (
            latest.rows[i],
            int(latest.times_us[i]),
            float(latest.scores[i, SCORE]),
            bool(latest.maintained[i]),
            latest.values[i].tobytes(),
            latest.inputs[i].tobytes(),
            latest.aggregates[i].tobytes(),
        )
        for i, name in enumerate(latest.machine_ids)
    }


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_the_last_scored_event_of_each_machine_is_taken_once_however_they_were_cut(
    data: st.DataObject,
) -> None:
    raws = [raw(SPEC, event) for event in data.draw(events(SPEC, machines=5))]
    latest, state = LatestEvents(SPEC), PartitionState(SPEC)
    expected: dict[bytes, tuple[object, ...]] = {}
    for chunk in cut(raws, data.draw(st.lists(st.integers(0, 40), max_size=8))):
        for scored in PIPELINE.step(state, chunk).scored_events:
            latest.note(scored)
            for i, name in enumerate(scored.readings.machine_ids):
                expected[name] = (
                    int(scored.readings.times_us[i]),
                    float(scored.scores.anomaly_score[i]),
                    bool(scored.maintained[i]),
                    scored.values[i].tobytes(),
                    scored.scores.inputs[i].tobytes(),
                    scored.aggregates[i].tobytes(),
                )
    rows = dict(state.snapshot())
    assert len(latest) == len(expected)
    found: dict[bytes, tuple[object, ...]] = {}
    while len(latest):
        part = latest.take(state, data.draw(st.integers(1, 3)))
        assert not found.keys() & set(part.machine_ids)
        found |= by_machine(part)
    assert found == {name: (rows[name + b"|m"], *told) for name, told in expected.items()}


def test_with_more_machines_than_are_taken_each_has_its_turn() -> None:
    latest, state = LatestEvents(SPEC), PartitionState(SPEC)
    names = [f"m{i}" for i in range(10)]
    taken: list[bytes] = []
    for second in range(5):
        time_us = START_US + second * 1_000_000
        raws = [raw(SPEC, Event(name, time_us, [1.0, 2.0])) for name in names]
        for scored in PIPELINE.step(state, chunk_of(raws, second * len(names))).scored_events:
            latest.note(scored)
        taken += latest.take(state, 4).machine_ids
    assert {taken.count(name.encode()) for name in names} == {2}


def test_what_is_given_back_is_taken_again_as_it_is_by_then() -> None:
    latest, state = LatestEvents(SPEC), PartitionState(SPEC)
    times_us = []
    for second in range(2):
        event = Event("m0", START_US + second * 1_000_000, [1.0, 2.0])
        for scored in PIPELINE.step(state, chunk_of([raw(SPEC, event)], second)).scored_events:
            latest.note(scored)
        taken = latest.take(state, 10)
        latest.give_back(taken.positions)
        times_us.append(int(taken.times_us[0]))
    assert times_us == [START_US, START_US + 1_000_000]
    assert len(latest) == 1


def test_a_machine_that_is_forgotten_by_then_is_left_out() -> None:
    limits = StateLimits(retention_us=SPEC.length_us * 10)
    latest, state = LatestEvents(SPEC), PartitionState(SPEC, limits=limits)
    late_us = START_US + SPEC.length_us * 20
    raws = [
        raw(SPEC, Event("old", START_US, [1.0, 2.0])),
        raw(SPEC, Event("new", late_us, [1.0, 2.0])),
    ]
    for scored in PIPELINE.step(state, chunk_of(raws)).scored_events:
        latest.note(scored)
    state.take_changes()
    assert latest.take(state, 10).machine_ids == [b"new"]
    assert len(latest) == 0


def test_parts_make_up_the_whole() -> None:
    latest, state = LatestEvents(SPEC), PartitionState(SPEC)
    raws = [raw(SPEC, Event(f"m{i}", START_US, [float(i), 2.0])) for i in range(7)]
    for scored in PIPELINE.step(state, chunk_of(raws)).scored_events:
        latest.note(scored)
    whole = latest.take(state, 100)
    parts = by_machine(whole.part(0, 3)) | by_machine(whole.part(3))
    assert parts == by_machine(whole)
    np.testing.assert_array_equal(whole.part(3).positions, whole.positions[3:])
