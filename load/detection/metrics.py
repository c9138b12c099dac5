"""What is measured: rows, events and the gaps between parts of a set.

An event is *caught* when an episode of its machine opens while it is in force. An episode is
*false* when it opens in quiet time: outside of every event (also of sensors, and of drift) and
of one long scale after it, in which its traces can still be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from load.detection.cases import US_PER_DAY, Case, Event, Flags, Floats
from load.detection.detectors import Detections, Episode

US_PER_MIN = 60_000_000


class Caught(NamedTuple):
    """How one event was found.

    Attributes:
        delay_us: from its beginning to the opening; None: not found.
        channels: of the episode, by contribution.
    """

    event: Event
    delay_us: int | None
    channels: tuple[str, ...]


class Outcome(NamedTuple):
    """One detector on one case.

    Attributes:
        right, false, beside: episodes that found an event; in quiet time; and neither.
        quiet_days: machine-days of quiet time.
        by_sensors: machine episodes that opened while a sensor was faulty.
        swept: rows at which episodes opened, at one budget after the other; empty where it is
            the score that is swept.
    """

    case: Case
    detections: Detections
    caught: tuple[Caught, ...]
    right: int
    false: int
    beside: int
    quiet_days: float
    by_sensors: int
    swept: tuple[tuple[int, ...], ...] = ()


def judge(case: Case, detections: Detections) -> Outcome:
    """Compare what was detected with the truth."""
    by_machine: dict[str, list[Event]] = {m: [] for m in np.unique(case.test.machine_ids)}
    for event in case.events:
        by_machine[event.machine_id].append(event)
    opened: dict[str, list[Episode]] = {machine: [] for machine in by_machine}
    for episode in detections.episodes:
        opened[episode.machine_id].append(episode)
    right = false = beside = by_sensors = 0
    for machine, episodes in opened.items():
        for episode in episodes:
            within = [e for e in by_machine[machine] if e.start_us <= episode.opened_us <= e.end_us]
            near = any(
                e.start_us <= episode.opened_us <= e.end_us + case.recovery_us
                for e in by_machine[machine]
            )
            found = any(e.category == "machine" for e in within)
            right += found
            false += not near
            beside += near and not found
            by_sensors += any(e.category == "sensor" for e in within) and not found
    return Outcome(
        case,
        detections,
        tuple(_find(event, opened[event.machine_id]) for event in case.events),
        right,
        false,
        beside,
        _quiet_days(case, by_machine),
        by_sensors,
    )


def _find(event: Event, episodes: Sequence[Episode]) -> Caught:
    for episode in sorted(episodes, key=lambda e: e.opened_us):
        if event.start_us <= episode.opened_us <= event.end_us:
            return Caught(event, episode.opened_us - event.start_us, episode.channels)
    return Caught(event, None, ())


def _quiet_days(case: Case, by_machine: dict[str, list[Event]]) -> float:
    rows = 0
    for machine, own in case.test.by_machine().items():
        times_us = case.test.times_us[own]
        busy = np.zeros(len(own), np.bool_)
        for event in by_machine[machine]:
            busy |= (times_us >= event.start_us) & (times_us <= event.end_us + case.recovery_us)
        rows += int((~busy).sum())
    return rows * case.interval_us / US_PER_DAY


def row_measures(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Measures of single readings, over all cases together; a reading without score is normal."""
    labels = np.concatenate([o.case.labels for o in outcomes])
    flagged = np.concatenate([o.detections.is_anomaly for o in outcomes])
    scores = np.concatenate([o.detections.anomaly_score for o in outcomes])
    return _of_rows(labels, flagged, np.nan_to_num(-scores, nan=-np.inf))


def _of_rows(labels: Flags, flagged: Flags, scores: Floats) -> dict[str, float]:
    hit = int((labels & flagged).sum())
    false = int((~labels & flagged).sum())
    missed = int((labels & ~flagged).sum())
    normal = int((~labels & ~flagged).sum())
    measures = {
        "f1": hit / max(hit + (false + missed) / 2.0, 1.0),
        "far_pct": 100.0 * false / max(false + normal, 1),
        "mar_pct": 100.0 * missed / max(missed + hit, 1),
        "accuracy_pct": 100.0 * (hit + normal) / len(labels),
    }
    if labels.any() and not labels.all():
        ranks = np.maximum(scores, np.finfo(np.float64).min)
        measures["roc_auc"] = float(roc_auc_score(labels, ranks))
        measures["pr_auc"] = float(average_precision_score(labels, ranks))
    return measures


def event_measures(outcomes: Sequence[Outcome], budget: float) -> dict[str, float]:
    """Measures of events and episodes, over all cases together.

    Where each event is a single reading, it is caught when that reading is anomalous, and its
    channels are that reading's.
    """
    caught = [c for o in outcomes for c in _caught(o) if c.event.category == "machine"]
    found = [c for c in caught if c.delay_us is not None]
    right, false = sum(o.right for o in outcomes), sum(o.false for o in outcomes)
    quiet_days = sum(o.quiet_days for o in outcomes)
    named = [c for c in found if c.event.channels]
    drifts = [c for o in outcomes for c in o.caught if c.event.category == "drift"]
    measures: dict[str, float] = {
        "events": len(caught),
        "caught": len(found),
        "recall": len(found) / max(len(caught), 1),
        "episodes": sum(len(o.detections.episodes) for o in outcomes),
        "precision": right / max(right + false, 1),
        "false_episodes": false,
        "false_per_machine_day": false / quiet_days if quiet_days else 0.0,
        "false_of_budget_ratio": false / (budget * quiet_days) if quiet_days else 0.0,
        "during_sensor_faults": sum(o.by_sensors for o in outcomes),
    }
    if found:
        delays = [c.delay_us for c in found if c.delay_us is not None]
        measures["delay_min"] = float(np.median(delays)) / US_PER_MIN
    if named:
        measures["right_channel_1"] = _share_right(named, 1)
        measures["right_channel_3"] = _share_right(named, 3)
    sensors = [
        _reported(event, o)
        for o in outcomes
        if o.detections.health
        for event in o.case.events
        if event.category == "sensor"
    ]
    if sensors:
        measures["sensor_faults"] = len(sensors)
        measures["sensor_faults_reported"] = sum(sensors)
    if drifts:
        measures["drifts"] = len(drifts)
        measures["drifts_caught"] = sum(c.delay_us is not None for c in drifts)
    return measures


def _reported(event: Event, outcome: Outcome) -> bool:
    """Whether the sensor's fault was reported while it lasted, or up to one long scale after."""
    end_us = event.end_us + outcome.case.recovery_us
    return any(
        c.machine_id == event.machine_id
        and (c.channel is None or c.channel in event.channels)
        and event.start_us <= c.opened_us <= end_us
        for c in outcome.detections.health
    )


def _caught(outcome: Outcome) -> Sequence[Caught]:
    if outcome.case.unit == "event":
        return outcome.caught
    row_of = {int(t): row for row, t in enumerate(outcome.case.test.times_us)}
    found = []
    for event in outcome.case.events:
        row = row_of[event.start_us]
        hit = bool(outcome.detections.is_anomaly[row])
        top = tuple(outcome.detections.top_channels[row]) if hit else ()
        found.append(Caught(event, 0 if hit else None, top))
    return found


def _share_right(found: Sequence[Caught], ranks: int) -> float:
    return sum(bool(set(c.channels[:ranks]) & set(c.event.channels)) for c in found) / len(found)


def kind_measures(outcomes: Sequence[Outcome]) -> dict[str, tuple[int, int]]:
    """Caught and all events by kind, of machines and of drift."""
    counts: dict[str, tuple[int, int]] = {}
    for outcome in outcomes:
        for c in _caught(outcome):
            if c.event.category != "sensor":
                hits, total = counts.get(c.event.kind, (0, 0))
                counts[c.event.kind] = hits + (c.delay_us is not None), total + 1
    return dict(sorted(counts.items()))


def slice_measures(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """Row measures of each part of a set, such as the machines of one type."""
    names: NDArray[np.str_] = np.concatenate([o.case.slices for o in outcomes])
    labels = np.concatenate([o.case.labels for o in outcomes])
    flagged = np.concatenate([o.detections.is_anomaly for o in outcomes])
    scores = np.nan_to_num(
        -np.concatenate([o.detections.anomaly_score for o in outcomes]), nan=-np.inf
    )
    return {
        str(name): {**_of_rows(labels[own], flagged[own], scores[own]), "rows": int(own.sum())}
        for name in np.unique(names)
        if name
        for own in [names == name]
    }


def gap(slices: dict[str, dict[str, float]], measure: str) -> float:
    """Best minus worst part of a set; 0 where there are fewer than two."""
    values = [part[measure] for part in slices.values() if measure in part]
    return max(values) - min(values) if len(values) > 1 else 0.0


def flat(measures: dict[str, Any], digits: int = 4) -> dict[str, Any]:
    """Numbers rounded for a file."""
    return {k: round(v, digits) if isinstance(v, float) else v for k, v in measures.items()}
