"""Both sides of the Redis store, on a real Redis."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator

import pytest

from tests.support.online import RedisServer, machine
from worker.core.errors import OnlineStoreError
from worker.online.machine import OnlineMachine, encode_machine
from worker.online.redis_store import RedisReader, RedisWriter
from worker.settings import OnlineSettings, Settings


@pytest.fixture
def writer(settings: Settings) -> Iterator[RedisWriter]:
    writer = RedisWriter(settings)
    yield writer
    writer.release()


def read(settings: Settings, *machine_ids: str) -> list[OnlineMachine | None]:
    async def ask() -> list[OnlineMachine | None]:
        reader = RedisReader(settings)
        try:
            return await reader.get(machine_ids)
        finally:
            await reader.close()

    return asyncio.run(ask())


def changed(settings: Settings, since_ms: int) -> list[str]:
    async def ask() -> list[str]:
        reader = RedisReader(settings)
        try:
            return await reader.changed(since_ms)
        finally:
            await reader.close()

    return asyncio.run(ask())


def test_machines_are_read_as_they_were_written_in_the_order_asked_for(
    settings: Settings, writer: RedisWriter
) -> None:
    writer.write([machine("a", 0.1), machine("ü|:*", 0.2)])
    writer.write([machine("a", 0.3)])
    assert read(settings, "ü|:*", "nobody", "a") == [machine("ü|:*", 0.2), None, machine("a", 0.3)]
    assert read(settings) == []


def test_the_layout_is_as_documented(
    settings: Settings, writer: RedisWriter, redis_server: RedisServer
) -> None:
    writer.write([machine("a"), machine("b")])
    with redis_server.client() as client:
        assert {key.decode() for key in client.scan_iter()} == {
            "driftdetector:machine:a",
            "driftdetector:machine:b",
            "driftdetector:machines",
        }
        assert client.get("driftdetector:machine:a") == encode_machine(machine("a"))
        assert json.loads(client.get("driftdetector:machine:b"))["machine_id"] == "b"
        assert 3_590 <= client.ttl("driftdetector:machine:a") <= 3_600
        assert 3_590 <= client.ttl("driftdetector:machines") <= 3_600
        assert client.zcard("driftdetector:machines") == 2


def test_what_changed_since_is_told_latest_last_and_old_ones_are_dropped(
    settings: Settings, writer: RedisWriter, redis_server: RedisServer
) -> None:
    writer.write([machine("a")])
    with redis_server.client() as client:
        first_ms = int(client.zscore("driftdetector:machines", "a"))
        client.zadd("driftdetector:machines", {"gone": first_ms - 3_600_001, "a": first_ms - 5_000})
        assert changed(settings, 0) == ["gone", "a"]
        writer.write([machine("b")])
        assert changed(settings, 0) == ["a", "b"]
        assert changed(settings, first_ms) == ["b"]


def test_a_document_of_something_else_counts_as_none(
    settings: Settings, redis_server: RedisServer
) -> None:
    with redis_server.client() as client:
        client.set("driftdetector:machine:a", b'{"machine_id": 1}')
    assert read(settings, "a") == [None]


def test_a_paused_redis_is_given_up_on_both_sides_and_read_when_it_goes_on(
    settings: Settings, writer: RedisWriter, redis_server: RedisServer
) -> None:
    async def ask() -> None:
        reader = RedisReader(settings)
        assert await reader.get(["a"]) == [machine("a")]
        redis_server.pause()
        with pytest.raises(OnlineStoreError):
            await reader.get(["a"])
        # Whoever has less time than the store's own deadline takes no answer to another question.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await reader.get(["a"])
        redis_server.resume()
        writer.write([machine("b")])
        assert await reader.get(["b"]) == [machine("b")]
        assert await reader.changed(0) == ["a", "b"]
        await reader.close()

    writer.write([machine("a")])
    asyncio.run(ask())
    redis_server.pause()
    with pytest.raises(OnlineStoreError):
        writer.write([machine("a")])
    redis_server.resume()


def test_an_error_names_the_address_but_no_password(redis_server: RedisServer) -> None:
    redis_server.kill()
    url = f"redis://user:s%21cret@127.0.0.1:{redis_server.port}/3"
    settings = Settings(online=OnlineSettings.model_validate({"url": url}))
    writer = RedisWriter(settings)
    with pytest.raises(
        OnlineStoreError, match=re.escape(f"redis://127.0.0.1:{redis_server.port}/3")
    ) as caught:
        writer.write([machine()])
    writer.release()
    with pytest.raises(OnlineStoreError) as read_error:
        read(settings, "a")
    for error in (caught, read_error):
        assert "cret" not in str(error.value)
    redis_server.start_again()


def test_a_password_in_the_url_is_used(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.config_set("requirepass", "s!cret")
    for password, works in (("s%21cret", True), ("wrong", False)):
        url = f"redis://:{password}@127.0.0.1:{redis_server.port}/0"
        settings = Settings(online=OnlineSettings.model_validate({"url": url}))
        writer = RedisWriter(settings)
        if works:
            writer.write([machine("a")])
            assert read(settings, "a") == [machine("a")]
        else:
            with pytest.raises(OnlineStoreError, match="invalid username-password"):
                writer.write([machine("a")])
        writer.release()
