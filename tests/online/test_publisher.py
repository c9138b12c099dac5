"""Feed and publisher between a pipeline and a store, without Kafka."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from tests.core.strategies import START_US, Event, chunk_of, make_pipeline, make_spec, raw
from tests.support.online import wait_until
from worker.core.errors import OnlineStoreError
from worker.core.outgoing import Outputs
from worker.core.state import PartitionState
from worker.online import publisher as publisher_module
from worker.online.feed import OnlineFeed
from worker.online.machine import OnlineMachine, decode_machine, encode_machine
from worker.online.memory import MemoryStore
from worker.online.metrics import OnlineMetrics

SPEC = make_spec()
PIPELINE = make_pipeline(SPEC)


class Store(MemoryStore):
    """A store that can refuse, or hold up whoever writes."""

    def __init__(self) -> None:
        super().__init__()
        self.works = True
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.released = False
        self.sizes: list[int] = []

    def write(self, machines: Sequence[OnlineMachine]) -> None:
        self.goes_on.wait()
        self.sizes.append(len(machines))
        if not self.works:
            raise OnlineStoreError("it is full.")
        super().write(machines)

    def release(self) -> None:
        self.released = True


class Worker:
    """What the processor does with a feed, for one partition."""

    def __init__(self, store: MemoryStore) -> None:
        self.registry = CollectorRegistry()
        self.store = store
        self.state = PartitionState(SPEC)
        self.outputs: list[Outputs] = []
        self.feed = OnlineFeed(SPEC, "made-up/1.0.0", store, OnlineMetrics(self.registry), 0.001)

    def apply(self, second: int, machines: int = 3) -> None:
        time_us = START_US + second * 1_000_000
        raws = [
            raw(SPEC, Event(f"m{m}", time_us, [float(second), float(m)])) for m in range(machines)
        ]
        outputs = PIPELINE.step(self.state, chunk_of(raws, self.state.next_offset))
        self.outputs.append(outputs)
        self.feed.applied(0, outputs)

    def settle(self) -> None:
        self.feed.settled({0: self.state})

    def metric(self, name: str) -> float:
        value = self.registry.get_sample_value(name)
        assert value is not None
        return value

    def stored(self, name: str = "m0") -> OnlineMachine | None:
        return asyncio.run(self.store.get([name]))[0]

    def settle_until(self, second: int, name: str = "m0") -> None:
        """Settle until the store has the event of that second."""

        def is_there() -> bool:
            self.settle()
            found = self.stored(name)
            return found is not None and found.values["c0"] == float(second)

        wait_until(is_there)


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(Store())
    yield worker
    worker.store.goes_on.set()
    worker.feed.close()


def test_a_machine_is_stored_as_its_last_committed_event_left_it(worker: Worker) -> None:
    worker.apply(0)
    worker.apply(1)
    worker.settle_until(1)
    (scored,) = worker.outputs[-1].scored_events
    found = worker.stored()
    assert found is not None
    at = scored.readings.machine_ids.index(b"m0")
    assert found.machine_id == "m0"
    assert found.model_version == "made-up/1.0.0"
    assert found.timestamp == "2026-03-02T06:15:31.250000Z"
    assert found.anomaly_score == scored.scores.anomaly_score[at]
    assert found.threshold == scored.scores.threshold[at]
    assert found.is_anomaly == (found.anomaly_score < found.threshold)
    assert list(found.features) == [feature.name for feature in SPEC.features]
    assert list(found.features.values()) == scored.scores.inputs[at].tolist()
    for channel, stats in zip(SPEC.continuous, scored.aggregates[at].tolist(), strict=True):
        window = found.windows[channel.name]
        assert [window.count, window.mean, window.std, window.min, window.max] == stats
    assert found.state == dict(worker.state.snapshot())[b"m0|m"]
    assert decode_machine(encode_machine(found)) == found


def test_what_is_not_committed_is_not_stored(worker: Worker) -> None:
    worker.apply(0)
    worker.settle_until(0)
    worker.apply(1)
    time.sleep(0.05)
    found = worker.stored()
    assert found is not None
    assert found.values["c0"] == 0.0


def test_a_store_that_hangs_holds_up_nobody_and_gets_the_latest_afterwards(worker: Worker) -> None:
    assert isinstance(worker.store, Store)
    worker.store.goes_on.clear()
    for second in range(20):
        worker.apply(second)
        worker.settle()
    assert worker.stored() is None
    assert worker.metric("online_store_up") == 0.0
    worker.store.goes_on.set()
    worker.settle_until(19)
    assert worker.metric("online_store_up") == 1.0
    # What was in hand when it hung, and the latest: nothing was queued in between.
    assert worker.store.sizes == [3, 3]


def test_a_store_that_refuses_is_tried_again_until_it_has_what_nobody_sent_since(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(worker.store, Store)
    worker.store.works = False
    worker.apply(0)

    def failed() -> bool:
        worker.settle()
        return worker.metric("online_write_failures_total") >= 3

    wait_until(failed)
    assert worker.metric("online_store_up") == 0.0
    worker.store.works = True
    worker.settle_until(0)
    assert worker.metric("online_store_up") == 1.0
    assert worker.metric("online_machines_written_total") == 3.0
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "it is full. Scoring goes on without it, and it is tried again."
    ]


def test_many_machines_are_written_in_pieces_until_none_waits(worker: Worker) -> None:
    assert isinstance(worker.store, Store)
    machines = 3 * publisher_module.PIECE
    worker.apply(0, machines)
    for name in ("m0", f"m{machines - 1}"):
        worker.settle_until(0, name)
    assert max(worker.store.sizes) <= publisher_module.PIECE
    assert sum(worker.store.sizes) == machines
    worker.settle()
    assert worker.metric("online_machines_waiting") == 0.0


def test_what_waits_of_a_partition_that_is_given_back_is_not_written(worker: Worker) -> None:
    assert isinstance(worker.store, Store)
    worker.apply(0)
    worker.feed.given_back([0])
    worker.settle()
    worker.feed.close()
    assert worker.store.sizes == []


def test_closing_ends_the_thread_and_releases_the_store(worker: Worker) -> None:
    assert isinstance(worker.store, Store)
    worker.apply(0)
    worker.settle_until(0)
    worker.feed.close()
    assert worker.store.released
    assert not [thread for thread in threading.enumerate() if thread.name == "online-store"]
    assert worker.metric("online_store_up") == 0.0


def test_the_thread_rests_for_a_multiple_of_the_time_it_worked() -> None:
    class Busy(MemoryStore):
        """Each writing takes some of the thread's own time."""

        worked_s = 0.0

        def write(self, machines: Sequence[OnlineMachine]) -> None:
            started_s = time.thread_time()
            while time.thread_time() - started_s < 0.01:
                np.ones(1000).sum()
            self.worked_s += time.thread_time() - started_s

    store = Busy()
    worker = Worker(store)
    started_s = time.monotonic()
    for second in range(100):
        worker.apply(second)
        worker.settle()
        time.sleep(0.01)
    worker.feed.close()
    assert store.worked_s > 0.0
    # One piece may be in hand at either end.
    assert store.worked_s <= (time.monotonic() - started_s) / publisher_module.REST + 0.03
