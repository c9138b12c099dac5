"""Rows of a changelog: their form, and reading them back whatever has become of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.strategies import START_US, Event, events, fill, make_spec, read_back, windows_of
from worker.core.changelog import StateReader
from worker.core.channels import ChannelSpec, spec_from_dict
from worker.core.errors import StateError
from worker.core.rows import LAYOUT_KEY, Layout, Row, checks
from worker.core.state import PartitionState

BASE = make_spec(3)
CHANNELS = BASE.to_dict()["channel"]
WINDOW = BASE.to_dict()["window"]


def changed(spec: ChannelSpec, **changes: Any) -> ChannelSpec:
    return spec_from_dict(spec.to_dict() | {"derived": []} | changes)


def some_state(spec: ChannelSpec = BASE, first: int = 0, minutes: int = 9) -> PartitionState:
    state = PartitionState(spec)
    n = len(spec.continuous)
    for i in range(first, first + minutes):
        readings = [float(i % 5 + c) for c in range(n)]
        fill(state, [Event(f"m{i % 3}", START_US + i * 20_000_000, readings)])
    return state


def some_rows() -> list[Row]:
    return some_state().take_changes()


def test_the_form_of_a_panes_row_is_fixed() -> None:
    spec = make_spec(1)
    layout = Layout.of(spec)
    assert Layout.of(make_spec(5)).pane_dtype.itemsize == 36 + 5 * 28
    state = PartitionState(spec)
    fill(state, [Event("a", START_US, [2.0]), Event("a", START_US, [4.0])])
    fill(state, [Event("b", START_US + 1, [0.0])])
    fill(state, [Event("a", START_US, [np.nan])])
    pane = START_US // 60_000_000
    value = dict(state.snapshot())[b"a|%d" % (pane % spec.slots)]
    assert value[:4] == (3).to_bytes(4, "little")
    assert value[:8] == layout.pane_prefix
    assert value[12:20] == pane.to_bytes(8, "little")
    assert value[20:28] == START_US.to_bytes(8, "little")
    assert value[28:36] == (START_US + 1).to_bytes(8, "little")
    assert value[36:40] == (2).to_bytes(4, "little")
    assert np.frombuffer(value[40:56], "<f8").tolist() == [3.0, 2.0]
    assert np.frombuffer(value[56:], "<f4").tolist() == [2.0, 4.0]


def test_a_machines_own_row_holds_its_fields() -> None:
    spec = make_spec(1)
    layout = Layout.of(spec)
    state = PartitionState(spec)
    fill(state, [Event("a", START_US, [2.0])])
    (place,) = state.indices([b"a"])
    state.table["model"][place] = 77
    value = dict(state.snapshot())[b"a|m"]
    assert value[:8] == layout.machine_prefix != layout.pane_prefix
    assert len(value) % 4 == 0
    assert np.frombuffer(value, layout.machine_dtype)["fields"]["model"].tolist() == [77]
    copy = read_back(spec, state.take_changes())
    assert copy.table["model"][copy.indices([b"a"])].tolist() == [77]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255), st.data())
def test_the_check_finds_every_change_of_one_byte(
    seed: int, flipped: int, data: st.DataObject
) -> None:
    layout = Layout.of(BASE)
    dtype = data.draw(st.sampled_from([layout.pane_dtype, layout.machine_dtype]))
    size = dtype.itemsize
    raw = np.random.default_rng(seed).bytes(size)
    record = np.frombuffer(raw, dtype).copy()
    record["check"] = checks(record)
    damaged = bytearray(record.tobytes())
    damaged[data.draw(st.integers(0, size - 1))] ^= flipped
    after = np.frombuffer(bytes(damaged), dtype)
    assert checks(after)[0] != after["check"][0]


def test_an_empty_changelog_gives_an_empty_state() -> None:
    state = StateReader(BASE).finish(17)
    assert (len(state), state.next_offset, state.snapshot()) == (0, 17, [])


def flip(position: int) -> Callable[[bytes], bytes]:
    return lambda v: v[:position] + bytes([v[position] ^ 1]) + v[position + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda value: value[:-1], id="cut"),
        pytest.param(lambda value: value + b"\0", id="too long"),
        pytest.param(lambda value: b"", id="empty"),
        pytest.param(flip(0), id="another version"),
        pytest.param(flip(4), id="another fingerprint"),
        pytest.param(flip(12), id="pane moved"),
        pytest.param(flip(70), id="a statistic changed"),
        pytest.param(flip(9), id="check changed"),
    ],
)
def test_a_damaged_row_is_refused_with_its_key_and_offset_and_the_way_out(damage: Any) -> None:
    rows = some_rows()
    key, value = rows[2]
    rows[2] = key, damage(value)
    with pytest.raises(StateError) as error:
        read_back(BASE, rows)
    assert f"offset 2 under key {key!r}" in str(error.value)
    assert "--rebuild-state" in str(error.value)
    assert str(error.value).endswith(".")


@pytest.mark.parametrize(
    "key",
    [b"", b"m", b"|1", b"m|", b"m|x", b"m|-1", b"m|+1", b"m| 1", b"m|99999", b"m|" + b"9" * 5000],
)
def test_a_row_under_another_key_is_refused(key: bytes) -> None:
    rows = some_rows()
    rows[1] = key, rows[1][1]
    with pytest.raises(StateError, match="offset 1 under key"):
        read_back(BASE, rows)


def test_the_slot_in_a_key_has_one_spelling() -> None:
    rows = some_rows()
    machine_id, _, slot = rows[1][0].rpartition(b"|")
    rows[1] = machine_id + b"|0" + slot, rows[1][1]
    with pytest.raises(StateError):
        read_back(BASE, rows)


@pytest.mark.parametrize("repair", ["row", "tombstone"])
@pytest.mark.parametrize("batch", [1, 100])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda value: b"nonsense", id="another form"),
        pytest.param(flip(70), id="a statistic changed"),
    ],
)
def test_a_damaged_row_that_was_repaired_or_deleted_later_does_no_harm(
    damage: Callable[[bytes], bytes], repair: str, batch: int
) -> None:
    state = some_state()
    rows = state.take_changes()
    key, value = rows.pop(-4)  # the last pane; the rows of three machines follow
    rows.append((key, value))
    assert value is not None
    damaged: list[Row] = [*rows[:-1], (b"garbage", b"x" * 300), (b"garbage", None)]
    damaged += [(key, damage(value)), (key, value if repair == "row" else None)]
    restored = read_back(BASE, damaged, batch=batch)
    expected = dict(state.snapshot())
    if repair == "tombstone":
        del expected[key]
    assert dict(restored.snapshot()) == expected


def test_a_damaged_row_never_leaves_an_earlier_one_in_force() -> None:
    rows = some_rows()
    rows.append((rows[1][0], b"\0" * len(rows[1][1] or b"")))
    with pytest.raises(StateError, match=rf"offset {len(rows) - 1} "):
        read_back(BASE, rows)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=200)), min_size=1, max_size=5))
def test_arbitrary_bytes_are_refused_not_read(rows: list[Row]) -> None:
    with pytest.raises(StateError):
        read_back(make_spec(), rows)


# -- other channels, another window ----------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param(
            {"channel": [{**CHANNELS[0], "unit": "kilo-u"}, *CHANNELS[1:]]},
            "channel c0 was not there in that unit",
            id="another unit",
        ),
        pytest.param({"channel": [*CHANNELS, {"name": "x"}]}, "channel x ", id="one channel more"),
        pytest.param({"window": {**WINDOW, "length": "10m"}}, "panes a machine", id="longer"),
        pytest.param(
            {"window": {**WINDOW, "length": "5s", "pane": "1s"}}, "panes of 1m, not 1s", id="panes"
        ),
        pytest.param({"window": {**WINDOW, "grace": "10m"}}, "panes a machine", id="longer grace"),
    ],
)
def test_rows_that_cannot_be_carried_over_exactly_are_refused_with_the_reason(
    changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(StateError, match=reason) as error:
        read_back(changed(BASE, **changes), some_rows())
    assert "--rebuild-state" in str(error.value)


EXACT = {
    "channels in another order": {"channel": [CHANNELS[2], *CHANNELS[:2], *CHANNELS[3:]]},
    "one channel less": {"channel": [CHANNELS[0], *CHANNELS[2:]]},
    "shorter window": {"window": {**WINDOW, "length": "2m"}},
    "shorter grace": {"window": {**WINDOW, "grace": "1s"}},
    "all at once": {"channel": [CHANNELS[2], CHANNELS[0]], "window": {**WINDOW, "length": "3m"}},
}


@pytest.mark.parametrize("changes", EXACT.values(), ids=EXACT)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_state_is_carried_over_to_fewer_channels_and_shorter_windows_exactly(
    data: st.DataObject, changes: dict[str, Any]
) -> None:
    """From the change on, aggregates equal those of state that never was another's."""
    old, new = changed(BASE), changed(BASE, **changes)
    columns = [old.continuous.index(channel) for channel in new.continuous]
    arrived = data.draw(events(old, machines=2))
    split = data.draw(st.integers(0, len(arrived)))
    arrived = in_order(arrived[:split]) + arrived[split:]
    before, after = arrived[:split], [pick(e, columns) for e in arrived[split:]]

    written = PartitionState(old)
    fill(written, before)
    carried = read_back(new, written.take_changes())
    native = PartitionState(new)
    fill(native, [pick(event, columns) for event in before])
    assert len(carried) == len(native)
    log = [*written.take_changes(), *carried.take_changes()]
    for event in after:
        for ours, theirs in zip(
            windows_of(carried, [event]), windows_of(native, [event]), strict=True
        ):
            assert np.array_equal(ours, theirs)
    log += carried.take_changes()
    assert read_back(new, log).snapshot() == carried.snapshot()


def in_order(arrived: list[Event]) -> list[Event]:
    """Events by time: what is late depends on the grace, which may differ."""
    return sorted(arrived, key=lambda event: event.time_us)


def pick(event: Event, columns: list[int]) -> Event:
    return Event(event.machine, event.time_us, [event.readings[c] for c in columns])


def test_what_was_carried_over_replaces_the_old_rows_in_the_changelog() -> None:
    old, new = BASE, changed(BASE, **EXACT["all at once"])
    log: list[Row] = some_state(old).take_changes()
    old_keys = {key for key, _ in log} - {LAYOUT_KEY}
    log += read_back(new, log).take_changes()
    latest = dict(log)
    left = {key for key, value in latest.items() if value is not None and key != LAYOUT_KEY}
    assert old_keys - left
    prefixes = Layout.of(new).pane_prefix, Layout.of(new).machine_prefix
    assert {(latest[key] or b"")[:8] for key in left} == set(prefixes)
    # Compaction in parts may drop the old layout's own row before the rows it describes.
    assert read_back(new, log[1:]).snapshot() == read_back(new, log).snapshot()
    assert read_back(new, list(latest.items())).snapshot() == read_back(new, log).snapshot()


def test_going_back_to_the_old_channels_is_refused_when_some_were_given_up() -> None:
    new = changed(BASE, **EXACT["one channel less"])
    log: list[Row] = some_rows()
    log += read_back(new, log).take_changes()
    with pytest.raises(StateError, match="channel c1 was not there"):
        read_back(BASE, log)


def test_a_new_physical_range_or_categorical_channel_keeps_the_rows() -> None:
    other = changed(
        BASE,
        channel=[{**CHANNELS[0], "max": 5.0}, *CHANNELS[1:3], {**CHANNELS[3], "values": ["A"]}],
    )
    state = some_state(changed(BASE))
    assert read_back(other, state.take_changes()).snapshot() == state.snapshot()


def test_a_damaged_row_among_those_carried_over_is_refused() -> None:
    rows = some_rows()
    rows[3] = rows[3][0], (rows[3][1] or b"")[:-1] + b"\x7f"
    with pytest.raises(StateError, match="offset 3 under key"):
        read_back(changed(BASE, **EXACT["one channel less"]), rows)
