"""The online store in Redis: one JSON document a machine, and an index by time of writing.

docs/online-features.md is the contract: what the keys are, and how others read them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.core.errors import OnlineStoreError
from worker.online.machine import OnlineMachine, decode_machine, encode_machine
from worker.settings import Settings

READERS = 64
"""Connections of a reader; more questions at a time wait for one."""


class RedisKeys:
    """Names of the keys under a prefix."""

    def __init__(self, prefix: str) -> None:
        self.index = f"{prefix}:machines"
        self._machine = f"{prefix}:machine:"

    def machine(self, machine_id: str) -> str:
        """The key of a machine's document."""
        return f"{self._machine}{machine_id}"


class RedisWriter:
    """Writes machines in one round trip; see :class:`worker.online.store.OnlineWriter`.

    Args:
        settings: ``online.url`` is set.
    """

    def __init__(self, settings: Settings) -> None:
        online, url = settings.online, _url(settings)
        timeout_s = online.timeout_ms / 1000
        self._keys = RedisKeys(settings.online_prefix)
        self._ttl_s = online.ttl_s
        self._where = _where(url)
        # Whoever calls tries again, with what is the latest then.
        self._redis = redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )

    def write(self, machines: Sequence[OnlineMachine]) -> None:
        """Replace the documents of these machines.

        Raises:
            OnlineStoreError: some or all of them may not have been written.
        """
        now_ms = int(time.time() * 1000)
        keys = self._keys
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for machine in machines:
                    name = keys.machine(machine.machine_id)
                    pipeline.set(name, encode_machine(machine), ex=self._ttl_s)
                pipeline.zadd(keys.index, {machine.machine_id: now_ms for machine in machines})
                pipeline.zremrangebyscore(keys.index, "-inf", now_ms - self._ttl_s * 1000)
                pipeline.expire(keys.index, self._ttl_s)
                pipeline.execute()
        except (redis.RedisError, OSError) as error:
            raise _unusable(self._where, error) from error

    def release(self) -> None:
        """Give up connections; may be called more than once."""
        self._redis.close()


class RedisReader:
    """Reads machines; see :class:`worker.online.store.OnlineReader`.

    Args:
        settings: ``online.url`` is set.
    """

    def __init__(self, settings: Settings) -> None:
        url = _url(settings)
        timeout_s = settings.online.timeout_ms / 1000
        self._keys = RedisKeys(settings.online_prefix)
        self._where = _where(url)
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            max_connections=READERS,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=AsyncRetry(NoBackoff(), 0),
        )
        self._redis = redis.asyncio.Redis.from_pool(pool)

    async def get(self, machine_ids: Sequence[str]) -> list[OnlineMachine | None]:
        """Machines in the order asked for; None: not known, or not written for too long.

        Raises:
            OnlineStoreError: Redis did not answer in time, or refused.
        """
        if not machine_ids:
            return []
        try:
            documents = await self._redis.mget([self._keys.machine(name) for name in machine_ids])
        except (redis.RedisError, OSError) as error:
            raise _unusable(self._where, error) from error
        # Its types allow text, which only a client gets that asks for it.
        return [
            None if found is None else decode_machine(cast("bytes", found)) for found in documents
        ]

    async def changed(self, since_ms: int) -> list[str]:
        """Ids of the machines written since then (epoch milliseconds), latest last.

        Raises:
            OnlineStoreError: as for :meth:`get`.
        """
        try:
            names = await self._redis.zrangebyscore(self._keys.index, since_ms, "+inf")
        except (redis.RedisError, OSError) as error:
            raise _unusable(self._where, error) from error
        return [cast("bytes", name).decode() for name in names]

    async def close(self) -> None:
        """Give up connections; may be called more than once."""
        await self._redis.aclose()


def _url(settings: Settings) -> str:
    url = settings.online.url
    assert url is not None  # whoever makes a store of Redis has one
    return url.get_secret_value()


def _where(url: str) -> str:
    """The address without user, password and options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _unusable(where: str, error: Exception) -> OnlineStoreError:
    what = str(error).rstrip(".") or type(error).__name__
    return OnlineStoreError(f"online.url: the Redis at {where} cannot be used: {what}.")
