"""Drift of recorded readings: what the drift agent would have said, by its own ``step``.

Owns keeping each partition's partials in a file until all partitions were read, and giving them
to the agent in the order of event time, as if Kafka had heard of each pane at its end.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import polars as pl

from worker.core.channels import US_PER_S
from worker.core.drift import Collector, Partial, WindowReport, merge
from worker.core.drifting import Drifting, DriftState, Monitors
from worker.core.events import Chunk
from worker.core.outgoing import Outputs, Record
from worker.core.scoring import watched_part
from worker.models.bundle import Bundle
from worker.pipelines import US_PER_MIN, monitor_settings
from worker.replay.tables import MOMENT, table_of
from worker.settings import DriftSettings

TOPIC = "drift-partials"
KEPT_PANES = 2
"""Older panes are written: few rows come later than that, and they become parts of their own."""

DRIFT: dict[str, Any] = {
    "drift_id": pl.String,
    "group": pl.String,
    "kind": pl.String,
    "began_at": MOMENT,
    "opened_at": MOMENT,
    "closed_at": MOMENT,
    "score": pl.Float64,
    "features": pl.List(pl.String),
    "machines": pl.List(pl.String),
    "advice": pl.String,
    "reason": pl.String,
}
WINDOWS: dict[str, Any] = {
    "group": pl.String,
    "window_s": pl.Float64,
    "start": MOMENT,
    "end": MOMENT,
    "rows": pl.Int64,
    "verdict": pl.String,
    "score": pl.Float64,
    "p_value": pl.Float64,
}


class _Part(NamedTuple):
    """Where a partial is in the file; parts sort by time, then group."""

    start_us: int
    group: str
    at: int
    size: int


class _Stretch(NamedTuple):
    """Rows of a pane, a partition and a group; these sort by time, partition, group."""

    start_us: int
    end_us: int
    partition: int
    group: str
    partial: bytes


@dataclass(frozen=True)
class Kept:
    """The partials of one partition, of panes that are so long."""

    partition: int
    pane_us: int
    path: Path
    parts: list[_Part]

    @property
    def end_ms(self) -> int:
        """When the last pane ends."""
        return max((p.start_us + self.pane_us for p in self.parts), default=0) // 1000

    def read(self) -> Iterator[_Stretch]:
        """The partials, in their order."""
        with self.path.open("rb") as file:
            for part in sorted(self.parts):
                file.seek(part.at)
                content = file.read(part.size)
                pane = (part.start_us, part.start_us + self.pane_us)
                yield _Stretch(*pane, self.partition, part.group, content)


class Keeper:
    """Gathers what was scored of one partition, and keeps it.

    Args:
        path: file for the partials, made anew.
    """

    def __init__(self, bundle: Bundle, settings: DriftSettings, partition: int, path: Path) -> None:
        self._spec = bundle.spec
        self._layout = bundle.require_reference().layout
        # A sum of panes is the same however long they are.
        self._pane_us = math.gcd(*settings.windows_min) * US_PER_MIN
        self._collector = Collector(self._layout, partition, self._pane_us)
        self._partition, self._path = partition, path
        self._file = path.open("wb")
        self._parts: list[_Part] = []
        self._newest_us = 0

    def take(self, outputs: Outputs) -> None:
        """Gather what one chunk gave."""
        for scored in outputs.scored_events:
            part = watched_part(self._spec, scored, self._layout.stride_us)
            if len(part.times_us):
                self._collector.add(*part)
                self._newest_us = max(self._newest_us, int(part.times_us.max()))
        self._write(self._newest_us - KEPT_PANES * self._pane_us)

    def finish(self) -> Kept:
        """Write what is left."""
        self._write(None)
        self._file.close()
        return Kept(self._partition, self._pane_us, self._path, self._parts)

    def _write(self, before_us: int | None) -> None:
        for partial in self._collector.take(0, before_us):
            content = partial.to_bytes()
            place = (self._file.tell(), len(content))
            self._parts.append(_Part(partial.start_us, partial.group, *place))
            self._file.write(content)


@dataclass(frozen=True)
class Drifts:
    """What was said of all partitions together.

    Attributes:
        events: a row for each event, as it was told last; see ``DRIFT``.
        windows: a row for each window that was judged or could not be; see ``WINDOWS``.
        records: messages of drift events and retraining requests, in order.
    """

    events: pl.DataFrame
    windows: pl.DataFrame
    records: Sequence[Record] = field(repr=False)

    @property
    def summary(self) -> dict[str, Any]:
        """Counts, for ``summary.json``."""
        requests = sum(record.stream == "retraining-requests" for record in self.records)
        return {
            "windows": len(self.windows),
            "windows_with_drift": int((self.windows["verdict"] == "drift").sum()),
            "events": len(self.events),
            "events_open": self.events["closed_at"].null_count(),
            "retraining_requests": requests,
        }


def judge_drift(bundle: Bundle, settings: DriftSettings, kept: Sequence[Kept]) -> Drifts:
    """Judge the windows of a recording, as far as its partitions go.

    A window that a worker's agent would still wait for at the end is not judged.

    Args:
        kept: any number for each partition, in any order.
    """
    monitors = Monitors(
        bundle.require_reference(),
        monitor_settings(settings, len({one.partition for one in kept})),
        bundle.model_version,
    )
    drifting, state = Drifting(monitors, bundle.spec.max_future_us), DriftState()
    latest: dict[str, dict[str, Any]] = {}
    windows: list[WindowReport] = []
    records: list[Record] = []
    stretches = heapq.merge(*(one.read() for one in kept))
    panes = groupby(stretches, key=lambda stretch: stretch[:4])
    for offset, (_, own) in enumerate(panes):
        found = drifting.step(state, _chunk(offset, _whole(list(own))))
        windows += found.windows
        records += found.records
        for record in found.records:
            if record.stream == "drift-events":
                message = msgspec.json.decode(record.value)
                latest[message["id"]] = message
    return Drifts(
        table_of(DRIFT, [_row_of(message) for message in latest.values()], "group"),
        pl.DataFrame([_window_of(report) for report in windows], schema=WINDOWS),
        records,
    )


def _whole(parts: list[_Stretch]) -> _Stretch:
    """All rows of a pane, a partition and a group: an agent takes them once."""
    first = parts[0]
    if len(parts) == 1:
        return first
    partials = [Partial.from_bytes(part.partial) for part in parts]
    return first._replace(partial=merge(partials, first.start_us, first.end_us).to_bytes())


def _chunk(offset: int, whole: _Stretch) -> Chunk:
    """A partial as it would have come, at the end of its pane."""
    return Chunk(
        topic=TOPIC,
        partition=0,
        offsets=np.array([offset]),
        timestamps_ms=np.array([whole.end_us // 1000]),
        keys=[whole.group.encode()],
        values=[whole.partial],
    )


def _row_of(message: dict[str, Any]) -> dict[str, Any]:
    return {
        **message,
        "drift_id": message["id"],
        "features": [one["feature"] for one in message["features"]],
        "machines": [one["machine_id"] for one in message["machines"]],
    }


def _window_of(report: WindowReport) -> dict[str, Any]:
    return {
        "group": report.group,
        "window_s": report.window_us / US_PER_S,
        "start": report.start_us,
        "end": report.end_us,
        "rows": report.rows,
        "verdict": report.verdict,
        "score": report.score,
        "p_value": report.p_value,
    }
