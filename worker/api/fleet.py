"""What the live page and the API tell of a fleet, gathered from topics and the online store.

A read model without clock, sockets or threads: whoever follows the topics and polls the store
(:mod:`worker.api.following`, :mod:`worker.api.polling`) hands over what was read, on one thread,
in any order across topics. Everything is bounded, and can be lost: it is read again.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Generic, Literal, NamedTuple, TypeVar

import msgspec

from worker.core.messages import Acknowledgement, Anomaly, DriftEvent, Episode, SensorHealth
from worker.core.messages import to_time_us as time_us_of
from worker.online.machine import OnlineMachine

State = Literal["high", "medium", "low", "silent", "sensor", "maintenance", "warming", "normal"]
STATES: tuple[State, ...] = (
    "high",
    "medium",
    "low",
    "silent",
    "sensor",
    "maintenance",
    "warming",
    "normal",
)
"""From the most urgent on; the first three are the severity of an open episode."""

Told = Anomaly | Episode | SensorHealth | DriftEvent | Acknowledgement

MAX_SAMPLES = 300
FEWEST_SAMPLES = 20
ALL_SAMPLES = 500_000
"""Of all machines together; some 200 bytes each."""
MAX_CLOSED = 2_000
MAX_ACKNOWLEDGED = 5_000
MAX_DRIFTS = 200
FORGET_AFTER_MS = 86_400_000

K = TypeVar("K")
T = TypeVar("T")


class Tile(msgspec.Struct, frozen=True, array_like=True):
    """A machine at a glance.

    Attributes:
        since_ms: since when it is in this state, epoch milliseconds by event time; None: not known.
        why: the channel that matters most, or the kind of what is wrong.
        acknowledged: somebody looks after its open episode.
    """

    machine_id: str
    state: State
    since_ms: int | None
    why: str
    acknowledged: bool


class EpisodeView(msgspec.Struct, frozen=True):
    """An episode as it was told last, and who acknowledged it."""

    episode: Episode
    acknowledgements: tuple[Acknowledgement, ...]


class Sample(NamedTuple):
    """One scored reading.

    Attributes:
        values: by channel of the fleet, in their units.
        arrival: 1, 2, 3, ... in the order in which the machine's samples came.
    """

    time_us: int
    score: float
    threshold: float
    values: tuple[float | None, ...]
    arrival: int


class Progress(msgspec.Struct, frozen=True):
    """How far the workers are.

    Attributes:
        produced_per_s, processed_per_s: events; None: not known yet.
        lag: events that are published and not processed.
    """

    produced_per_s: float | None
    processed_per_s: float | None
    lag: int | None


class Sources(msgspec.Struct, frozen=True):
    """Whether what the fleet is gathered from can be read.

    Attributes:
        kafka: behind: older messages are still being read.
        store: none: there is none.
    """

    kafka: Literal["ok", "behind", "down"]
    store: Literal["ok", "down", "none"]


class Ledger(Generic[K, T]):
    """Items by key, in the order of their last change, so that recent changes are found at once."""

    def __init__(self) -> None:
        self._items: dict[K, tuple[int, T]] = {}

    def put(self, key: K, item: T, revision: int) -> None:
        """Add or replace an item."""
        self._items.pop(key, None)
        self._items[key] = revision, item

    def get(self, key: K) -> T | None:
        """The item; None: there is none."""
        found = self._items.get(key)
        return None if found is None else found[1]

    def drop(self, key: K) -> None:
        """Forget an item, without telling anybody."""
        self._items.pop(key, None)

    def since(self, revision: int) -> list[T]:
        """Items that changed after a revision, the latest change first."""
        found = []
        for changed, item in reversed(self._items.values()):
            if changed <= revision:
                break
            found.append(item)
        return found

    def __iter__(self) -> Iterator[T]:
        return (item for _, item in self._items.values())

    def __len__(self) -> int:
        return len(self._items)


class Machine:
    """All that is known of one machine.

    Attributes:
        document: from the online store; None: it is not in it.
        episode: that is open.
        health: conditions of sensors that are open, by id.
        samples: by event time.
        arrivals: how many samples came.
        heard_ms: when something of it was written last, epoch milliseconds by a wall clock.
    """

    __slots__ = (
        "arrivals",
        "document",
        "episode",
        "health",
        "heard_ms",
        "machine_id",
        "samples",
    )

    def __init__(self, machine_id: str) -> None:
        self.machine_id = machine_id
        self.document: OnlineMachine | None = None
        self.episode: Episode | None = None
        self.health: dict[str, SensorHealth] = {}
        self.samples: list[Sample] = []
        self.arrivals = 0
        self.heard_ms = 0

    def state(self) -> tuple[State, str | None, str]:
        """State, since when (RFC 3339; None: not told), and why."""
        if self.episode is not None:
            causes = self.episode.causes
            why = causes[0].channel if causes else ""
            return self.episode.severity, self.episode.began_at, why
        silent = next((h for h in self.health.values() if h.kind == "silent"), None)
        if silent is not None:
            return "silent", silent.opened_at, "silent"
        if self.health:
            first = next(iter(self.health.values()))
            return "sensor", first.opened_at, first.channel or first.kind
        if self.document is not None and self.document.under_maintenance:
            return "maintenance", None, ""
        if self.document is not None and self.document.experience < 1.0:
            return "warming", None, f"{self.document.experience:.0%}"
        return "normal", None, ""


class Fleet:
    """The read model; every method is called on one thread.

    Args:
        channels: names of the continuous channels, in the order of samples.

    Attributes:
        revision: grows with each change that a page shows.
        told_all_since: changes since this revision and later ones can be told; of earlier ones
            it is no longer known what was forgotten.
        tiles: by machine; the id alone of one that was forgotten just now.
        progress, sources: as they were told last.
    """

    def __init__(self, channels: tuple[str, ...]) -> None:
        self.channels = channels
        self.revision = 0
        self.told_all_since = 0
        self.tiles: Ledger[str, Tile | str] = Ledger()
        self.episodes: Ledger[str, EpisodeView] = Ledger()
        self.drifts: Ledger[str, DriftEvent] = Ledger()
        self.progress = Progress(None, None, None)
        self.sources = Sources("behind", "none")
        self._machines: dict[str, Machine] = {}
        self._closed: dict[str, None] = {}
        self._gone: list[str] = []
        self._acknowledged: dict[str, tuple[Acknowledgement, ...]] = {}

    def apply(self, message: Told, at_ms: int) -> None:
        """Take one message of an output topic.

        Args:
            message: as decoded; repeated and outdated ones change nothing.
            at_ms: the record's Kafka timestamp, epoch milliseconds.
        """
        if isinstance(message, Anomaly):
            self._sample(message, self._machine(message.machine_id, at_ms))
        elif isinstance(message, Episode):
            self._episode(message, at_ms)
        elif isinstance(message, SensorHealth):
            self._health(message, at_ms)
        elif isinstance(message, Acknowledgement):
            self._acknowledge(message)
        else:
            self._drift(message)

    def put(self, documents: Iterable[OnlineMachine]) -> None:
        """Take documents of the online store; older ones than are known change nothing."""
        for document in documents:
            machine = self._machine(document.machine_id, epoch_ms(document.written_at))
            known = machine.document
            if known is not None and document.written_at <= known.written_at:
                continue
            machine.document = document
            self._sample(document, machine)
            self._show(machine)

    def report(self, progress: Progress | None = None, sources: Sources | None = None) -> None:
        """Note how far the workers are, and whether they can be seen."""
        self.progress = progress or self.progress
        self.sources = sources or self.sources

    def forget(self, now_ms: int) -> None:
        """Drop machines that nothing was heard of for a day, unless something of them is open."""
        for gone in self._gone:  # by now everybody was told
            if isinstance(self.tiles.get(gone), str):
                self.tiles.drop(gone)
                self.told_all_since = self.revision
        self._gone = []
        for machine in list(self._machines.values()):
            is_open = machine.episode is not None or machine.health
            if not is_open and now_ms - machine.heard_ms > FORGET_AFTER_MS:
                del self._machines[machine.machine_id]
                self.revision += 1
                self.tiles.put(machine.machine_id, machine.machine_id, self.revision)
                self._gone.append(machine.machine_id)

    def machine(self, machine_id: str) -> Machine | None:
        """One machine; None: nothing is known of it."""
        return self._machines.get(machine_id)

    def machines(self) -> list[Tile]:
        """All machines, in no particular order."""
        return [tile for tile in self.tiles if isinstance(tile, Tile)]

    def __len__(self) -> int:
        return len(self._machines)

    def _machine(self, machine_id: str, at_ms: int) -> Machine:
        machine = self._machines.get(machine_id)
        if machine is None:
            machine = self._machines[machine_id] = Machine(machine_id)
            machine.heard_ms = at_ms
            self._show(machine)
        machine.heard_ms = max(machine.heard_ms, at_ms)
        return machine

    def _sample(self, scored: Anomaly | OnlineMachine, machine: Machine) -> None:
        samples = machine.samples
        values = tuple(scored.values.get(channel) for channel in self.channels)
        time_us = _us(scored.timestamp)
        if any(known.time_us == time_us for known in reversed(samples)):
            return
        machine.arrivals += 1
        sample = Sample(time_us, scored.anomaly_score, scored.threshold, values, machine.arrivals)
        insort(samples, sample, key=lambda known: known.time_us)
        share = ALL_SAMPLES // len(self._machines)
        del samples[: -min(MAX_SAMPLES, max(FEWEST_SAMPLES, share))]

    def _episode(self, episode: Episode, at_ms: int) -> None:
        known = self.episodes.get(episode.id)
        if known is not None and known.episode.sequence >= episode.sequence:
            return
        self._view(episode)
        machine = self._machines.get(episode.machine_id)
        if episode.status != "closed":
            machine = self._machine(episode.machine_id, at_ms)
            machine.episode = episode
        elif machine is not None and machine.episode is not None:
            # Its next episode opens only after this one has closed.
            machine.episode = None
        if machine is not None:
            machine.heard_ms = max(machine.heard_ms, at_ms)
            self._show(machine)
        if episode.status == "closed":
            self._closed[episode.id] = None
            while len(self._closed) > MAX_CLOSED:
                oldest = next(iter(self._closed))
                del self._closed[oldest]
                self.episodes.drop(oldest)

    def _health(self, health: SensorHealth, at_ms: int) -> None:
        machine = self._machines.get(health.machine_id)
        if health.status == "opened":
            machine = self._machine(health.machine_id, at_ms)
            machine.health[health.id] = health
        elif machine is not None:
            machine.health.pop(health.id, None)
            machine.heard_ms = max(machine.heard_ms, at_ms)
        if machine is not None:
            self._show(machine)

    def _drift(self, event: DriftEvent) -> None:
        known = self.drifts.get(event.id)
        if known is not None and known.sequence >= event.sequence:
            return
        self.revision += 1
        self.drifts.put(event.id, event, self.revision)
        closed = [drift.id for drift in self.drifts if drift.status == "closed"]
        for drift_id in closed[: max(0, len(self.drifts) - MAX_DRIFTS)]:
            self.drifts.drop(drift_id)

    def _acknowledge(self, told: Acknowledgement) -> None:
        before = self._acknowledged.pop(told.episode_id, ())
        is_new = all((told.who, told.note) != (known.who, known.note) for known in before)
        self._acknowledged[told.episode_id] = (*before, told) if is_new else before
        while len(self._acknowledged) > MAX_ACKNOWLEDGED:
            del self._acknowledged[next(iter(self._acknowledged))]
        view = self.episodes.get(told.episode_id)
        if view is None or not is_new:
            return
        self._view(view.episode)
        machine = self._machines.get(view.episode.machine_id)
        if machine is not None:
            self._show(machine)

    def _view(self, episode: Episode) -> None:
        self.revision += 1
        acknowledged = self._acknowledged.get(episode.id, ())
        self.episodes.put(episode.id, EpisodeView(episode, acknowledged), self.revision)

    def _show(self, machine: Machine) -> None:
        """Tell the tile, if it looks different from before."""
        state, since, why = machine.state()
        tile = Tile(
            machine.machine_id,
            state,
            None if since is None else epoch_ms(since),
            why,
            machine.episode is not None and machine.episode.id in self._acknowledged,
        )
        if self.tiles.get(machine.machine_id) != tile:
            self.revision += 1
            self.tiles.put(machine.machine_id, tile, self.revision)


def _us(timestamp: str) -> int:
    return time_us_of(datetime.fromisoformat(timestamp))


def epoch_ms(timestamp: str) -> int:
    """Epoch milliseconds of an RFC 3339 time."""
    return _us(timestamp) // 1000
