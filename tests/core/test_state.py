from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.strategies import START_US, Event, events, make_spec, specs
from worker.core.channels import ChannelSpec, spec_from_dict
from worker.core.errors import StateError
from worker.core.state import PartitionState, fingerprint, row_dtype

Rows = list[tuple[bytes, bytes]]


def fill(state: PartitionState, arrived: list[Event]) -> None:
    state.aggregate(
        state.indices([event.machine.encode() for event in arrived]),
        np.array([event.time_us for event in arrived], np.int64),
        np.array([event.readings for event in arrived]).reshape(-1, len(state.spec.continuous)),
    )


def some_rows(spec: ChannelSpec | None = None) -> Rows:
    spec = spec or make_spec()
    state = PartitionState(spec)
    zeros = [1.0] * len(spec.continuous)
    fill(state, [Event(f"m{i % 3}", START_US + i * spec.pane_us, zeros) for i in range(9)])
    return state.snapshot()


def changed(spec: ChannelSpec, **changes: Any) -> ChannelSpec:
    return spec_from_dict(spec.to_dict() | changes)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_restored_snapshot_gives_the_same_snapshot(data: st.DataObject) -> None:
    spec = data.draw(specs())
    state, copy = PartitionState(spec), PartitionState(spec)
    fill(state, data.draw(events(spec)))
    rows = state.snapshot()
    assert rows == sorted(rows)
    copy.restore(data.draw(st.permutations(rows)))
    assert copy.snapshot() == rows
    assert len(copy) == len(state)


def test_changes_are_the_touched_panes_and_are_taken_once() -> None:
    spec = make_spec()
    state = PartitionState(spec)
    fill(state, [Event("a", START_US, [1.0, 2.0]), Event("b", START_US, [1.0, 2.0])])
    assert len(state.take_changes()) == 2
    assert state.take_changes() == []
    fill(state, [Event("b", START_US + 1, [3.0, 4.0])])
    (row,) = state.take_changes()
    assert row[0].startswith(b"b|")
    assert row in state.snapshot()


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
    copy = PartitionState(spec)
    copy.restore(log)
    assert copy.snapshot() == state.snapshot()


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_the_latest_rows_of_all_keys_are_the_state_in_whatever_order_they_come(
    data: st.DataObject,
) -> None:
    spec = make_spec()
    state = PartitionState(spec)
    log: dict[bytes, bytes] = {}
    for event in data.draw(events(spec)):
        fill(state, [event])
        log |= dict(state.take_changes())
    copy = PartitionState(spec)
    copy.restore(data.draw(st.permutations(sorted(log.items()))))
    assert copy.snapshot() == state.snapshot()


def test_rows_restored_into_state_in_use_replace_what_it_had_merged() -> None:
    spec = make_spec(1)
    state, follower = PartitionState(spec), PartitionState(spec)
    minute_us = spec.pane_us
    fill(state, [Event("a", START_US, [1.0]), Event("a", START_US + minute_us, [1.0])])
    follower.restore(state.take_changes())
    for each in (state, follower):
        fill(each, [Event("a", START_US + minute_us, [1.0])])
    fill(state, [Event("a", START_US, [7.0])])
    follower.restore(state.take_changes())
    at = np.array([START_US + minute_us], np.int64)
    last = [s.aggregate(s.indices([b"a"]), at, np.array([[2.0]]))[0] for s in (state, follower)]
    assert np.array_equal(last[0], last[1])


def test_machines_are_kept_apart_however_many_and_whatever_their_ids() -> None:
    spec = make_spec(1)
    ids = [f"m{i}" for i in range(300)] + ["", "a|1", "a|1|2", "|", "ä", "\x00", "a" * 256][1:]
    state = PartitionState(spec)
    for number, machine in enumerate(ids):
        fill(state, [Event(machine, START_US, [float(number)])])
    assert len(state) == len(ids)
    copy = PartitionState(spec)
    copy.restore(state.snapshot())
    assert copy.snapshot() == state.snapshot()
    dtype = row_dtype(1)
    means = {
        key.rpartition(b"|")[0].decode(): np.frombuffer(value, dtype)[0]["stats"][0, 1]
        for key, value in copy.snapshot()
    }
    assert means == {machine: float(number) for number, machine in enumerate(ids)}


def test_growing_keeps_the_state_of_every_machine() -> None:
    spec = make_spec(2)
    one_by_one, at_once = PartitionState(spec), PartitionState(spec)
    arrived = [Event(f"m{i}", START_US + i, [float(i), 0.0]) for i in range(500)]
    for event in arrived:
        fill(one_by_one, [event])
    fill(at_once, arrived)
    assert one_by_one.snapshot() == at_once.snapshot()
    assert sorted(one_by_one.take_changes()) == sorted(at_once.take_changes())


def test_the_layout_of_a_row_is_fixed() -> None:
    assert row_dtype(5).itemsize == 24 + 5 * 40
    state = PartitionState(make_spec(1))
    fill(state, [Event("a", START_US, [2.0]), Event("a", START_US, [4.0])])
    ((key, value),) = state.snapshot()
    pane = START_US // 60_000_000
    assert key == b"a|%d" % (pane % state.spec.slots)
    assert value[:4] == (1).to_bytes(4, "little")
    assert value[4:8] == fingerprint(state.spec).to_bytes(4, "little")
    assert value[8:16] == pane.to_bytes(8, "little")
    assert value[16:24] == START_US.to_bytes(8, "little")
    assert np.frombuffer(value[24:], "<f8").tolist() == [2.0, 3.0, 2.0, 2.0, 4.0]


def test_nothing_to_restore_is_no_error() -> None:
    state = PartitionState(make_spec())
    state.restore([])
    assert len(state) == 0


def with_value(rows: Rows, value: Any) -> Rows:
    return [rows[0], (rows[1][0], value), *rows[2:]]


def with_key(rows: Rows, key: bytes) -> Rows:
    return [rows[0], (key, rows[1][1]), *rows[2:]]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda value: value[:-1], id="cut"),
        pytest.param(lambda value: value + b"\0", id="too long"),
        pytest.param(lambda value: b"", id="empty"),
        pytest.param(lambda value: None, id="tombstone"),
        pytest.param(lambda value: b"\2" + value[1:], id="another version"),
        pytest.param(
            lambda value: value[:4] + bytes([value[4] ^ 1]) + value[5:], id="another fingerprint"
        ),
        pytest.param(lambda value: value[:8] + bytes([value[8] ^ 1]) + value[9:], id="pane moved"),
    ],
)
def test_a_damaged_row_is_refused_in_one_sentence_that_names_its_key(damage: Any) -> None:
    rows = some_rows()
    state = PartitionState(make_spec())
    with pytest.raises(StateError) as error:
        state.restore(with_value(rows, damage(rows[1][1])))
    assert repr(rows[1][0]) in str(error.value)
    assert str(error.value).endswith(".")
    assert "worker.app_id" in str(error.value)
    assert state.snapshot() == []


@pytest.mark.parametrize(
    "key",
    [b"", b"m", b"|1", b"m|", b"m|x", b"m|-1", b"m|+1", b"m| 1", b"m|99999", b"m|" + b"9" * 5000],
)
def test_a_row_under_another_key_is_refused(key: bytes) -> None:
    state = PartitionState(make_spec())
    with pytest.raises(StateError, match="state row"):
        state.restore(with_key(some_rows(), key))
    assert state.snapshot() == []


def test_the_slot_in_a_key_has_one_spelling() -> None:
    rows = some_rows()
    machine_id, _, slot = rows[1][0].rpartition(b"|")
    with pytest.raises(StateError):
        PartitionState(make_spec()).restore(with_key(rows, machine_id + b"|0" + slot))


BASE = make_spec(2)
CHANNELS = BASE.to_dict()["channel"]
WINDOW = BASE.to_dict()["window"]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"channel": CHANNELS[1::-1] + CHANNELS[2:]}, id="channels swapped"),
        pytest.param(
            {"channel": [{**CHANNELS[0], "unit": "kilo-u"}, *CHANNELS[1:]]}, id="another unit"
        ),
        pytest.param(
            {"channel": [{**CHANNELS[0], "name": "x"}, *CHANNELS[1:]], "derived": []},
            id="another name",
        ),
        pytest.param({"channel": CHANNELS[:1], "derived": []}, id="one channel less"),
        pytest.param({"channel": [*CHANNELS, {"name": "x"}]}, id="one channel more"),
        pytest.param({"window": {**WINDOW, "length": "10m"}}, id="longer window"),
        pytest.param({"window": {**WINDOW, "length": "5s", "pane": "1s"}}, id="shorter panes"),
        pytest.param({"window": {**WINDOW, "grace": "10m"}}, id="longer grace"),
    ],
)
def test_rows_of_other_channels_or_another_window_are_never_misread(
    changes: dict[str, Any],
) -> None:
    other = changed(BASE, **changes)
    state = PartitionState(other)
    with pytest.raises(StateError):
        state.restore(some_rows(BASE))
    assert state.snapshot() == []


def test_a_new_physical_range_or_categorical_channel_keeps_the_state() -> None:
    other = changed(
        BASE,
        channel=[{**CHANNELS[0], "max": 5.0}, CHANNELS[1], {**CHANNELS[2], "values": ["A"]}],
    )
    state = PartitionState(other)
    state.restore(some_rows(BASE))
    assert state.snapshot() == some_rows(BASE)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=200)), min_size=1, max_size=5))
def test_arbitrary_bytes_are_refused_not_read(rows: Rows) -> None:
    with pytest.raises(StateError):
        PartitionState(make_spec()).restore(rows)
