"""What is read from a real broker and a store arrives in the fleet, and heals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from load.local_kafka import LocalKafka
from tests.support.fleet import acknowledgement, drift, episode, fleet, health, known
from tests.support.kafka import NewRecord, create_topics, produce, unique
from worker.api.live import Gatherer, Introduction, Stream
from worker.core.errors import OnlineStoreError
from worker.core.messages import encode
from worker.online.machine import OnlineMachine
from worker.online.memory import MemoryStore
from worker.settings import Settings

HERE = Introduction("made-up/1.0.0", "none", [("torque", "Nm"), ("speed", "rpm")])


def nowhere() -> Settings:
    return Settings(kafka={"brokers": "127.0.0.1:1"})


async def until(holds: Callable[[], bool], what: str) -> None:
    deadline_s = asyncio.get_running_loop().time() + 20
    while not holds():
        assert asyncio.get_running_loop().time() < deadline_s, f"it did not come to this: {what}"
        await asyncio.sleep(0.02)


class Flaky(MemoryStore):
    """A store that can be away."""

    is_away = False

    async def changed(self, since_ms: int) -> list[str]:
        if self.is_away:
            raise OnlineStoreError("the store does not answer.")
        return await super().changed(since_ms)


@asynccontextmanager
async def gathering(settings: Settings, store: MemoryStore | None) -> AsyncIterator[Gatherer]:
    gatherer = Gatherer(settings, store, fleet())
    async with gatherer.running():
        yield gatherer


def test_topics_are_read_from_their_beginning_and_on(kafka: LocalKafka) -> None:
    brokers = kafka.bootstrap_servers
    names = ("anomalies", "anomaly_episodes", "sensor_health", "drift_events", "sensor_events")
    settings = Settings(
        kafka={"brokers": brokers},
        topics={name: unique(name) for name in (*names, "audit")},
        worker={"app_id": unique("app")},
    )
    topics = settings.topics
    create_topics(brokers, *(getattr(topics, name) for name in (*names, "audit")))
    told = episode("m-1")
    produce(brokers, topics.anomaly_episodes, [NewRecord(encode(told), b"m-1")])
    produce(brokers, topics.sensor_health, [NewRecord(b"no JSON", b"m-2")])
    produce(brokers, topics.sensor_health, [NewRecord(encode(health("m-2")), b"m-2")])
    produce(brokers, topics.sensor_events, [NewRecord(b"{}", b"m-1")] * 7)

    async def check() -> None:
        async with gathering(settings, None) as gatherer:
            seen = gatherer.fleet
            await until(lambda: seen.sources.kafka == "ok", "all that was there is read")
            assert {t.machine_id: t.state for t in seen.machines()} == {
                "m-1": "medium",
                "m-2": "sensor",
            }
            produce(brokers, topics.audit, [NewRecord(encode(acknowledgement(told.id)), b"e")])
            produce(brokers, topics.drift_events, [NewRecord(encode(drift()), b"fleet")])
            await until(lambda: bool(len(seen.drifts)), "the drift is told")
            await until(lambda: any(t.acknowledged for t in seen.machines()), "acknowledged")
            await until(lambda: seen.progress.lag == 7, "nothing of 7 events is processed")
            assert gatherer.checks()["kafka"]() == ""

    asyncio.run(check())


def test_a_store_that_is_away_is_told_and_read_again() -> None:
    async def check() -> None:
        store = Flaky()
        store.write([known("m-1")])
        async with gathering(nowhere(), store) as gatherer:
            seen = gatherer.fleet
            await until(lambda: len(seen) == 1, "the machine is known")
            store.is_away = True
            await until(lambda: seen.sources.store == "down", "the store is away")
            assert gatherer.checks()["online store"]() == "does not answer"
            store.write([known("m-2")])
            store.is_away = False
            await until(lambda: len(seen) == 2, "the second machine is known")
            await until(lambda: seen.sources.kafka == "down", "Kafka is away, and told so")

    asyncio.run(check())


def read(event: bytes) -> tuple[str, dict[str, object]]:
    name, data = event.decode().strip().split("\n")
    return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def documents(*machines: OnlineMachine) -> Gatherer:
    gatherer = Gatherer(nowhere(), None, fleet())
    gatherer.fleet.put(machines)
    return gatherer


def test_a_stream_begins_with_all_and_goes_on_with_what_changed() -> None:
    gatherer = documents(known("m-1"), known("m-2"))
    stream = Stream(gatherer, HERE, "m-2")
    name, first = read(stream.snapshot())
    assert name == "snapshot"
    assert [tile[0] for tile in first["tiles"]] == ["m-1", "m-2"]  # type: ignore[attr-defined]
    assert first["introduction"]["channels"] == [["torque", "Nm"], ["speed", "rpm"]]  # type: ignore[index]
    assert len(first["machine"]["samples"]["time_ms"]) == 1  # type: ignore[index]
    assert stream.delta() is None
    gatherer.fleet.put([known("m-2", 5)])
    event = stream.delta()
    assert event is not None
    name, change = read(event)
    assert (name, change.get("tiles")) == ("delta", None)
    assert change["machine"]["samples"]["values"]["torque"] == [40.1]  # type: ignore[index]
    gatherer.fleet.apply(episode("m-1"), 0)
    event = stream.delta()
    assert event is not None
    change = read(event)[1]
    assert [tile[:2] for tile in change["tiles"]] == [["m-1", "medium"]]  # type: ignore[attr-defined]
    assert "machine" not in change


def test_a_page_that_comes_back_is_told_only_what_it_missed() -> None:
    gatherer = documents(known("m-1"), known("m-2"))
    place = str(read(Stream(gatherer, HERE).snapshot())[1]["place"])
    gatherer.fleet.apply(episode("m-2"), 0)

    async def first(place: str) -> tuple[str, dict[str, object]]:
        stream = Stream(gatherer, HERE, None, place).events()
        try:
            return read(await anext(stream))
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    name, change = asyncio.run(first(place))
    assert (name, [tile[0] for tile in change["tiles"]]) == ("delta", ["m-2"])  # type: ignore[attr-defined]
    gatherer.fleet.forget(1 << 60)
    gatherer.fleet.forget(1 << 60)
    for other in (place, "0:0", "", "no place", f"{gatherer.boot}:999999"):
        assert asyncio.run(first(other))[0] == "snapshot", other
