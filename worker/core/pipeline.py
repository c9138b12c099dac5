"""The one piece of behaviour: ``step(state, chunk) -> outputs``.

Live worker, replay, backtest and tests call the same function. For the same
records it returns the same bytes, however they are cut into chunks, and whatever
restarts lie between: each record is applied once (``state.next_offset``), each
machine on its own but for the limits of the state (``StateLimits``) and for being found
silent by the partition's clock, each score independent of the other rows of its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.core import episodes, health, maintenance, messages, outgoing, windows
from worker.core.detection.detector import Detector, Scores
from worker.core.episodes import Episodes, Evidence, Opened
from worker.core.events import Chunk, EventDecoder, Readings, Reject
from worker.core.explanation import Explanation, SeenCode, explain
from worker.core.health import Health
from worker.core.health.words import sensor_health
from worker.core.maintenance import Maintained
from worker.core.outgoing import Outputs, Record, Scored
from worker.core.planned import PlannedWindow
from worker.core.rows import Layout
from worker.core.state import PartitionState, Stretch
from worker.core.table import MachineTable


@dataclass
class _Work:
    """One chunk being applied.

    Attributes:
        machines: (n,) array position of each reading's machine.
        found: messages, each with the row of the record that caused it.
        tells_anomalies: whether there is a message for each anomalous reading.
    """

    state: PartitionState
    chunk: Chunk
    readings: Readings
    machines: NDArray[np.int64]
    outputs: Outputs
    found: list[tuple[int, Record]]
    tells_anomalies: bool

    def tell(self, i: int, record: Record) -> None:
        """Publish a message because of the reading at position ``i``."""
        self.found.append((int(self.readings.rows[i]), record))


class Pipeline:
    """Decode, mask, aggregate, score, follow and explain, for one bundle.

    Holds no state of its own, so one pipeline serves every partition.

    Args:
        version: ``name/version`` of the bundle, copied into messages.
        fingerprint: of what training learned; a machine that goes by another begins anew.
        planned: maintenance windows from configuration.
    """

    def __init__(
        self,
        version: str,
        fingerprint: int,
        detector: Detector,
        health: Health,
        episodes: Episodes,
        planned: Sequence[PlannedWindow] = (),
    ) -> None:
        self.spec = detector.spec
        self.version = version
        self.fingerprint = fingerprint
        self.detector = detector
        self.health = health
        self.episodes = episodes
        self.planned = planned
        self.decoder = EventDecoder(self.spec)
        self.layout = Layout.of(self.spec)

    def step(self, state: PartitionState, chunk: Chunk, *, tells_anomalies: bool = True) -> Outputs:
        """Apply the records of ``chunk`` that ``state`` has not seen yet.

        Args:
            state: the partition's state, changed in place.
            chunk: records of that partition, in offset order.
            tells_anomalies: whether there is a message for each anomalous reading; its score
                is there in any case.
        """
        chunk = chunk.since(state.next_offset)
        if not len(chunk):
            return Outputs()
        readings, rejects = self.decoder.decode(chunk)
        return self._apply_all(state, chunk, readings, rejects, tells_anomalies=tells_anomalies)

    def apply(self, state: PartitionState, chunk: Chunk, readings: Readings) -> Outputs:
        """Apply readings of a table, which need no decoding; see :meth:`step`.

        Anomalous readings have no messages of their own: their scores tell.

        Args:
            chunk: where the readings come from; its values may be None.
            readings: of its records, in their order.
        """
        return self._apply_all(state, chunk, readings, [], tells_anomalies=False)

    def begin(
        self, table: MachineTable, rows: NDArray[np.int64], machine_ids: Sequence[str]
    ) -> None:
        """Let the machines in table rows (n,) begin with this bundle's baselines."""
        self.detector.begin(table, rows, machine_ids)
        self.health.begin(table, rows, machine_ids)
        table["model"][rows] = self.fingerprint

    def explain_reading(
        self,
        readings: Readings,
        i: int,
        signals: NDArray[np.float64],
        scores: Scores,
        k: int,
    ) -> Explanation:
        """Say why a reading is abnormal.

        Args:
            i: its position among ``readings``.
            signals: (n, D) of the events that were scored together.
            k: its position among these.
        """
        codes = [column[i] for column in readings.codes.values()]
        return explain(
            self.spec,
            scores.contributions[k],
            signals[k],
            scores.expected[k],
            scores.deviation[k],
            codes=[seen and SeenCode(*seen) for seen in self.detector.codes.seen(codes)],
            experience=float(scores.experience[k]),
        )

    def _apply_all(
        self,
        state: PartitionState,
        chunk: Chunk,
        readings: Readings,
        rejects: Sequence[Reject],
        *,
        tells_anomalies: bool,
    ) -> Outputs:
        outputs = Outputs(events=len(chunk))
        found: list[tuple[int, Record]] = []
        for row, reason, detail in rejects:
            outputs.dead[reason] += 1
            found.append((row, outgoing.dead_letter(chunk, row, reason, detail)))
        if len(readings.rows):
            machines = state.indices(readings.machine_ids)
            work = _Work(state, chunk, readings, machines, outputs, found, tells_anomalies)
            self._apply(work)
        outputs.records = [
            record._replace(offset=int(chunk.offsets[row]))
            for row, record in sorted(found, key=lambda item: item[0])
        ]
        state.next_offset = int(chunk.offsets[-1]) + 1
        return outputs

    def _apply(self, work: _Work) -> None:
        state, readings, outputs = work.state, work.readings, work.outputs
        watermarks_us = np.empty(len(readings.rows), np.int64)
        for stretch in state.admit(
            work.machines,
            readings.times_us,
            watermarks_us,
            lambda clock_us, i: self._forget(work, clock_us, i),
        ):
            if len(stretch.accepted):
                self._follow(work, stretch)
        for i in np.flatnonzero(watermarks_us >= 0).tolist():
            outputs.late += 1
            work.tell(i, outgoing.late_event(work.chunk, readings, i, int(watermarks_us[i])))
        for i in np.flatnonzero(watermarks_us == windows.REFUSED).tolist():
            outputs.dead["too-many-machines"] += 1
            detail = f"the partition has {state.limits.max_machines} machines already"
            row = int(readings.rows[i])
            work.tell(i, outgoing.dead_letter(work.chunk, row, "too-many-machines", detail))
        outputs.newest_time_us = int(readings.times_us.max())
        for channel, count in zip(
            self.spec.continuous, readings.impossible.sum(axis=0).tolist(), strict=True
        ):
            if count:
                outputs.masked[channel.name] += count

    def _follow(self, work: _Work, stretch: Stretch) -> None:
        """Apply events that were accepted."""
        state, table, at = work.state, work.state.table, stretch.accepted
        part = work.readings.take(at)
        machines = work.machines[at]
        self._begin(state, machines)
        found = self._maintain(work, at, machines, part)
        maintained, relearn = found.maintained, found.relearn
        clocks_us = np.maximum.accumulate(np.maximum(part.times_us, stretch.clock_us))
        previous_us = stretch.previous_us
        if found.refused:
            kept = np.delete(np.arange(len(at)), found.refused)
            at, part, machines = at[kept], part.take(kept), machines[kept]
            maintained, relearn, clocks_us = maintained[kept], relearn[kept], clocks_us[kept]
            previous_us = previous_us[kept]
        values, conditions = self.health.check(
            table,
            clocks_us,
            machines,
            part.times_us,
            part.record_times_us,
            part.values,
            part.impossible,
        )
        self._tell_health(work, at, conditions)
        aggregates = state.aggregate(machines, part.times_us, values)
        signals = self.detector.signals(values, list(part.codes.values()))
        scores = self.detector.score(
            table, machines, part.times_us, signals, aggregates, maintained, relearn
        )
        opened = Opened(table, machines)
        changes = self.episodes.follow(
            table,
            machines,
            part.times_us,
            self.detector.scales_us(table, machines),
            maintained,
            Evidence(
                scores.anomaly_score,
                scores.threshold,
                scores.contributions,
                signals,
                scores.expected,
                scores.deviation,
            ),
        )
        self._tell_episodes(work, at, changes)
        opened.note(changes)
        if work.tells_anomalies:
            self._tell_anomalies(work, at, machines, values, signals, scores, opened)
        work.outputs.anomalies += int((scores.anomaly_score < scores.threshold).sum())
        work.outputs.scored += len(at)
        work.outputs.scored_events.append(
            Scored(scores, part, machines, values, maintained, previous_us, aggregates)
        )

    def _begin(self, state: PartitionState, machines: NDArray[np.int64]) -> None:
        """Let machines that are new, or go by another bundle's baseline, begin with this one's."""
        of_others = machines[state.table["model"][machines] != self.fingerprint]
        if len(of_others):
            rows = np.unique(of_others)
            self.begin(state.table, rows, [name.decode() for name in state.names(rows)])

    def _maintain(
        self, work: _Work, at: NDArray[np.int64], machines: NDArray[np.int64], part: Readings
    ) -> Maintained:
        """Hold the events (k,) against planned maintenance, also what they announce."""
        announcements = [
            maintenance.announcement(k, int(machines[k]), part.notices[k])
            for k in sorted(part.notices)
        ]
        found = maintenance.follow(
            work.state.table,
            self.planned,
            machines,
            part.machine_ids,
            part.times_us,
            announcements,
        )
        for k in found.refused:
            i = int(at[k])
            reason: messages.DeadLetterReason = "too-many-windows"
            detail = messages.DEAD_LETTER_REASONS[reason]
            row = int(work.readings.rows[i])
            work.outputs.dead[reason] += 1
            work.tell(i, outgoing.dead_letter(work.chunk, row, reason, detail))
        return found

    def _forget(self, work: _Work, clock_us: int, i: int) -> None:
        """Close what is open of the machines that are forgotten because of reading ``i``."""
        state = work.state
        silent = state.silent_since(clock_us)
        # Machines that are forgotten at the same event have no order of their own.
        names = np.array(state.names(silent), object)
        gone = silent[np.argsort(names)]
        at = np.array([i])
        for change in episodes.close_forgotten(state.table, gone, state.newest_us(gone)):
            self._tell_episodes(work, at, [change._replace(row=0)])
        for machine in gone.tolist():
            self._tell_health(work, at, self.health.end(state.table, machine, clock_us))
        state.forget_silent(clock_us)

    def _tell_health(
        self, work: _Work, at: NDArray[np.int64], conditions: Sequence[health.Transition]
    ) -> None:
        state = work.state
        names = state.names(np.array([c.machine for c in conditions], np.int64))
        # Machines that fall silent at the same event have no order of their own.
        for condition, name in sorted(zip(conditions, names, strict=True), key=_by_event):
            message = sensor_health(self.spec, self.health.profile, condition, name.decode())
            state.touch(condition.machine)
            work.outputs.health[condition.kind, message.status] += 1
            record = Record("sensor-health", name, messages.encode(message))
            work.tell(int(at[max(condition.row, 0)]), record)

    def _tell_episodes(
        self, work: _Work, at: NDArray[np.int64], changes: Sequence[episodes.Transition]
    ) -> None:
        for change in changes:
            (name,) = work.state.names(np.array([change.machine]))
            found = explain(
                self.spec, change.contributions, change.values, change.expected, change.deviation
            )
            message = episodes.episode_message(
                change, name.decode(), found.reason, found.causes, self.version
            )
            work.outputs.episodes[change.status] += 1
            record = Record("anomaly-episodes", name, messages.encode(message))
            work.tell(int(at[change.row]), record)

    def _tell_anomalies(
        self,
        work: _Work,
        at: NDArray[np.int64],
        machines: NDArray[np.int64],
        values: NDArray[np.float64],
        signals: NDArray[np.float64],
        scores: Scores,
        opened: Opened,
    ) -> None:
        readings, chunk = work.readings, work.chunk
        for k in np.flatnonzero(scores.anomaly_score < scores.threshold).tolist():
            i = int(at[k])
            name = readings.machine_ids[i].decode()
            opened_us = opened.at(k, int(machines[k]))
            found = self.explain_reading(readings, i, signals, scores, k)
            categories = readings.categories | readings.codes
            offset = int(chunk.offsets[readings.rows[i]])
            message = messages.Anomaly(
                id=messages.record_id(chunk.topic, chunk.partition, offset),
                machine_id=name,
                timestamp=messages.format_time_us(int(readings.times_us[i])),
                is_anomaly=True,
                anomaly_score=float(scores.anomaly_score[k]),
                threshold=float(scores.threshold[k]),
                confidence=float(scores.confidence[k]),
                experience=float(scores.experience[k]),
                severity=self.episodes.severity(
                    float(scores.anomaly_score[k]),
                    float(scores.threshold[k]),
                    scores.contributions[k],
                ),
                episode_id=None if opened_us is None else episodes.episode_id(name, opened_us),
                reason=found.reason,
                causes=found.causes,
                values={
                    channel.name: None if np.isnan(value) else float(value)
                    for channel, value in zip(self.spec.continuous, values[k], strict=True)
                },
                channels=[
                    channel.name
                    for channel, value in zip(self.spec.continuous, values[k], strict=True)
                    if not np.isnan(value)
                ]
                + [name for name, column in readings.codes.items() if column[i] is not None],
                categories={
                    channel: str(column[i])
                    for channel, column in categories.items()
                    if column[i] is not None
                },
                model_version=self.version,
            )
            record = Record("anomalies", readings.machine_ids[i], messages.encode(message))
            work.tell(i, record)


def _by_event(told: tuple[health.Transition, bytes]) -> tuple[int, bytes, int]:
    condition, name = told
    return condition.row, name, -1 if condition.channel is None else condition.channel
