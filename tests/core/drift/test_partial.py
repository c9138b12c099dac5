"""Partials: exact however rows were split, and nothing is read that is none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.drift.series import SECOND_US, autoregressive, learned
from worker.core.drift import Collector, Partial, learn_reference, merge
from worker.core.drift.partial import MACHINES, SAMPLE_ROWS
from worker.core.errors import PartialError

ROWS, COLUMNS, PANE_US = 4000, 5, 3600 * SECOND_US
RNG = np.random.default_rng(3)
REFERENCE = learned(autoregressive(RNG, 2000, COLUMNS, 0.5))
VALUES = autoregressive(RNG, ROWS, COLUMNS, 0.5) * 1.3
VALUES[RNG.random(VALUES.shape) < 0.05] = np.nan
VALUES[7, 2], VALUES[8, 3] = 1e30, -np.inf
MACHINE = RNG.integers(0, 2 * MACHINES, ROWS)
IDS = [b"machine-%d" % i for i in range(2 * MACHINES)]


def partial_of(rows: np.ndarray, partition: int = 0) -> Partial:
    collector = Collector(REFERENCE.layout, partition, PANE_US)
    times = rows.astype(np.int64) * 10
    collector.add(times, MACHINE[rows], IDS, VALUES[rows], rows % 7 == 0, {})
    (partial,) = collector.take(1)
    return partial


def same(a: Partial, b: Partial) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in Partial.__dataclass_fields__
        if name not in ("partition", "sequence")
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), parts=st.integers(2, 12))
def test_merging_in_any_order_and_split_gives_the_same_bits(seed: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    order = rng.permutation(ROWS)
    cuts = np.sort(rng.choice(np.arange(1, ROWS), parts - 1, replace=False))
    pieces = [partial_of(piece, p) for p, piece in enumerate(np.split(order, cuts))]
    whole = partial_of(np.arange(ROWS))
    while len(pieces) > 1:
        a, b = pieces.pop(int(rng.integers(len(pieces)))), pieces.pop(0)
        pieces.append(merge([a, b], 0, PANE_US))
    assert same(merge(pieces, 0, PANE_US), merge([whole], 0, PANE_US))


def test_a_machines_group_has_its_rows_alone() -> None:
    machine = np.arange(2000) % 2
    reference = learn_reference(
        [f"f{i}" for i in range(COLUMNS)],
        [""] * COLUMNS,
        VALUES[:2000],
        np.arange(2000) // 2 * SECOND_US,
        machine,
        SECOND_US,
        machine_ids=["press=1", "press-2"],
    )
    assert list(reference.groups) == ["fleet", "machine_id=press=1", "machine_id=press-2"]
    collector = Collector(reference.layout, 0, PANE_US)
    ids = [b"other", b"press-2", b"press=1"]
    # press=1 is in the first half only, and seen under another number in the second chunk.
    for rows, names in ((np.arange(1000), [2, 1]), (np.arange(1000, 1500), [1, 0])):
        own = np.array(names)[machine[rows]]
        collector.add(rows * 10, own, ids, VALUES[rows], np.zeros(len(rows), np.bool_), {})
    found = {partial.group: partial for partial in collector.take(1)}
    assert {group: partial.rows for group, partial in found.items()} == {
        "fleet": 1500,
        "machine_id=press=1": 500,
        "machine_id=press-2": 750,
    }
    assert found["machine_id=press=1"].machine_ids == ("press=1",)
    alone = Collector(reference.layout, 0, PANE_US)
    rows = np.arange(0, 1000, 2)
    alone.add(
        rows * 10, np.zeros(500, np.int64), [b"press=1"], VALUES[rows], np.zeros(500, np.bool_), {}
    )
    (fleet, own) = alone.take(1)
    assert same(own, found["machine_id=press=1"])
    assert fleet.rows == own.rows


def test_rows_added_in_chunks_count_as_added_at_once() -> None:
    collector = Collector(REFERENCE.layout, 0, PANE_US)
    for rows in np.array_split(np.arange(ROWS), 17):
        collector.add(rows * 10, MACHINE[rows], IDS, VALUES[rows], rows % 7 == 0, {})
    (partial,) = collector.take(1)
    assert same(partial, partial_of(np.arange(ROWS)))


def test_counts_are_those_of_a_plain_histogram() -> None:
    partial = partial_of(np.arange(ROWS))
    for f in range(COLUMNS):
        x = VALUES[:, f]
        edges = REFERENCE.edges[f]
        expected = np.bincount(np.searchsorted(edges, x[~np.isnan(x)]), minlength=64)
        assert np.array_equal(partial.counts[f, :64], expected)
        assert partial.counts[f, 64] == np.isnan(x).sum()
    assert partial.rows == ROWS
    assert partial.anomalies == len(range(0, ROWS, 7))
    assert len(partial.keys) == SAMPLE_ROWS
    assert len(partial.machine_ids) == MACHINES


def test_rows_of_several_panes_go_to_their_own() -> None:
    collector = Collector(REFERENCE.layout, 0, SECOND_US)
    rows = np.arange(100)
    times = RNG.permutation(rows) * SECOND_US // 10
    collector.add(times, MACHINE[rows], IDS, VALUES[rows], rows < 0, {})
    early = collector.take(1, before_us=3 * SECOND_US)
    assert [(p.start_us, p.rows) for p in early] == [(i * SECOND_US, 10) for i in range(3)]
    assert [p.start_us for p in collector.take(2)] == [i * SECOND_US for i in range(3, 10)]
    assert collector.take(3) == []


def test_bytes_give_the_same_partial() -> None:
    partial = partial_of(np.arange(ROWS))
    assert same(Partial.from_bytes(partial.to_bytes()), partial)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_garbage_is_refused_with_an_error_of_its_own(data: st.DataObject) -> None:
    good = partial_of(np.arange(50)).to_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    flip = data.draw(st.integers(1, 255))
    bad = good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :]
    for garbage in (bad, good[:at], data.draw(st.binary(max_size=64))):
        with pytest.raises(PartialError):
            Partial.from_bytes(garbage)


def test_partials_of_different_references_are_not_merged() -> None:
    other = learned(autoregressive(RNG, 500, COLUMNS, 0.0))
    collector = Collector(other.layout, 0, PANE_US)
    rows = np.arange(50)
    collector.add(rows, MACHINE[rows], IDS, VALUES[rows], rows < 0, {})
    with pytest.raises(PartialError, match="different references"):
        merge([partial_of(rows), *collector.take(1)], 0, PANE_US)
