"""The read model: states of machines, what it forgets; order and repetition do not matter."""

from __future__ import annotations

import random

import pytest

from tests.support.fleet import (
    AT_MS,
    acknowledgement,
    anomaly,
    at,
    drift,
    episode,
    fleet,
    health,
    known,
)
from worker.api import fleet as module
from worker.api.fleet import Fleet, Tile


def tile(of: Fleet, machine_id: str = "m-1") -> Tile:
    found = of.tiles.get(machine_id)
    assert isinstance(found, Tile)
    return found


def test_a_machine_that_the_store_knows_is_normal() -> None:
    seen = fleet()
    seen.put([known("m-1")])
    assert tile(seen) == Tile("m-1", "normal", None, "", False)


def test_the_most_urgent_condition_is_the_state() -> None:
    seen = fleet()
    seen.put([known("m-1", experience=0.4)])
    assert (tile(seen).state, tile(seen).why) == ("warming", "40%")
    seen.put([known("m-1", 1, under_maintenance=True)])
    assert tile(seen).state == "maintenance"
    seen.apply(health("m-1"), AT_MS)
    assert tile(seen) == Tile("m-1", "sensor", AT_MS + 60_000, "speed", False)
    seen.apply(health("m-1", "silent", channel=None), AT_MS)
    assert tile(seen).state == "silent"
    seen.apply(episode("m-1", severity="low"), AT_MS)
    assert tile(seen) == Tile("m-1", "low", AT_MS, "torque", False)
    seen.apply(episode("m-1", 2, "updated", severity="high"), AT_MS)
    assert tile(seen).state == "high"


def test_what_closes_gives_way_to_what_is_left() -> None:
    seen = fleet()
    seen.apply(health("m-1"), AT_MS)
    seen.apply(episode("m-1"), AT_MS)
    seen.apply(episode("m-1", 2, "closed"), AT_MS)
    assert tile(seen).state == "sensor"
    seen.apply(health("m-1", status="closed"), AT_MS)
    assert tile(seen).state == "normal"


def test_repeated_and_outdated_messages_change_nothing() -> None:
    seen = fleet()
    messages = [episode("m-1"), episode("m-1", 2, "updated"), episode("m-1", 3, "closed")]
    for message in messages:
        seen.apply(message, AT_MS)
    seen.put([known("m-1", 5)])
    seen.apply(drift(sequence=2), AT_MS)
    before = seen.revision
    for message in messages:
        seen.apply(message, AT_MS)
    seen.put([known("m-1", 4, experience=0.1)])
    seen.apply(drift(sequence=1), AT_MS)
    assert seen.revision == before
    assert tile(seen).state == "normal"


@pytest.mark.parametrize("seed", range(5))
def test_topics_may_be_read_in_any_order(seed: int) -> None:
    streams = [
        [episode("m-1"), episode("m-1", 2, "closed"), episode("m-1", 1, minute=30)],
        [health("m-1"), health("m-1", status="closed"), health("m-2")],
        [acknowledgement(episode("m-1", minute=30).id)],
        [drift(), drift(sequence=2, status="closed")],
        [anomaly("m-1", 1), anomaly("m-1", 2)],
    ]
    chance = random.Random(seed)
    seen, others = fleet(), fleet()
    for stream in streams:
        for message in stream:
            others.apply(message, AT_MS)
    while any(streams):
        seen.apply(chance.choice([s for s in streams if s]).pop(0), AT_MS)
    assert {t.machine_id: t for t in seen.machines()} == {
        t.machine_id: t for t in others.machines()
    }
    assert tile(seen) == Tile("m-1", "medium", AT_MS + 30 * 60_000, "torque", True)
    assert {v.episode.id: v for v in seen.episodes} == {v.episode.id: v for v in others.episodes}


def test_an_acknowledgement_marks_the_tile_and_is_kept_once() -> None:
    seen = fleet()
    told = episode("m-1")
    seen.apply(told, AT_MS)
    for note in ("on my way", "on my way", "belt replaced"):
        seen.apply(acknowledgement(told.id, note=note), AT_MS)
    view = seen.episodes.get(told.id)
    assert view is not None
    assert [a.note for a in view.acknowledgements] == ["on my way", "belt replaced"]
    assert tile(seen).acknowledged
    seen.apply(episode("m-1", 2, "closed"), AT_MS)
    assert not tile(seen).acknowledged


def test_changes_since_a_revision_are_told_and_nothing_else() -> None:
    seen = fleet()
    seen.put([known(f"m-{n}") for n in range(5)])
    before = seen.revision
    seen.put([known(f"m-{n}", 1) for n in range(5)])
    assert seen.revision == before
    seen.apply(episode("m-3"), AT_MS)
    changed = seen.tiles.since(before)
    assert [t.machine_id for t in changed if isinstance(t, Tile)] == ["m-3"]
    assert [view.episode.machine_id for view in seen.episodes.since(before)] == ["m-3"]
    assert seen.tiles.since(seen.revision) == []


def test_samples_are_in_order_of_event_time_without_doubles() -> None:
    seen = fleet()
    seen.put([known("m-1", 3)])
    for minute in (1, 5, 3, 2, 5):
        seen.apply(anomaly("m-1", minute), AT_MS)
    machine = seen.machine("m-1")
    assert machine is not None
    minutes = [(sample.time_us // 1_000_000 - AT_MS // 1000) / 60 for sample in machine.samples]
    assert minutes == [1, 2, 3, 5]
    assert machine.samples[0].values == (99.0, None)
    assert machine.samples[2].values == (40.1, None)


def test_everything_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, most in (("MAX_SAMPLES", 3), ("MAX_CLOSED", 2), ("FEWEST_SAMPLES", 1)):
        monkeypatch.setattr(module, name, most)
    monkeypatch.setattr(module, "MAX_DRIFTS", 2)
    monkeypatch.setattr(module, "MAX_ACKNOWLEDGED", 2)
    seen = fleet()
    for minute in range(6):
        seen.apply(anomaly("m-1", minute), AT_MS)
        seen.apply(episode("m-1", 1, "closed", minute), AT_MS)
        seen.apply(acknowledgement(episode("m-1", minute=minute).id), AT_MS)
        seen.apply(drift(f"m={minute}", status="closed"), AT_MS)
    machine = seen.machine("m-1")
    assert machine is not None
    assert len(machine.samples) == 3
    assert {view.episode.opened_at for view in seen.episodes} == {at(4), at(5)}
    assert len(seen.drifts) == 2
    monkeypatch.setattr(module, "ALL_SAMPLES", 4)
    seen.put([known("m-2"), known("m-3")])
    seen.apply(anomaly("m-1", 7), AT_MS)
    assert len(machine.samples) == 1


def test_what_was_not_heard_of_for_a_day_is_forgotten_unless_something_is_open() -> None:
    seen = fleet()
    seen.put([known("m-1"), known("m-2")])
    seen.apply(health("m-2"), AT_MS)
    seen.forget(AT_MS + 86_000_000)
    assert len(seen) == 2
    before = seen.revision
    seen.forget(AT_MS + 87_000_000)
    assert seen.tiles.since(before) == ["m-1"]
    assert [t.machine_id for t in seen.machines()] == ["m-2"]
    seen.forget(AT_MS + 87_000_000)
    assert len(seen.tiles) == 1
    seen.put([known("m-1")])
    assert tile(seen).state == "normal"
