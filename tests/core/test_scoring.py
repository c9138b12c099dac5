"""What is gathered beside scoring: the same however the stream is cut, and only what tells."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from load.simulation.inputs import EPOCH_MS, LAYOUT, LIMITS, SPEC, events, make_pipeline
from worker.core.drift import Partial, merge
from worker.core.drift.thinning import choose_stride_us, counts, previous_times
from worker.core.events import Chunk
from worker.core.scoring import Scoring
from worker.core.state import PartitionState

PIPELINE = make_pipeline()
EVENTS = events(Random(5), 0, 600)
SECOND_US = 1_000_000


def chunk_of(start: int, end: int) -> Chunk:
    part = EVENTS[start:end]
    return Chunk(
        "sensor-events",
        0,
        np.arange(start, end),
        EPOCH_MS + 15_000 * np.arange(start, end),
        [key for key, _ in part],
        [value for _, value in part],
    )


def gathered(cuts: list[int]) -> dict[int, bytes]:
    """What all partials say together, by pane; each cut is a commit."""
    scoring, state = Scoring(PIPELINE, LAYOUT), PartitionState(SPEC, limits=LIMITS)
    panes: dict[int, Partial] = {}
    bounds = [0, *cuts, len(EVENTS)]
    for start, end in pairwise(bounds):
        scoring.step(state, chunk_of(start, end))
        for record in scoring.summarize(0, 1):
            partial = Partial.from_bytes(record.value)
            parts = [panes[partial.start_us]] if partial.start_us in panes else []
            panes[partial.start_us] = merge([*parts, partial], partial.start_us, partial.end_us)
    return {start: pane.to_bytes() for start, pane in panes.items()}


@settings(max_examples=10, deadline=None)
@given(cuts=st.sets(st.integers(1, len(EVENTS) - 1), max_size=40))
def test_what_is_gathered_does_not_depend_on_how_the_stream_is_cut(cuts: set[int]) -> None:
    whole = gathered([])
    assert len(whole) > 20
    assert gathered(sorted(cuts)) == whole


def test_of_a_machines_rows_the_first_in_a_slot_counts() -> None:
    scoring, state = Scoring(PIPELINE, LAYOUT), PartitionState(SPEC, limits=LIMITS)
    scored = scoring.step(state, chunk_of(0, len(EVENTS))).scored_events
    slots = set()
    newest: dict[int, int] = {}
    for part in scored:
        tells = ~part.maintained & (part.scores.experience >= 1.0)
        rows = zip(part.machines.tolist(), part.readings.times_us.tolist(), tells, strict=True)
        for machine, time_us, told in rows:
            slot = time_us // LAYOUT.stride_us
            if slot > newest.get(machine, -1) and told:
                slots.add((machine, slot))
            newest[machine] = max(slot, newest.get(machine, -1))
    scored_rows = sum(len(part.machines) for part in scored)
    found = sum(Partial.from_bytes(r.value).rows for r in scoring.summarize(0, 1))
    assert found == len(slots) < scored_rows


def test_machines_in_their_warm_up_are_left_out() -> None:
    scoring, state = Scoring(PIPELINE, LAYOUT), PartitionState(SPEC, limits=LIMITS)
    outputs = scoring.step(state, chunk_of(0, len(EVENTS)))
    warming = {
        part.readings.machine_ids[i].decode()
        for part in outputs.scored_events
        for i in np.flatnonzero(part.scores.experience < 1.0).tolist()
    }
    known = {
        part.readings.machine_ids[i].decode()
        for part in outputs.scored_events
        for i in np.flatnonzero(part.scores.experience >= 1.0).tolist()
    }
    told = {
        name for r in scoring.summarize(0, 1) for name in Partial.from_bytes(r.value).machine_ids
    }
    assert warming - known
    assert told
    assert told <= known


@pytest.mark.parametrize(("phi", "least", "most"), [(0.0, 0, 1), (0.9, 30, 60), (0.999, 60, 60)])
def test_the_stride_is_as_long_as_rows_are_alike(phi: float, least: int, most: int) -> None:
    rng = np.random.default_rng(4)
    rows = np.zeros((5000, 4), np.float32)
    for t in range(1, len(rows)):
        rows[t] = phi * rows[t - 1] + np.sqrt(1.0 - phi**2) * rng.normal(size=4)
    times_us = np.arange(len(rows)) * 10 * SECOND_US
    stride_us = choose_stride_us(rows, times_us, 10 * SECOND_US)
    assert least * SECOND_US <= stride_us <= most * 10 * SECOND_US
    previous_us = previous_times(times_us, np.zeros(len(rows), np.int64))
    kept = counts(times_us, previous_us, stride_us)
    assert kept.sum() == -(-len(rows) * 10 * SECOND_US // max(stride_us, 10 * SECOND_US))
    # What is left of the rows is still worth nine tenths of them.
    alike = phi ** (stride_us / (10.0 * SECOND_US))
    worth = kept.mean() * (1.0 - alike) / (1.0 + alike) * (1.0 + phi) / (1.0 - phi)
    assert worth >= 0.88 or stride_us < 10 * SECOND_US
