"""Machines that fall silent are forgotten, and there is room for only so many."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.strategies import (
    START_US,
    Event,
    chunk_of,
    cut,
    fill,
    make_pipeline,
    make_spec,
    raw,
    read_back,
    run,
    windows_of,
)
from worker.core import windows
from worker.core.rows import LAYOUT_KEY, Row
from worker.core.state import PartitionState, StateLimits

SPEC = make_spec(1, pane_us=60_000_000, panes=3, grace_us=60_000_000)
MINUTE_US = 60_000_000
LIMITS = StateLimits(retention_us=10 * MINUTE_US, max_machines=3)
AT_US = START_US // MINUTE_US * MINUTE_US


def event(machine: str, minute: float, reading: float = 1.0) -> Event:
    return Event(machine, AT_US + round(minute * MINUTE_US), [reading])


@dataclass
class Plain:
    """The rule in plain words: who is known, since when silent, and what time it is."""

    clock_us: int = -1
    newest_us: dict[str, int] = field(default_factory=dict)
    heard_us: dict[str, int] = field(default_factory=dict)

    def judge(self, machine: str, time_us: int) -> int:
        newest_us = self.newest_us.get(machine)
        if newest_us is not None and time_us < newest_us - SPEC.grace_us:
            return newest_us - SPEC.grace_us
        clock_us = max(self.clock_us, time_us)
        pane_start_us = clock_us // SPEC.pane_us * SPEC.pane_us
        for silent in [
            m for m, us in self.heard_us.items() if us < pane_start_us - LIMITS.retention_us
        ]:
            del self.newest_us[silent], self.heard_us[silent]
        if machine not in self.newest_us and len(self.newest_us) >= LIMITS.max_machines:
            return windows.REFUSED
        self.clock_us = self.heard_us[machine] = clock_us
        self.newest_us[machine] = max(self.newest_us.get(machine, -1), time_us)
        return windows.EMPTY


@st.composite
def lives(draw: st.DrawFn) -> list[Event]:
    """Few or many machines; time steps, jumps beyond the retention, and runs back."""
    steps = st.one_of(st.integers(0, 2), st.integers(-14, 14), st.sampled_from([10, 11, 25, -11]))
    ids = st.sampled_from(["a", "b", "c", "d", "e", "f"])
    minute, result = 0, []
    for machine, step, seconds in draw(
        st.lists(st.tuples(ids, steps, st.sampled_from([0, 1, 59])), max_size=40)
    ):
        minute = max(minute + step, -20)
        result.append(Event(machine, AT_US + minute * MINUTE_US + seconds * 10**6, [1.0 * minute]))
    return result


@settings(max_examples=300, deadline=None)
@given(lives())
def test_machines_are_forgotten_and_refused_as_the_plain_rule_says(arrived: list[Event]) -> None:
    state, plain = PartitionState(SPEC, limits=LIMITS), Plain()
    found = fill(state, arrived)
    assert found == [plain.judge(e.machine, e.time_us) for e in arrived]
    assert len(state) == len(plain.newest_us)
    keys = {key.rpartition(b"|")[0].decode() for key, _ in state.snapshot()}
    assert keys == set(plain.newest_us)


@settings(max_examples=200, deadline=None)
@given(lives(), st.data())
def test_outputs_and_rows_are_the_same_however_cut_committed_and_restored(
    arrived: list[Event], data: st.DataObject
) -> None:
    pipeline = make_pipeline(SPEC)
    raws = [raw(SPEC, e) for e in arrived]
    whole = PartitionState(SPEC, limits=LIMITS)
    expected = run(pipeline, whole, [chunk_of(raws)])
    parts, log, records = PartitionState(SPEC, limits=LIMITS), list[Row](), []
    for chunk in cut(raws, data.draw(st.lists(st.integers(0, len(raws)), max_size=8))):
        records += pipeline.step(parts, chunk).records
        match data.draw(st.integers(0, 2)):
            case 0:
                log += parts.take_changes()
            case 1:
                log += parts.take_changes()
                log = compacted(log, data)
                parts = read_back(SPEC, log, LIMITS, parts.next_offset)
    log += parts.take_changes()
    assert records == expected.records
    assert parts.snapshot() == whole.snapshot()
    restored = read_back(SPEC, log, LIMITS, len(raws))
    assert restored.snapshot() == whole.snapshot()
    later = [raw(SPEC, event(m, 40, 2.0)) for m in "abcdef"]
    after = [run(pipeline, s, [chunk_of(later, len(raws))]) for s in (restored, whole)]
    assert after[0] == after[1]


def compacted(log: Sequence[Row], data: st.DataObject) -> list[Row]:
    """Of each key the last row, and perhaps some earlier ones; tombstones may be gone."""
    latest = {key: i for i, (key, _) in enumerate(log)}
    without_tombstones = data.draw(st.booleans())
    return [
        (key, value)
        for i, (key, value) in enumerate(log)
        if (latest[key] == i and not (without_tombstones and value is None))
        or (not without_tombstones and data.draw(st.booleans()))
    ]


def test_a_silent_machine_leaves_the_changelog_and_its_place_is_used_again() -> None:
    state = PartitionState(SPEC, limits=LIMITS)
    fill(state, [event("old", 0), event("old", 1), event("other", 5)])
    log = dict(state.take_changes())
    fill(state, [event("other", 12)])
    changes = state.take_changes()
    deleted = {key for key, value in changes if value is None}
    assert deleted == {key for key in log if key.startswith(b"old|")}
    assert len(deleted) == 3
    assert len(state) == 1
    for number in range(1000):
        fill(state, [event(f"m{number}", 20 + 20 * number)])
        state.take_changes()
    assert len(state) == 1
    assert len(state.snapshot()) == 2


def test_a_machine_that_comes_back_starts_anew_also_with_old_readings() -> None:
    state = PartitionState(SPEC, limits=LIMITS)
    fill(state, [event("m", 0, 100.0), event("other", 0), event("other", 12)])
    aggregates, watermarks_us = windows_of(state, [event("m", -30, 7.0)])
    assert watermarks_us.tolist() == [windows.EMPTY]
    assert aggregates[0, 0].tolist() == [1.0, 7.0, 0.0, 7.0, 7.0]
    copy = read_back(SPEC, state.take_changes(), LIMITS)
    assert copy.snapshot() == state.snapshot()


def test_a_machine_whose_clock_is_behind_is_not_silent() -> None:
    """Files of other years may be published one after the other, or side by side."""
    state = PartitionState(SPEC, limits=LIMITS)
    for minute in range(100):
        assert fill(state, [event("now", minute), event("then", minute - 50_000)]) == [-1, -1]
    assert len(state) == 2


def test_events_of_machines_beyond_the_limit_are_dead_letters_until_there_is_room() -> None:
    pipeline, state = make_pipeline(SPEC), PartitionState(SPEC, limits=LIMITS)
    arrived = [event(m, 0) for m in "abcd"] + [event("a", 1), event("e", 1), event("d", 12)]
    outputs = pipeline.step(state, chunk_of([raw(SPEC, e) for e in arrived]))
    assert outputs.dead == {"too-many-machines": 2}
    assert outputs.scored == 5
    letters = [json.loads(r.value) for r in outputs.records if r.stream == "dead-letters"]
    assert [letter["origin"]["offset"] for letter in letters] == [3, 5]
    assert letters[0]["detail"] == "the partition has 3 machines already"


def test_a_million_invented_ids_leave_nothing_behind() -> None:
    state = PartitionState(SPEC, limits=LIMITS)
    fill(state, [event(m, 0) for m in "abc"])
    state.take_changes()
    for start in range(0, 1_000_000, 10_000):
        refused = fill(state, [event(f"x{start + i}", 1) for i in range(10_000)])
        assert set(refused) == {windows.REFUSED}
    assert len(state) == 3
    assert state.take_changes() == []
    assert len({LAYOUT_KEY, *dict(state.snapshot())}) == 1 + 2 * 3
