"""Two recordings held against each other, by what the drift agent does.

Owns how a file becomes windows: the whole of it as one, and a timeline of shorter ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from worker.core.channels import US_PER_S, ChannelSpec, format_duration
from worker.core.drift import (
    FLEET,
    Collector,
    DriftEvent,
    DriftMonitor,
    FeatureDrift,
    Machine,
    Partial,
    Reference,
    Settings,
    WindowReport,
    learn_reference,
    merge,
    remembering,
    thinning,
    watched_columns,
)
from worker.core.drift.advice import machines_of
from worker.core.drift.calibration import SHORTEST_REFERENCE
from worker.core.drift.judge import judge
from worker.core.drift.learning import FEWEST_ROWS
from worker.core.errors import ConfigError
from worker.core.scoring import WatchedPart, watched_part
from worker.core.state import PartitionState
from worker.models.bundle import Bundle
from worker.replay.backtest import follow
from worker.training.readings import MachineReadings
from worker.training.window import interval_us

MOST_VALUES = 16
TIMELINE = 48
"""Windows of a timeline, about."""
MOST_WINDOWS = 400
PICTURED_ROWS = 20_000
STEP_ROWS = 100_000
LENGTHS_US = tuple(
    60 * US_PER_S * minutes
    for minutes in (1, 5, 15, 30, 60, 120, 360, 720, 1440, 2880, 7 * 1440, 14 * 1440, 28 * 1440)
)
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        reference: the one held against; data_rows, start_us, end_us: of what was held against it.
        whole: report of all data as one window, by group.
        timeline: reports of the shorter windows of the fleet, in order of time.
        events: drift events of the fleet's timeline.
        machines: those that contribute most.
        pictured: (k, F) some of the rows, for pictures.
        counts: (F, 65) all rows by the reference's cells.
        notes: a sentence each about how rows were read.
    """

    reference: Reference
    data_rows: int
    start_us: int
    end_us: int
    window_us: int
    whole: dict[str, WindowReport]
    timeline: tuple[WindowReport, ...]
    events: tuple[DriftEvent, ...]
    machines: tuple[Machine, ...]
    pictured: Floats
    counts: NDArray[np.int64]
    notes: tuple[str, ...]

    @property
    def judged(self) -> WindowReport:
        """The whole; where the reference is too short for it, the window that shows most."""
        whole = self.whole[FLEET]
        if whole.verdict not in ("blind", "sparse"):
            return whole
        seen = [one for one in self.timeline if one.verdict not in ("blind", "sparse")]
        return min(seen, key=lambda one: one.p_value, default=whole)

    @property
    def drifted(self) -> bool:
        """Whether the whole drifted, or windows did that followed one another."""
        return self.whole[FLEET].verdict == "drift" or any(
            event.kind == "drift" and event.status == "opened" for event in self.events
        )

    @property
    def verdict(self) -> str:
        """What an engineer has to know, in one or two sentences."""
        judged = self.judged
        if judged.verdict in ("blind", "sparse"):
            return f"Nothing can be said. {judged.sentence}"
        if self.drifted:
            opened = [e for e in self.events if e.status == "opened" and e.kind == "drift"]
            began = f" Since about {moment(opened[0].began_us)}." if opened else ""
            return f"The data differ from the reference: {_what(judged)}.{began}"
        if any(event.kind == "health" for event in self.events) or judged.verdict == "health":
            return f"Too much is missing to compare. {judged.sentence}"
        return f"No drift was found. {self.limits}".rstrip()

    @property
    def limits(self) -> str:
        """What would have been seen, and what not."""
        whole = self.whole[FLEET]
        if whole.verdict == "blind":
            return f"All at once cannot be judged, only windows of {self.window}. {whole.sentence}"
        seen = [one for one in self.judged.features if np.isfinite(one.smallest_detectable)]
        if not seen:
            return ""
        least = max(seen, key=self._smallest_in_sds)
        unit = f" {least.unit}" if least.unit else ""
        return (
            f"The change that is hardest to see is in {least.feature}: it would be found nine "
            f"times in ten from {least.smallest_detectable:.3g}{unit} on."
        )

    @property
    def window(self) -> str:
        """The timeline's window, for people."""
        return format_duration(self.window_us)

    def _smallest_in_sds(self, one: FeatureDrift) -> float:
        sd = float(self.reference.groups[FLEET].sd[self.reference.columns.index(one.feature)])
        return one.smallest_detectable / sd if sd > 0.0 else 0.0

    def since_us(self, feature: str) -> int | None:
        """Where the first two windows in a row begin in which a feature drifted."""
        shown = [any(f.feature == feature and f.drifted for f in w.features) for w in self.timeline]
        for at, pair in enumerate(pairwise(shown)):
            if all(pair):
                return self.timeline[at].start_us
        return None


def _what(report: WindowReport) -> str:
    """What drifted, for people."""
    drifted = [one for one in report.features if one.drifted]
    if not drifted:
        return "no feature by itself, but " + " and ".join(t.name for t in report.joint if t.voted)
    first = drifted[0]
    unit = f" {first.unit}" if first.unit else ""
    how = {
        "up": f"up by {abs(first.effect):.3g}{unit}",
        "down": f"down by {abs(first.effect):.3g}{unit}",
        "missing": "missing more often or less",
        "shape": "distributed differently",
    }.get(first.direction, first.direction)
    return (
        f"{len(drifted)} of {len(report.features)} features drifted, most clearly {first.feature}: "
        f"{how}, drift score {first.score:.2g}"
    )


def moment(time_us: int) -> str:
    """A time in UTC, to the minute."""
    return datetime.fromtimestamp(time_us / US_PER_S, UTC).strftime("%Y-%m-%d %H:%M UTC")


def compare_channels(
    spec: ChannelSpec, data: MachineReadings, reference: MachineReadings, alpha: float = 0.01
) -> Comparison:
    """Hold the channels of readings against those of others.

    Raises:
        ConfigError: one of them has too few rows.
    """
    learned = _learn(
        tuple(c.name for c in spec.continuous),
        tuple(c.unit for c in spec.continuous),
        None,
        spec,
        _of_channels(spec, reference),
        reference,
    )
    parts = _of_channels(spec, data, learned.layout.stride_us)
    return _compare(learned, parts, data, alpha)


def compare_scored(
    bundle: Bundle, data: MachineReadings, reference: MachineReadings | None, alpha: float = 0.01
) -> Comparison:
    """Hold the inputs and scores of a bundle against its training, or against other readings.

    Raises:
        BundleError: there is no other reference, and the bundle has none.
        ConfigError: there are too few rows.
    """
    if reference is None:
        learned = bundle.require_reference()
    else:
        columns, units, owners = watched_columns(bundle.spec)
        parts = _of_model(bundle, reference)
        learned = _learn(columns, units, owners, bundle.spec, parts, reference)
    return _compare(learned, _of_model(bundle, data, learned.layout.stride_us), data, alpha)


def _of_channels(
    spec: ChannelSpec, readings: MachineReadings, stride_us: int | None = None
) -> Iterator[WatchedPart]:
    ids = {k: name.encode() for k, name in enumerate(readings.machine_ids)}
    machines = readings.machines
    order = np.argsort(readings.times_us, kind="stable")
    if stride_us is not None:
        previous_us = thinning.previous_times(readings.times_us, machines)
        order = order[thinning.counts(readings.times_us, previous_us, stride_us)[order]]
    nothing = [None] * len(readings)
    for first in range(0, len(order), STEP_ROWS):
        at = order[first : first + STEP_ROWS]
        known = {c.name: readings.categories.get(c.name, nothing) for c in spec.categorical}
        yield WatchedPart(
            readings.times_us[at],
            machines[at],
            ids,
            readings.values[at].astype(np.float32),
            np.zeros(len(at), np.bool_),
            {name: [column[i] for i in at.tolist()] for name, column in known.items()},
        )


def _of_model(
    bundle: Bundle, readings: MachineReadings, stride_us: int | None = None
) -> Iterator[WatchedPart]:
    pipeline, state = bundle.pipeline(), PartitionState(bundle.spec)
    for _, _, outputs in follow(pipeline, state, readings):
        for scored in outputs.scored_events:
            yield watched_part(bundle.spec, scored, stride_us)


def _learn(
    columns: tuple[str, ...],
    units: tuple[str, ...],
    owners: tuple[str, ...] | None,
    spec: ChannelSpec,
    parts: Iterator[WatchedPart],
    readings: MachineReadings,
) -> Reference:
    every = list(parts)
    rows = sum(len(part.rows) for part in every)
    if rows < FEWEST_ROWS:
        raise ConfigError(
            f"--reference: {readings.source} has {rows} usable rows; at least {FEWEST_ROWS} are "
            "needed to know what is usual."
        )
    named = spec.categorical
    return learn_reference(
        columns,
        units,
        np.concatenate([part.rows for part in every]),
        np.concatenate([part.times_us for part in every]),
        np.concatenate([part.machines for part in every]),
        round(interval_us(readings) or US_PER_S),
        anomalous=np.concatenate([part.anomalous for part in every]),
        categories={c.name: [v for p in every for v in p.categories[c.name]] for c in named},
        values={c.name: c.values for c in named},
        grouped=[c.name for c in named if len(c.values) <= MOST_VALUES],
        owners=owners,
        remembering=None if owners is None else remembering(spec),
    )


def timeline_us(reference: Reference, span_us: int) -> int:
    """Length of the timeline's windows: some fifty, if the reference is long enough for that."""
    usual = reference.groups[FLEET]
    longest_us = usual.slots * usual.interval_us / SHORTEST_REFERENCE
    for length_us in LENGTHS_US:
        if length_us * TIMELINE >= span_us:
            break
    fitting = [one for one in LENGTHS_US if one <= min(longest_us, length_us)]
    length_us = fitting[-1] if fitting else LENGTHS_US[0]
    # A page has an end; windows that are too long for the reference say so.
    return next((one for one in LENGTHS_US if one >= max(length_us, span_us // MOST_WINDOWS)),
                LENGTHS_US[-1])  # fmt: skip


def _compare(
    reference: Reference, parts: Iterator[WatchedPart], data: MachineReadings, alpha: float
) -> Comparison:
    if not len(data):
        raise ConfigError(f"--data: {data.source} has no usable rows.")
    start_us = int(data.times_us.min())
    end_us = int(data.times_us.max()) + round(interval_us(data) or US_PER_S)
    window_us = timeline_us(reference, end_us - start_us)
    span = start_us // window_us * window_us, -(-end_us // window_us) * window_us
    collector = Collector(reference.layout, 0, window_us)
    settings = Settings(windows_us=(window_us,), grace_us=0, alpha=alpha)
    monitor = DriftMonitor(reference, FLEET, settings, "")
    whole: dict[str, Partial] = {}
    windows: list[WindowReport] = []
    events: list[DriftEvent] = []
    pictured: list[Floats] = []
    every = max(len(data) // PICTURED_ROWS, 1)
    rows = 0

    def close(partials: Sequence[Partial]) -> None:
        for partial in partials:
            known = [whole[partial.group]] if partial.group in whole else []
            whole[partial.group] = merge([*known, partial], *span)
            if partial.group == FLEET:
                found = monitor.add(partial)
                windows.extend(found.windows)
                events.extend(found.events)

    for sequence, part in enumerate(parts):
        pictured.append(part.rows[(-rows) % every :: every])
        rows += len(part.rows)
        collector.add(*part)
        if len(part.times_us):
            close(collector.take(sequence, int(part.times_us.max()) // window_us * window_us))
    close(collector.take(len(data) + 1))
    last = monitor.flush()
    if FLEET not in whole:
        raise ConfigError(f"--data: nothing in {data.source} could be scored.")
    share = alpha / len(reference.groups)
    reports = {
        group: judge(reference, reference.groups[group], one, share, settings.min_rows).report
        for group, one in sorted(whole.items(), key=lambda item: item[0] != FLEET)
    }
    return Comparison(
        reference=reference,
        data_rows=rows,
        start_us=start_us,
        end_us=end_us,
        window_us=window_us,
        whole=reports,
        timeline=(*windows, *last.windows),
        events=(*events, *last.events),
        machines=machines_of(reference, reference.groups[FLEET], whole[FLEET], reports[FLEET]),
        pictured=np.concatenate(pictured),
        counts=whole[FLEET].counts,
        notes=data.notes,
    )
