"""Gathering what a page shows, and telling it: a snapshot first, then what changed."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from typing import Any, Literal

import msgspec

from worker.api import views
from worker.api.fleet import Fleet, Machine, Progress, Sources, Tile
from worker.api.following import Follower
from worker.api.polling import Poller
from worker.api.progress import EVERY_S, ProgressWatch
from worker.core.channels import ChannelSpec
from worker.core.errors import BrokerError
from worker.online.store import OnlineReader
from worker.settings import Settings

log = logging.getLogger(__name__)

DELTA_EVERY_S = 1.0
PULSE_EVERY_S = 5.0
"""A page that hears nothing for three times as long says that it is out of date."""
FORGET_EVERY_S = 60.0
SHOWN_CLOSED = 50
"""Closed episodes in a snapshot; /episodes has all."""


class Gatherer:
    """Runs what reads topics and store; see :meth:`running`.

    Args:
        reader: the online store; None: there is none, and machines are known only from topics.
        fleet: what is gathered.

    Attributes:
        boot: tells this process's revisions from those of an earlier one.
        is_ending: streams end themselves.
    """

    def __init__(self, settings: Settings, reader: OnlineReader | None, fleet: Fleet) -> None:
        self.fleet = fleet
        self.boot = secrets.token_hex(4)
        self.is_ending = False
        self._settings = settings
        self._follower = Follower(settings, fleet)
        self.poller = None if reader is None else Poller(reader, fleet)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Gather meanwhile, on the running event loop."""
        runs = [self._follower.run(), self._watch()]
        if self.poller is not None:
            runs.append(self.poller.run())
        async with AsyncExitStack() as stack:
            for run in runs:
                task = asyncio.ensure_future(run)
                stack.push_async_callback(_cancelled, task)
            yield

    def end_streams(self) -> None:
        """Let every stream of events come to its end, as the server is to stop."""
        self.is_ending = True

    def checks(self) -> dict[str, Callable[[], str]]:
        """What is wrong with what is read from, for ``/health``; empty: nothing."""
        kafka = {"ok": "", "behind": "older messages are being read", "down": "does not answer"}
        return {
            "kafka": lambda: kafka[self.fleet.sources.kafka],
            "online store": lambda: "does not answer" if self.fleet.sources.store == "down" else "",
        }

    async def _watch(self) -> None:
        watch = ProgressWatch(self._settings)
        forgot_s = time.monotonic()
        try:
            while True:
                progress, is_up = Progress(None, None, None), True
                try:
                    progress = await watch.look()
                except BrokerError as error:
                    log.debug("%s", error)
                    is_up = False
                self.fleet.report(progress, self._sources(is_up))
                if time.monotonic() - forgot_s > FORGET_EVERY_S:
                    forgot_s = time.monotonic()
                    self.fleet.forget(int(time.time() * 1000))
                await asyncio.sleep(EVERY_S)
        finally:
            await asyncio.shield(watch.close())

    def _sources(self, is_up: bool) -> Sources:
        kafka: Literal["ok", "behind", "down"] = "behind" if self._follower.is_behind else "ok"
        store: Literal["ok", "down", "none"] = "none"
        if self.poller is not None:
            store = "ok" if self.poller.is_up else "down"
        return Sources(kafka if is_up else "down", store)


async def _cancelled(task: asyncio.Future[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


class Introduction(msgspec.Struct, frozen=True):
    """What does not change while the server runs.

    Attributes:
        channels: name and unit of the continuous ones.
    """

    model_version: str
    framework: str
    channels: list[tuple[str, str]]

    @classmethod
    def of(cls, spec: ChannelSpec, model_version: str, framework: str) -> Introduction:
        """The introduction of a bundle."""
        channels = [(channel.name, channel.unit) for channel in spec.continuous]
        return cls(model_version, framework, channels)


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """What changed since the last event, or in a snapshot: all there is.

    Attributes:
        now_ms: the server's clock, so that a page with a wrong one tells right ages.
        tiles: machines that changed.
        gone: machines that were forgotten.
        machine: the machine that the page has open, with the samples that are new.
        place: a page that comes back with it is told only what changed since.
    """

    now_ms: int
    place: str
    progress: Progress
    sources: Sources
    tiles: list[Tile] = []
    gone: list[str] = []
    episodes: list[Any] = []
    drifts: list[Any] = []
    machine: views.MachineView | None = None
    introduction: Introduction | None = None


class Stream:
    """Server-sent events for one page.

    Args:
        machine_id: the machine that it has open; None: none.
        place: of the last event that the page got; anything else: it gets a snapshot.
    """

    def __init__(
        self,
        gatherer: Gatherer,
        introduction: Introduction,
        machine_id: str | None = None,
        place: str = "",
    ) -> None:
        self._gatherer = gatherer
        self._fleet = gatherer.fleet
        self._introduction = introduction
        self._machine_id = machine_id
        self._revision = self._revision_at(place)
        self._shown: tuple[Any, ...] = ()
        self._shown_machine: tuple[Any, ...] | None = None
        self._arrival = 0

    async def events(self) -> AsyncIterator[bytes]:
        """A snapshot, then what changes, at most once a second; ends when it is closed."""
        with ExitStack() as stack:
            if self._machine_id is not None and self._gatherer.poller is not None:
                stack.enter_context(self._gatherer.poller.watching(self._machine_id))
            yield self.snapshot() if self._revision < 0 else self.delta() or self.pulse()
            told_s = time.monotonic()
            while not self._gatherer.is_ending:
                await asyncio.sleep(DELTA_EVERY_S)
                event = self.delta()
                if event is None and time.monotonic() - told_s > PULSE_EVERY_S:
                    event = self.pulse()
                if event is not None:
                    yield event
                    told_s = time.monotonic()

    def snapshot(self) -> bytes:
        """All that a page shows."""
        fleet = self._fleet
        self._revision = fleet.revision
        opened = views.episode_page(fleet, "open", limit=len(fleet.episodes)).episodes
        closed = views.episode_page(fleet, "closed", limit=SHOWN_CLOSED).episodes
        change = self._change(
            tiles=fleet.machines(),
            episodes=[*opened, *closed],
            drifts=views.drift_page(fleet).drifts,
            machine=self._open_machine(),
            introduction=self._introduction,
        )
        self._shown = self._looks()
        return _event("snapshot", change)

    def pulse(self) -> bytes:
        """That nothing changed."""
        return _event("delta", self._change())

    def delta(self) -> bytes | None:
        """What changed since the last event; None: nothing."""
        looks = self._looks()
        if looks == self._shown:
            return None
        fleet, before = self._fleet, self._revision
        self._revision, self._shown = fleet.revision, looks
        tiles = fleet.tiles.since(before)
        return _event(
            "delta",
            self._change(
                tiles=[tile for tile in tiles if isinstance(tile, Tile)],
                gone=[tile for tile in tiles if isinstance(tile, str)],
                episodes=fleet.episodes.since(before),
                drifts=fleet.drifts.since(before),
                machine=self._open_machine(),
            ),
        )

    def _looks(self) -> tuple[Any, ...]:
        """What has to differ for the page to look different."""
        fleet, machine = self._fleet, self._machine()
        seen = None if machine is None else (machine.document, machine.arrivals)
        return fleet.revision, fleet.progress, fleet.sources, seen

    def _machine(self) -> Machine | None:
        return None if self._machine_id is None else self._fleet.machine(self._machine_id)

    def _open_machine(self) -> views.MachineView | None:
        """The machine, if it looks different from before."""
        machine = self._machine()
        if machine is None:
            return None
        tile, episode = self._fleet.tiles.get(machine.machine_id), machine.episode
        told = episode and self._fleet.episodes.get(episode.id)
        look = (machine.document, machine.arrivals, tile, told, tuple(machine.health))
        if look == self._shown_machine:
            return None
        self._shown_machine = look
        view = views.machine_view(self._fleet, machine.machine_id, _now_ms(), self._arrival)
        self._arrival = machine.arrivals
        return view

    def _change(self, **what: Any) -> Change:
        place = f"{self._gatherer.boot}:{self._revision}"
        return Change(_now_ms(), place, self._fleet.progress, self._fleet.sources, **what)

    def _revision_at(self, place: str) -> int:
        """The revision of a place; -1: it is not one of this server, or too long ago."""
        boot, _, text = place.partition(":")
        if boot != self._gatherer.boot or not (text.isascii() and text.isdigit()):
            return -1
        revision = int(text[:18])
        return revision if self._fleet.told_all_since <= revision <= self._fleet.revision else -1


def _event(name: str, change: Change) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(change))


def _now_ms() -> int:
    return int(time.time() * 1000)
