"""The drift monitor of one group: partials in, findings out.

Owns the order in which things happen and what has to survive a restart, as rows of bytes. It is
deterministic in the partials it was given, and a partial that comes again adds nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from worker.core.channels import US_PER_S
from worker.core.drift import advice, contrasts
from worker.core.drift.comparison import Base
from worker.core.drift.episodes import Change, Episode, shown_by
from worker.core.drift.history import History
from worker.core.drift.judge import Finding, judge
from worker.core.drift.outputs import (
    CloseReason,
    DriftEvent,
    EventKind,
    Outputs,
    RetrainingRequest,
    WindowReport,
)
from worker.core.drift.partial import Partial
from worker.core.drift.reference import SCORE, Reference
from worker.core.drift.windows import Progress, Windows
from worker.core.errors import PartialError, StateError
from worker.core.messages import format_time_us

HOUR_US = 3600 * US_PER_S
DAY_US = 24 * HOUR_US
MAX_BASES = 8
HEAD = "head"
VERSION = 2
KINDS: tuple[EventKind, ...] = ("drift", "health")


@dataclass(frozen=True)
class Settings:
    """What the monitor goes by.

    Attributes:
        windows_us: lengths of the windows, shortest first.
        grace_us: how long after its end a window waits for late partials.
        patience_us: partitions that were silent for longer are not waited for.
        partitions: how many there are; 0: it is not known.
        alpha: false alarms that are tolerated, a window; divided among the groups.
        min_rows: windows with fewer rows are not judged.
        persistence: windows in a row that have to show a drift until it opens.
        recovery: windows in a row that must not show it until it closes.
        retrain_after_us: how long a drift has to last until retraining is asked for.
        retrain_again_us: how long after that it is not asked for again.
    """

    windows_us: tuple[int, ...] = (300 * US_PER_S, HOUR_US, DAY_US)
    grace_us: int = 300 * US_PER_S
    patience_us: int = HOUR_US
    alpha: float = 0.01
    min_rows: int = 30
    persistence: int = 2
    recovery: int = 3
    retrain_after_us: int = 6 * HOUR_US
    retrain_again_us: int = 7 * DAY_US
    partitions: int = 0


class _Head(msgspec.Struct):
    """All that is kept of a group but its windows and history.

    Attributes:
        bases: changes that were accepted: means and length of each, in slots.
        latest: the last window that drifted: its means and length.
        behaved: windows of the open drift in which the model behaved differently.
        asked_us: when retraining was last asked for.
    """

    version: int
    fingerprint: int
    progress: Progress
    drift: Episode
    health: Episode
    bases: list[tuple[bytes, float]] = []
    latest: tuple[bytes, float] | None = None
    behaved: int = 0
    asked_us: int = -1


class DriftMonitor:
    """Follows one group.

    Args:
        group: one of ``reference.groups``.
        model_version: ``name/version`` of the bundle, for messages.
    """

    def __init__(
        self, reference: Reference, group: str, settings: Settings, model_version: str
    ) -> None:
        self.reference, self.group = reference, group
        self.settings, self.model_version = settings, model_version
        self._usual = reference.groups[group]
        self._alpha = settings.alpha / len(reference.groups)
        self._windows = Windows(
            settings.windows_us, settings.grace_us, settings.patience_us, settings.partitions
        )
        self._head = _Head(
            VERSION, reference.fingerprint, self._windows.progress, Episode(), Episode()
        )
        self._history = History()
        self._deleted: set[str] = set()
        self._history_changed = False

    @classmethod
    def restore(
        cls,
        reference: Reference,
        group: str,
        settings: Settings,
        model_version: str,
        rows: Mapping[str, bytes],
    ) -> DriftMonitor:
        """Go on from the rows that :meth:`changes` gave; without any, begin.

        Raises:
            StateError: they are damaged, or of another version or reference.
        """
        monitor = cls(reference, group, settings, model_version)
        if HEAD not in rows:
            return monitor
        try:
            head = msgspec.msgpack.decode(_checked(rows[HEAD]), type=_Head)
            windows = {
                _window_key(key): Partial.from_bytes(value)
                for key, value in rows.items()
                if "|" in key
            }
            if "history" in rows:
                monitor._history = History.from_bytes(_checked(rows["history"]))
        except (msgspec.DecodeError, ValueError, PartialError, zlib.error) as error:
            raise StateError(
                f"the drift state of {group} cannot be read: {error}; delete it to begin anew."
            ) from error
        if head.version != VERSION or head.fingerprint != reference.fingerprint:
            raise StateError(
                f"the drift state of {group} is of another version or reference; it begins anew."
            )
        monitor._head = head
        known = {key: w for key, w in windows.items() if key[0] in settings.windows_us}
        monitor._windows.restore(head.progress, known)
        return monitor

    def changes(self) -> dict[str, bytes | None]:
        """Rows that changed since the last call, to be saved; None: to be deleted."""
        rows: dict[str, bytes | None] = {HEAD: _check(msgspec.msgpack.encode(self._head))}
        for length_us, start_us in sorted(self._windows.changed):
            window = self._windows.open.get((length_us, start_us))
            rows[f"{length_us}|{start_us}"] = None if window is None else window.to_bytes()
        self._windows.changed.clear()
        if self._history_changed:
            rows["history"] = _check(self._history.to_bytes())
            self._history_changed = False
        return rows

    def add(self, partial: Partial, heard_us: int = 0) -> Outputs:
        """Take a partial, and judge the windows that are complete with it.

        Args:
            heard_us: when it was written, by the clock of Kafka; always 0 where there is none.

        Raises:
            PartialError: it is of another reference or group; nothing changed.
        """
        if partial.fingerprint != self.reference.fingerprint or partial.group != self.group:
            raise PartialError(
                f"a drift partial of group {partial.group!r} is of another reference or group "
                f"than {self.group!r} of {self.model_version}; it cannot be used."
            )
        shape = (len(self.reference.columns), len(self._usual.centers))
        if (
            len(partial.counts) != shape[0]
            or len(partial.categories) != (self.reference.layout.category_starts[-1])
        ):
            raise PartialError("a drift partial has other columns than its reference.")
        repeated, late = self._windows.add(partial, heard_us)
        outputs = self._judge(self._windows.close())
        return replace(outputs, late=int(late), repeated=int(repeated))

    def flush(self) -> Outputs:
        """Close all windows, as at the end of a file."""
        return self._judge(self._windows.close(everything=True))

    def accept(self, at_us: int, features: Sequence[str] | None = None) -> Outputs:
        """Take the level of the last window that drifted as usual from now on, besides others.

        Args:
            features: only the level of these; all others stay where they were accepted last, or
                as in the training. None: all.

        Raises:
            PartialError: a feature is not in the reference; nothing changed.
        """
        head = self._head
        if features is not None:
            unknown = [name for name in features if name not in self.reference.columns]
            if unknown:
                raise PartialError(
                    f"the change of {unknown[0]!r} cannot be accepted: {self.model_version} has "
                    "no such feature."
                )
        if head.latest is not None:
            head.bases = [*head.bases, self._accepted(head.latest, features)][-MAX_BASES:]
            head.latest = None
        self._history.begin_anew(at_us)
        self._history_changed = True
        events = []
        for kind in KINDS:
            episode = self._episode(kind)
            if episode.is_open:
                length_us = episode.window_us
                change = episode.close(max(at_us, episode.last_us))
                report = WindowReport(
                    *(self.group, length_us, at_us, at_us, 0, 0.0, "ordinary"),
                    *("The change was accepted.", 0.0, 1.0),
                )
                events.append(self._event(kind, change, report, length_us, "accepted", None))
        return Outputs(events=tuple(events))

    def _accepted(
        self, latest: tuple[bytes, float], features: Sequence[str] | None
    ) -> tuple[bytes, float]:
        """The level (means and length) that is usual after features were accepted."""
        if features is None:
            return latest
        before = self._head.bases[-1][0] if self._head.bases else self._usual.centers.tobytes()
        means, moved = np.frombuffer(before, "<f8").copy(), np.frombuffer(latest[0], "<f8")
        kinds = len(contrasts.KINDS)
        for name in features:
            f = self.reference.columns.index(name)
            means[f * kinds : (f + 1) * kinds] = moved[f * kinds : (f + 1) * kinds]
        return means.tobytes(), latest[1]

    def _episode(self, kind: EventKind) -> Episode:
        return self._head.drift if kind == "drift" else self._head.health

    def _judge(self, windows: list[Partial]) -> Outputs:
        reports: list[WindowReport] = []
        events: list[DriftEvent] = []
        requests: list[RetrainingRequest] = []
        for window in windows:
            finding = self._hold(window)
            report = finding.report
            reports.append(report)
            if report.verdict in ("sparse", "blind"):
                continue
            self._history.add(report, finding.standard, finding.alone)
            self._history_changed = True
            if report.verdict == "drift":
                slots = max(window.rows / max(window.machines, 1.0), 1.0)
                self._head.latest = (finding.means.astype("<f8").tobytes(), slots)
            for kind in KINDS:
                episode = self._episode(kind)
                length_us = episode.window_us
                change = episode.follow(
                    report,
                    shown_by(report, kind),
                    self.settings.persistence,
                    self.settings.recovery,
                )
                if change == "closed":
                    self._history.begin_anew(report.end_us)
                if change is not None:
                    length_us = episode.window_us or length_us
                    reason: CloseReason | None = "recovered" if change == "closed" else None
                    events.append(self._event(kind, change, report, length_us, reason, window))
            requests += self._retraining(report)
        return Outputs(tuple(reports), tuple(events), tuple(requests))

    def _hold(self, window: Partial) -> Finding:
        """Hold a window against the reference, then against what was accepted."""
        usual = (self.reference, self._usual, window, self._alpha, self.settings.min_rows)
        past = self._history.past(window.end_us - window.start_us, window.start_us)
        first = judge(*usual, past=past)
        if first.report.verdict != "drift":
            return first
        best = first
        for means, slots in reversed(self._head.bases):
            other = judge(*usual, Base(np.frombuffer(means, "<f8"), slots), past)
            if other.report.verdict == "ordinary":
                return other
            # What was accepted is no news, whatever else drifted.
            if _distance(other) < _distance(best):
                best = other
        return best

    def _event(
        self,
        kind: EventKind,
        change: Change,
        report: WindowReport,
        length_us: int,
        close_reason: CloseReason | None,
        window: Partial | None,
    ) -> DriftEvent:
        episode = self._episode(kind)
        drifted = tuple(one for one in report.features if one.drifted)
        if change == "opened":
            episode.began_us = self._history.began_us(
                self.reference, report, episode.first_us, episode.closed_us
            )
        what = advice.advise(self.reference, self._history, report, kind)
        machines = advice.machines_of(self.reference, self._usual, window, report)
        since = format_time_us(episode.began_us)
        reason = f"{report.sentence} Since {since}." if change != "closed" else report.sentence
        return DriftEvent(
            id=_event_id(self.group, kind, episode),
            group=self.group,
            kind=kind,
            status=change,
            sequence=episode.sequence,
            began_us=episode.began_us,
            opened_us=episode.opened_us,
            last_us=episode.last_us,
            closed_us=episode.closed_us if change == "closed" else None,
            close_reason=close_reason,
            window_us=length_us,
            score=report.score,
            p_value=report.p_value,
            features=drifted,
            machines=machines,
            advice=what,
            reason=reason,
            reference=self.reference.hash,
            model_version=self.model_version,
        )

    def _retraining(self, report: WindowReport) -> list[RetrainingRequest]:
        """Ask for it when a drift lasts, and the model's scores or alarms changed with it."""
        head, episode = self._head, self._head.drift
        if not episode.is_open:
            head.behaved = 0
            return []
        if report.window_us != episode.window_us:
            return []
        names = [one.feature for one in report.features if one.drifted and one.feature == SCORE]
        names += [test.name for test in report.joint if test.voted and test.name == "alarm-rate"]
        head.behaved += bool(names)
        lasted_us = report.end_us - episode.began_us
        again_us = head.asked_us + self.settings.retrain_again_us if head.asked_us >= 0 else 0
        if (
            not names
            or head.behaved < self.settings.persistence
            or lasted_us < self.settings.retrain_after_us
            or report.end_us < again_us
        ):
            return []
        head.asked_us = report.end_us
        event_id = _event_id(self.group, "drift", episode)
        return [
            RetrainingRequest(
                id=f"{event_id}#retraining@{format_time_us(report.end_us)}",
                group=self.group,
                event_id=event_id,
                at_us=report.end_us,
                reason=f"Drift has lasted {lasted_us / HOUR_US:.1f} h, and with it "
                f"{' and '.join(names)} changed. {report.sentence}",
                reference=self.reference.hash,
                model_version=self.model_version,
            )
        ]


def _distance(finding: Finding) -> float:
    return float((finding.standard**2).sum())


def last_words(
    group: str, rows: Mapping[str, bytes], reference: Reference, model_version: str
) -> tuple[DriftEvent, ...]:
    """Close what is open in the rows of a monitor whose reference was replaced.

    Args:
        rows: as :meth:`DriftMonitor.changes` gave them; of what cannot be read nothing is known.
        reference, model_version: those that took their place.
    """
    try:
        head = msgspec.msgpack.decode(_checked(rows[HEAD]), type=_Head)
    except (KeyError, ValueError, PartialError):
        return ()
    if head.fingerprint == reference.fingerprint:
        return ()
    return tuple(
        _replaced(group, kind, episode, reference, model_version)
        for kind, episode in zip(KINDS, (head.drift, head.health), strict=True)
        if episode.is_open
    )


def _replaced(
    group: str, kind: EventKind, episode: Episode, reference: Reference, model_version: str
) -> DriftEvent:
    window_us = episode.window_us
    episode.close(episode.last_us)
    return DriftEvent(
        id=_event_id(group, kind, episode),
        group=group,
        kind=kind,
        status="closed",
        sequence=episode.sequence,
        began_us=episode.began_us,
        opened_us=episode.opened_us,
        last_us=episode.last_us,
        closed_us=episode.closed_us,
        close_reason="new-reference",
        window_us=window_us,
        score=0.0,
        p_value=1.0,
        features=(),
        machines=(),
        advice="unclear",
        reason=f"{model_version} has another reference, which drift is held against from now on.",
        reference=reference.hash,
        model_version=model_version,
    )


def _event_id(group: str, kind: EventKind, episode: Episode) -> str:
    suffix = "" if kind == "drift" else "/health"
    return f"{group}@{format_time_us(episode.opened_us)}{suffix}"


def _check(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(4, "little") + body


def _checked(row: bytes) -> bytes:
    if len(row) < 4 or zlib.crc32(row[4:]) != int.from_bytes(row[:4], "little"):
        raise ValueError("its checksum differs")
    return row[4:]


def _window_key(key: str) -> tuple[int, int]:
    length, _, start = key.partition("|")
    return int(length), int(start)
