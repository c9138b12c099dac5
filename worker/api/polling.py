"""Asks the online store now and then what its machines are like."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from worker.api.fleet import Fleet
from worker.core.errors import OnlineStoreError
from worker.online.store import OnlineReader

log = logging.getLogger(__name__)

TICK_S = 1.0
"""Machines that a page has open are asked for this often."""
SHORTEST_S = 2.0
MACHINES_A_S = 1_000
"""All machines are asked for less often where there are many: every 10 s of 10,000."""
CHUNK = 250
OVERLAP_MS = 2_000
"""Clocks of workers and server may differ; what is read twice changes nothing."""


class Poller:
    """Keeps the fleet as the store has it.

    Args:
        reader: the store.
        fleet: gets the documents.
    """

    def __init__(self, reader: OnlineReader, fleet: Fleet) -> None:
        self._reader = reader
        self._fleet = fleet
        self._open: Counter[str] = Counter()
        self.is_up = True

    @contextmanager
    def watching(self, machine_id: str) -> Iterator[None]:
        """Ask for this machine each second meanwhile."""
        self._open[machine_id] += 1
        try:
            yield
        finally:
            self._open[machine_id] -= 1
            self._open += Counter()  # drops what nobody watches

    async def run(self) -> None:
        """Poll until cancelled; a store that is away is asked again."""
        since_ms = 0
        due_s = time.monotonic()
        while True:
            begun_s = time.monotonic()
            try:
                if begun_s >= due_s:
                    asked_ms = int(time.time() * 1000)
                    await self._fetch(await self._reader.changed(since_ms))
                    since_ms = asked_ms - OVERLAP_MS
                    due_s = begun_s + max(SHORTEST_S, len(self._fleet) / MACHINES_A_S)
                elif self._open:
                    await self._fetch(list(self._open))
                self._tell(None)
            except OnlineStoreError as error:
                self._tell(error)
            await asyncio.sleep(max(0.1, TICK_S - (time.monotonic() - begun_s)))

    async def _fetch(self, machine_ids: Sequence[str]) -> None:
        for start in range(0, len(machine_ids), CHUNK):
            found = await self._reader.get(machine_ids[start : start + CHUNK])
            self._fleet.put(document for document in found if document is not None)
            await asyncio.sleep(0)  # requests in between

    def _tell(self, error: OnlineStoreError | None) -> None:
        if error is not None and self.is_up:
            log.warning("%s; the page shows what was known before", error)
        self.is_up = error is None
