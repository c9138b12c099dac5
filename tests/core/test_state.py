from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.strategies import START_US, Event, events, fill, make_spec, read_back, specs
from worker.core.rows import LAYOUT_KEY
from worker.core.state import PartitionState


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_restored_snapshot_gives_the_same_snapshot_in_whatever_order_it_comes(
    data: st.DataObject,
) -> None:
    spec = data.draw(specs())
    state = PartitionState(spec)
    fill(state, data.draw(events(spec)))
    rows = state.snapshot()
    assert rows == sorted(rows)
    copy = read_back(spec, data.draw(st.permutations(rows)))
    assert copy.snapshot() == rows
    assert len(copy) == len(state)


def test_changes_are_the_touched_panes_and_machines_and_are_taken_once() -> None:
    spec = make_spec()
    state = PartitionState(spec)
    fill(state, [Event("a", START_US, [1.0, 2.0]), Event("b", START_US, [1.0, 2.0])])
    layout, *rows = state.take_changes()
    assert layout[0] == LAYOUT_KEY
    assert len(rows) == 4
    assert state.take_changes() == []
    fill(state, [Event("b", START_US + 1, [3.0, 4.0])])
    pane, machine = state.take_changes()
    assert pane[0].startswith(b"b|")
    assert machine[0] == b"b|m"
    assert {pane, machine} <= set(state.snapshot())


def test_a_late_event_changes_no_row() -> None:
    state = PartitionState(make_spec())
    fill(state, [Event("a", START_US, [1.0, 2.0])])
    state.take_changes()
    fill(state, [Event("a", START_US - 10**10, [1.0, 2.0])])
    assert state.take_changes() == []


def test_a_later_row_of_a_key_replaces_an_earlier_one_also_within_a_batch() -> None:
    spec = make_spec()
    state, log = PartitionState(spec), []
    for i in range(30):
        fill(state, [Event("a", START_US + i * 30_000_000, [float(i), 0.0])])
        log += state.take_changes()
    assert len({key for key, _ in log}) < len(log)
    assert read_back(spec, log).snapshot() == state.snapshot()


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_the_latest_rows_of_all_keys_are_the_state_in_whatever_order_they_come(
    data: st.DataObject,
) -> None:
    spec = make_spec()
    state = PartitionState(spec)
    log: dict[bytes, bytes | None] = {}
    for event in data.draw(events(spec)):
        fill(state, [event])
        log |= dict(state.take_changes())
    copy = read_back(spec, data.draw(st.permutations(sorted(log.items()))))
    assert copy.snapshot() == state.snapshot()


def test_machines_are_kept_apart_however_many_and_whatever_their_ids() -> None:
    spec = make_spec(1)
    ids = [f"m{i}" for i in range(300)] + ["a|1", "a|1|2", "|", "|layout", "ä", "\x00", "a" * 256]
    state = PartitionState(spec)
    for number, machine in enumerate(ids):
        fill(state, [Event(machine, START_US, [float(number)])])
    assert len(state) == len(ids)
    copy = read_back(spec, state.take_changes())
    assert copy.snapshot() == state.snapshot()
    at = np.full(len(ids), START_US)
    found = copy.indices([machine.encode() for machine in ids])
    means = copy.aggregate(found, at, np.full((len(ids), 1), np.nan))[:, 0, 1]
    assert means.tolist() == [float(number) for number in range(len(ids))]


def test_growing_keeps_the_state_of_every_machine() -> None:
    spec = make_spec(2)
    one_by_one, at_once = PartitionState(spec), PartitionState(spec)
    arrived = [Event(f"m{i}", START_US + i, [float(i), 0.0]) for i in range(500)]
    for event in arrived:
        fill(one_by_one, [event])
    fill(at_once, arrived)
    assert one_by_one.snapshot() == at_once.snapshot()
    assert sorted(one_by_one.take_changes()) == sorted(at_once.take_changes())
