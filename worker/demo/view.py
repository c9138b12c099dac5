"""What a demo shows, gathered from the gateway, the worker's output topics and its metrics."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from worker.core.channels import Channel, ChannelSpec
from worker.core.messages import Episode
from worker.demo.counters import Counters
from worker.demo.gateway import Gateway
from worker.demo.results import Results, to_time_us
from worker.gateway import now_us
from worker.simulator import Fault

RATE_OVER_S = 5.0
SILENT_AFTER_INTERVALS = 12
IN_REAL_TIME_US = 10_000_000
STATES = ("ALARM", "silent", "watch", "ok")
"""With an open episode, without events, with anomalies in the last window, with none of these."""


@dataclass(frozen=True)
class Title:
    """What stays the same during a run.

    Attributes:
        broker: in words, with its address.
        guarantee: such as ``exactly once``.
        url: of the worker's own port.
        page: address of the live page.
    """

    model: str
    broker: str
    guarantee: str
    url: str
    page: str
    channels: tuple[Channel, ...]
    has_types: bool
    window: str


@dataclass(frozen=True)
class MachineRow:
    """One machine; ``recent`` counts its anomalies within the last window."""

    machine_id: str
    type: str
    values: tuple[float | None, ...]
    recent: int
    state: str


@dataclass(frozen=True)
class FaultRow:
    """One injected machine fault that is in force; None: not found yet."""

    fault: Fault
    found_after_us: int | None


@dataclass(frozen=True)
class View:
    """All there is to see at one moment.

    Attributes:
        behind_us: how far simulated time is behind the clock.
        rows: all machines, those most worth looking at first.
        episodes: the newest one of each machine, those that are open first.
        faults: machine faults in force, newest first.
    """

    simulated_us: int
    behind_us: int
    events_per_s: float
    produced: int
    scored: int
    late: int
    dead: int
    lag: int
    episode_count: int
    rows: Sequence[MachineRow]
    episodes: Sequence[Episode]
    faults: Sequence[FaultRow]
    stopping: bool

    @property
    def found(self) -> int:
        """Faults in force that were found."""
        return sum(row.found_after_us is not None for row in self.faults)

    @property
    def in_real_time(self) -> bool:
        """Whether simulated time has caught up with the clock."""
        return self.behind_us < IN_REAL_TIME_US


class Observer:
    """Makes a :class:`View` whenever asked."""

    def __init__(
        self,
        spec: ChannelSpec,
        machine_ids: Sequence[str],
        interval_us: int,
        gateway: Gateway,
        results: Results,
        counters: Counters,
    ) -> None:
        self._spec = spec
        self._machine_ids = machine_ids
        self._interval_us = interval_us
        self._gateway = gateway
        self._results = results
        self._counters = counters
        self._history = deque([(time.monotonic(), 0)])
        self._readings: dict[str, tuple[int, dict[str, object]]] = {}

    def look(self, stopping: bool) -> View:
        """See what is there now."""
        simulated_us = self._gateway.done_us
        processed = self._counters.processed
        recent = self._results.counts_since(simulated_us - self._spec.length_us)
        self._read_payloads(simulated_us)
        episodes = self._results.newest()
        alarms = {episode.machine_id for episode in episodes if episode.status != "closed"}
        rows = [
            self._row(machine, recent.get(machine, 0), machine in alarms, simulated_us)
            for machine in self._machine_ids
        ]
        rows.sort(key=lambda row: (STATES.index(row.state), -row.recent, row.machine_id))
        return View(
            simulated_us=simulated_us,
            behind_us=now_us() - simulated_us,
            events_per_s=self._rate(processed),
            produced=self._gateway.produced,
            scored=self._counters.scored,
            late=self._results.late,
            dead=self._results.dead,
            lag=max(0, self._gateway.produced - processed),
            episode_count=self._counters.episodes,
            rows=rows,
            episodes=episodes,
            faults=self._faults(simulated_us),
            stopping=stopping,
        )

    def _rate(self, processed: int) -> float:
        now_s = time.monotonic()
        self._history.append((now_s, processed))
        # Kept from the last time before the span, so that rare looks see a rate too.
        while now_s - self._history[1][0] >= RATE_OVER_S:
            self._history.popleft()
        begun_s, before = self._history[0]
        return (processed - before) / (now_s - begun_s) if now_s > begun_s else 0.0

    def _read_payloads(self, simulated_us: int) -> None:
        for key, payload in dict(self._gateway.latest).items():
            try:
                event = msgspec.json.decode(payload)
                time_us = to_time_us(event["timestamp"])
            except (msgspec.DecodeError, ValueError, KeyError, TypeError):
                continue  # one of the unusable payloads
            machine = key.decode()
            if self._readings.get(machine, (0,))[0] < time_us <= simulated_us:
                self._readings[machine] = (time_us, event)

    def _row(self, machine: str, recent: int, alarm: bool, simulated_us: int) -> MachineRow:
        time_us, event = self._readings.get(machine, (simulated_us, {}))
        values = [event.get(channel.name) for channel in self._spec.continuous]
        types = [event.get(channel.name) for channel in self._spec.categorical[:1]]
        if simulated_us - time_us > SILENT_AFTER_INTERVALS * self._interval_us:
            state = "silent"
        elif alarm:
            state = "ALARM"
        else:
            state = "watch" if recent else "ok"
        return MachineRow(
            machine,
            str(types[0] or "") if types else "",
            tuple(float(v) if isinstance(v, int | float) else None for v in values),
            recent,
            state,
        )

    def _faults(self, simulated_us: int) -> list[FaultRow]:
        truth = self._gateway.truth
        # Faults are cut off at the end of what was simulated: those are still in force.
        active = [
            fault
            for fault in truth.faults
            if fault.category == "machine" and fault.end_us >= truth.end_us
        ]
        rows = []
        for fault in sorted(active, key=lambda fault: -fault.start_us):
            opened_us = self._results.opened_since(fault.machine_id, fault.start_us)
            if opened_us is not None and opened_us > simulated_us:
                opened_us = None
            rows.append(FaultRow(fault, None if opened_us is None else opened_us - fault.start_us))
        return rows
