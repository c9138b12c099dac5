"""Machines one by one say what their whole partition says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.strategies import (
    START_US,
    Event,
    Raw,
    chunk_of,
    make_pipeline,
    make_spec,
    raw,
    read_back,
)
from worker.core.errors import RecordingError
from worker.core.events import Chunk
from worker.core.health import Health, HealthProfile
from worker.core.outgoing import Outputs
from worker.core.pipeline import Pipeline
from worker.core.rows import Row
from worker.core.state import PartitionState, StateLimits
from worker.replay.machines import Clock, Mark, clocks_of, follow, place

SPEC = make_spec(1, pane_us=60_000_000, panes=3, grace_us=60_000_000)
MINUTE_US = 60_000_000
LIMITS = StateLimits(retention_us=10 * MINUTE_US)
Said = dict[tuple[str, bytes | None], list[Any]]


def watchful() -> Pipeline:
    """A pipeline that finds machines silent after three minutes, and sensors stuck."""
    unknown = HealthProfile.unknown(1)
    usual_us = np.array([[MINUTE_US, 3 * MINUTE_US]], np.int64)
    profile = replace(unknown, limits=np.full((1, 1, 2), 3, np.uint16), usual_us=usual_us)
    pipeline = make_pipeline(SPEC)
    pipeline.health = Health(SPEC, profile)
    return pipeline


PIPELINE = watchful()


@st.composite
def lives(draw: st.DrawFn) -> list[Raw]:
    """Time goes on in steps, jumps past the retention, and runs back; some records are garbage."""
    steps = st.one_of(st.integers(0, 2), st.integers(-14, 14), st.sampled_from([4, 10, 11, 25]))
    some = st.tuples(st.sampled_from("abcd"), steps, st.integers(0, 59), st.integers(0, 3))
    minute, found = 0, []
    for machine, step, seconds, reading in draw(st.lists(some, max_size=60)):
        minute = max(minute + step, -20)
        time_us = START_US + minute * MINUTE_US + seconds * 10**6
        one = raw(SPEC, Event(machine, time_us, [float(reading)]))
        if draw(st.integers(0, 12)) == 0:
            one = draw(st.sampled_from([replace(one, value=b"{"), replace(one, key=None)]))
        found.append(one)
    return found


def by_machine(chunk: Chunk, outputs: Outputs, said: Said) -> None:
    """Add what was said, by topic and machine, each in its order."""
    for record in outputs.records:
        if record.stream not in ("anomalies", "dead-letters"):
            said[record.stream, record.key].append(record.value)
    for part in outputs.scored_events:
        scores = zip(part.scores.anomaly_score, part.scores.threshold, strict=True)
        for row, key, score in zip(
            part.readings.rows, part.readings.machine_ids, scores, strict=True
        ):
            said["scores", key].append((int(chunk.offsets[row]), *map(float, score)))


def divided(
    chunk: Chunk, cuts: Sequence[int], earlier: Mapping[int, Clock]
) -> tuple[dict[bytes, list[int]], Chunk, dict[int, Clock]]:
    """Positions of each machine's records; the records with the clock at each; and the clock.

    The first look is taken at stretches that end at the cuts.
    """
    ends = sorted({min(cut, len(chunk)) for cut in cuts} | {len(chunk)})
    rows: dict[bytes, list[int]] = defaultdict(list)
    marks, begins, own = [], [], []
    for begin, end in pairwise([0, *ends]):
        if begin == end:
            continue
        found = place(PIPELINE.decoder, chunk.part(begin, end), SPEC.pane_us)
        for row, machine_id in enumerate(found.machine_ids, begin):
            if machine_id is not None:
                rows[machine_id].append(row)
        first = int(chunk.offsets[begin])
        moments = (chunk.offsets[begin:end], found.before_us, found.clocks_us)
        columns = [column[found.marked].tolist() for column in moments]
        marks += [Mark(0, first, *numbers) for numbers in zip(*columns, strict=True)]
        begins += [first] * (end - begin)
        own += found.clocks_us.tolist()
    clocks = clocks_of(reversed(marks), SPEC.pane_us, earlier)
    clocks_us = np.array(own, np.int64)
    if clocks:
        clocks_us = clocks[0].at(np.array(begins), clocks_us)
    return rows, replace(chunk, clocks_us=clocks_us), clocks


def picked(chunk: Chunk, at: list[int]) -> Chunk:
    assert chunk.clocks_us is not None
    keys, values = ([column[i] for i in at] for column in (chunk.keys, chunk.values))
    arrays = (chunk.offsets, chunk.timestamps_ms, chunk.clocks_us)
    offsets, timestamps_ms, clocks_us = (array[np.array(at, np.int64)] for array in arrays)
    return Chunk(chunk.topic, chunk.partition, offsets, timestamps_ms, keys, values, clocks_us)


@settings(max_examples=400, deadline=None)
@given(lives(), st.lists(st.integers(0, 60), max_size=3), st.lists(st.integers(0, 60), max_size=6))
def test_machines_alone_say_and_keep_what_they_do_in_their_partition(
    sent: list[Raw], days: list[int], cuts: list[int]
) -> None:
    whole = chunk_of(sent)
    state = PartitionState(SPEC, limits=LIMITS)
    expected: Said = defaultdict(list)
    by_machine(whole, PIPELINE.step(state, whole), expected)

    found: Said = defaultdict(list)
    kept: dict[bytes, list[Row]] = {}
    earlier: dict[int, Clock] = {}
    for begin, end in pairwise(sorted({0, len(whole), *(min(day, len(whole)) for day in days)})):
        inner = [cut - begin for cut in cuts if cut > begin]
        rows, part, clocks = divided(whole.part(begin, end), inner, earlier)
        earlier |= clocks
        for machine_id in {*rows, *kept}:
            alone = read_back(SPEC, kept.get(machine_id, []), LIMITS)
            own = picked(part, rows.get(machine_id, []))
            for chunk, outputs in follow(PIPELINE, alone, own, clocks[0]):
                by_machine(chunk, outputs, found)
            kept[machine_id] = list(alone.snapshot())
    assert found == expected
    assert sorted(row for own in kept.values() for row in own) == state.snapshot()


def test_stretches_that_overlap_are_refused() -> None:
    marks = [Mark(7, 0, 9, 0, 1), Mark(7, 9, 12, 1, 2)]
    with pytest.raises(RecordingError, match="partition 7 has offset 9 behind offset 9"):
        clocks_of(marks, MINUTE_US, {})
    earlier = clocks_of(marks[1:], MINUTE_US, {})
    with pytest.raises(RecordingError, match="not in the order of offsets"):
        clocks_of(marks[:1], MINUTE_US, earlier)
