"""What the routes answer of a fleet: pages of machines and episodes, one machine, drift."""

from __future__ import annotations

from typing import Literal

import msgspec

from worker.api.fleet import (
    STATES,
    EpisodeView,
    Fleet,
    Machine,
    Progress,
    Sources,
    State,
    Tile,
    epoch_ms,
)
from worker.core.messages import DriftEvent, SensorHealth, format_time_us
from worker.online.machine import WindowStats

Sort = Literal["urgency", "machine", "since"]
Status = Literal["open", "closed", "all"]

LATEST_EPISODES = 10
_URGENCY = {state: place for place, state in enumerate(STATES)}


class MachineRow(msgspec.Struct, frozen=True):
    """A machine in a list.

    Attributes:
        since: since when it is in this state, RFC 3339 UTC by event time; null: not told.
        why: the channel that matters most, or the kind of what is wrong.
        acknowledged: somebody looks after its open episode.
    """

    machine_id: str
    state: State
    since: str | None
    why: str
    acknowledged: bool


class MachinePage(msgspec.Struct, frozen=True):
    """Some machines, and how many there are in all and in each state."""

    total: int
    states: dict[str, int]
    machines: list[MachineRow]


class Samples(msgspec.Struct, frozen=True):
    """The latest readings that were seen, oldest first; not every reading is.

    Attributes:
        time_ms: event time, epoch milliseconds.
        values: by channel, in its unit.
    """

    time_ms: list[float]
    score: list[float]
    threshold: list[float]
    values: dict[str, list[float | None]]


class Latest(msgspec.Struct, frozen=True):
    """What the online store has of a machine, as of its last scored event.

    Attributes:
        timestamp: of that event, RFC 3339 UTC.
        age_s: by the clock since that event: how old values, features and windows are.
        written_age_s: by the clock since it was written.
    """

    timestamp: str
    age_s: float
    written_age_s: float
    model_version: str
    anomaly_score: float
    threshold: float
    confidence: float
    experience: float
    is_anomaly: bool
    under_maintenance: bool
    values: dict[str, float | None]
    features: dict[str, float]
    windows: dict[str, WindowStats]


class MachineView(msgspec.Struct, frozen=True):
    """One machine.

    Attributes:
        latest: null: the online store does not have it.
        episodes: its open one, then its latest closed ones.
        health: conditions of its sensors that are open.
    """

    machine_id: str
    state: State
    since: str | None
    why: str
    latest: Latest | None
    episodes: list[EpisodeView]
    health: list[SensorHealth]
    samples: Samples


class EpisodePage(msgspec.Struct, frozen=True):
    """Some episodes, open ones first, the latest first; and how many there are in all."""

    total: int
    episodes: list[EpisodeView]


class DriftPage(msgspec.Struct, frozen=True):
    """Drift events as they were told last, open ones first, the latest first."""

    drifts: list[DriftEvent]


class LatestDrift(msgspec.Struct, frozen=True):
    """The drift event that was told last; null: none was."""

    latest: DriftEvent | None


class Overview(msgspec.Struct, frozen=True):
    """How the fleet and the workers are."""

    machines: int
    states: dict[str, int]
    progress: Progress
    sources: Sources


def count_states(tiles: list[Tile]) -> dict[str, int]:
    """How many machines are in each state, the most urgent first."""
    counts: dict[str, int] = dict.fromkeys(STATES, 0)
    for tile in tiles:
        counts[tile.state] += 1
    return counts


def machine_page(
    fleet: Fleet,
    states: frozenset[State] = frozenset(),
    text: str = "",
    sort: Sort = "urgency",
    offset: int = 0,
    limit: int = 100,
) -> MachinePage:
    """Machines that match.

    Args:
        states: only these; empty: all.
        text: a part of the machine's id, in any case.
        sort: urgency: the worst first, those that are so for longest first among them.
    """
    every = fleet.machines()
    wanted = text.casefold()
    found = [
        tile
        for tile in every
        if (not states or tile.state in states) and wanted in tile.machine_id.casefold()
    ]
    latest = 1 << 62
    if sort == "machine":
        found.sort(key=lambda tile: tile.machine_id)
    elif sort == "since":
        found.sort(key=lambda tile: (-(tile.since_ms or 0), tile.machine_id))
    else:
        found.sort(key=lambda t: (_URGENCY[t.state], t.since_ms or latest, t.machine_id))
    rows = [_row(tile) for tile in found[offset : offset + limit]]
    return MachinePage(len(found), count_states(every), rows)


def machine_view(fleet: Fleet, machine_id: str, now_ms: int, after: int = 0) -> MachineView | None:
    """One machine; None: nothing is known of it.

    Args:
        after: only samples that came after the one of this arrival.
    """
    machine = fleet.machine(machine_id)
    if machine is None:
        return None
    state, since, why = machine.state()
    episodes = episode_page(fleet, "all", machine_id, 0, LATEST_EPISODES).episodes
    return MachineView(
        machine_id,
        state,
        since,
        why,
        _latest(machine, now_ms),
        episodes,
        list(machine.health.values()),
        _samples(fleet, machine, after),
    )


def _samples(fleet: Fleet, machine: Machine, after: int) -> Samples:
    found = [sample for sample in machine.samples if sample.arrival > after]
    return Samples(
        [sample.time_us / 1000 for sample in found],
        [sample.score for sample in found],
        [sample.threshold for sample in found],
        {name: [s.values[i] for s in found] for i, name in enumerate(fleet.channels)},
    )


def episode_page(
    fleet: Fleet,
    status: Status = "open",
    machine_id: str | None = None,
    offset: int = 0,
    limit: int = 100,
) -> EpisodePage:
    """Episodes that match."""
    found = [
        view
        for view in fleet.episodes
        if (machine_id is None or view.episode.machine_id == machine_id)
        and (status == "all" or (view.episode.status == "closed") == (status == "closed"))
    ]
    found.sort(key=lambda view: view.episode.opened_at, reverse=True)
    found.sort(key=lambda view: view.episode.status == "closed")
    return EpisodePage(len(found), found[offset : offset + limit])


def drift_page(fleet: Fleet) -> DriftPage:
    """Drift events, those that are open first."""
    found = sorted(fleet.drifts, key=lambda drift: drift.last_at, reverse=True)
    return DriftPage(sorted(found, key=lambda drift: drift.status == "closed"))


def latest_drift(fleet: Fleet) -> LatestDrift:
    """The drift event that was told last."""
    return LatestDrift(max(fleet.drifts, key=lambda drift: drift.last_at, default=None))


def overview(fleet: Fleet) -> Overview:
    """How the fleet and the workers are."""
    tiles = fleet.machines()
    return Overview(len(tiles), count_states(tiles), fleet.progress, fleet.sources)


def _row(tile: Tile) -> MachineRow:
    since = None if tile.since_ms is None else format_time_us(tile.since_ms * 1000)
    return MachineRow(tile.machine_id, tile.state, since, tile.why, tile.acknowledged)


def _latest(machine: Machine, now_ms: int) -> Latest | None:
    document = machine.document
    if document is None:
        return None
    return Latest(
        document.timestamp,
        (now_ms - epoch_ms(document.timestamp)) / 1000,
        (now_ms - epoch_ms(document.written_at)) / 1000,
        *(getattr(document, name) for name in Latest.__struct_fields__[3:]),
    )
