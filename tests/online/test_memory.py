from __future__ import annotations

import asyncio

from tests.support.online import machine
from worker.online.machine import OnlineMachine
from worker.online.memory import MemoryStore


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def get(store: MemoryStore, *machine_ids: str) -> list[OnlineMachine | None]:
    return asyncio.run(store.get(machine_ids))


def test_machines_come_in_the_order_asked_for_and_the_latest_wins() -> None:
    store = MemoryStore()
    store.write([machine("a", 0.1), machine("b", 0.2)])
    store.write([machine("a", 0.3)])
    assert get(store, "b", "c", "a") == [machine("b", 0.2), None, machine("a", 0.3)]


def test_a_machine_that_is_not_written_any_more_is_forgotten() -> None:
    clock = Clock()
    store = MemoryStore(ttl_s=10.0, clock_s=clock)
    store.write([machine("a"), machine("b")])
    clock.now_s += 6.0
    store.write([machine("a")])
    clock.now_s += 4.0
    assert get(store, "a", "b") == [machine("a"), None]
    assert asyncio.run(store.changed(0)) == ["a"]


def test_what_changed_since_is_told_latest_last() -> None:
    clock = Clock()
    store = MemoryStore(clock_s=clock)
    for name in ("a", "b", "c", "a"):
        clock.now_s += 1.0
        store.write([machine(name)])
    assert asyncio.run(store.changed(0)) == ["b", "c", "a"]
    assert asyncio.run(store.changed(1_003_000)) == ["c", "a"]
    assert asyncio.run(store.changed(1_004_001)) == []
