from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.strategies import make_spec
from worker.core.episode_kernel import severity_level
from worker.core.episodes import (
    FIELDS,
    LEVELS,
    EpisodeRules,
    Episodes,
    Evidence,
    Opened,
    Transition,
    close_forgotten,
    episode_message,
)
from worker.core.messages import Cause, Episode, encode
from worker.core.table import MachineTable

SPEC = make_spec(2)
SIGNALS = 4
"""Two channels and two that are derived from them."""
SCALE_US = 400
MACHINES = 3
DEFAULTS = EpisodeRules()


@dataclass(frozen=True)
class Event:
    """A scored reading; its threshold is 0."""

    machine: int
    time_us: int
    score: float = -0.2
    maintained: bool = False
    contributions: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0)
    scale_us: int = SCALE_US

    @property
    def anomalous(self) -> bool:
        return self.score < 0.0 and not self.maintained


def fresh() -> MachineTable:
    table = MachineTable(FIELDS, {"signal": SIGNALS}, MACHINES)
    table.reset(np.arange(MACHINES))
    return table


def restarted(table: MachineTable) -> MachineTable:
    """A table that was read back from what this one saved."""
    copy = MachineTable(FIELDS, {"signal": SIGNALS}, MACHINES)
    copy.load(np.arange(MACHINES), table.records(np.arange(MACHINES)))
    return copy


def apply(
    table: MachineTable, events: Sequence[Event], rules: EpisodeRules = DEFAULTS
) -> list[Transition]:
    n = len(events)
    contributions = np.array([e.contributions for e in events], np.float32).reshape(n, SIGNALS)
    return Episodes(SPEC, rules).follow(
        table,
        np.array([e.machine for e in events], np.int64),
        np.array([e.time_us for e in events], np.int64),
        np.array([e.scale_us for e in events], np.int64),
        np.array([e.maintained for e in events], np.bool_),
        Evidence(
            np.array([e.score for e in events], np.float64),
            np.zeros(n),
            contributions,
            np.array([[e.time_us + d for d in range(SIGNALS)] for e in events], np.float64).reshape(
                n, SIGNALS
            ),
            np.full((n, SIGNALS), 7.0),
            contributions * np.float32(2.0),
        ),
    )


def told(transitions: Sequence[Transition]) -> list[tuple[str, int]]:
    """What was published, and at which of the events."""
    return [(t.status, t.row) for t in transitions]


def plain(transition: Transition) -> dict[str, Any]:
    """All fields but the position, comparable."""
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in transition._asdict().items()
        if name != "row"
    }


@dataclass
class Open:
    """An episode, or what may become one."""

    readings: list[Event]
    normal_us: list[int] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    mean: list[float] = field(default_factory=lambda: [0.0] * SIGNALS)

    @property
    def last_us(self) -> int:
        return max(e.time_us for e in self.readings)

    @property
    def began_us(self) -> int:
        return min(e.time_us for e in self.readings)


class Reference:
    """The rules of one machine in plain words; keeps every reading."""

    def __init__(self, rules: EpisodeRules) -> None:
        self.rules = rules
        self.current: Open | None = None
        self.closed_us: int | None = None

    def gap_us(self, event: Event) -> int:
        given = self.rules.merge_gap_us
        return event.scale_us // 4 if given is None else given

    def take(self, event: Event) -> dict[str, Any] | None:
        if event.anomalous:
            return self.anomalous(event)
        if self.current is None or event.time_us < self.current.last_us:
            return None
        if event.maintained:
            return self.close(event.time_us, "maintenance")
        if event.time_us == self.current.last_us:
            return None
        self.current.normal_us.append(event.time_us)
        if event.time_us - min(self.current.normal_us) >= self.gap_us(event):
            return self.close(event.time_us, "recovered")
        return None

    def close(self, time_us: int, reason: str) -> dict[str, Any] | None:
        assert self.current is not None
        current, self.current = self.current, None
        if not current.told:
            return None
        self.closed_us = time_us
        return {**current.told[-1], **self.sums(current)} | {
            "status": "closed",
            "sequence": len(current.told) + 1,
            "closed_us": time_us,
            "close_reason": reason,
        }

    def sums(self, current: Open) -> dict[str, Any]:
        worst = min(current.readings, key=lambda e: e.score)
        return {
            "began_us": current.began_us,
            "last_us": current.last_us,
            "anomalies": len(current.readings),
            "score": worst.score,
            "worst_us": worst.time_us,
            "contributions": list(current.mean),
            "values": [float(np.float32(worst.time_us + d)) for d in range(SIGNALS)],
            "expected": [7.0] * SIGNALS,
            "deviation": [float(2 * np.float32(c)) for c in worst.contributions],
        }

    def level(self, sums: dict[str, Any], event: Event) -> int:
        depth = float(np.float32(-sums["score"]))
        duration = (sums["last_us"] - sums["began_us"]) / event.scale_us
        total = sum(sums["contributions"][:2])
        squares = sum(c * c for c in sums["contributions"][:2])
        channels = 1.0 - squares / total**2 if total else 0.0
        spared = (1 - depth) * (1 - duration / (1 + duration) / 2) * (1 - channels / 2)
        return 2 if 1 - spared >= 2 / 3 else 1 if 1 - spared >= 1 / 3 else 0

    def anomalous(self, event: Event) -> dict[str, Any] | None:
        if self.closed_us is not None and event.time_us <= self.closed_us:
            return None
        if self.current is None:
            self.current = Open([])
        current = self.current
        current.readings.append(event)
        count = len(current.readings)
        current.mean = [
            float(np.float32(mean + (c - mean) / count))
            for mean, c in zip(current.mean, event.contributions, strict=True)
        ]
        current.normal_us = [
            t for t in current.normal_us if min(current.normal_us) > current.last_us
        ]
        sums = self.sums(current)
        level = self.level(sums, event)
        top = int(np.argmax(sums["contributions"]))
        message = {"machine": event.machine, "sequence": len(current.told) + 1, **sums} | {
            "closed_us": None,
            "close_reason": None,
            "top": top,
        }
        if not current.told:
            gap_us = self.gap_us(event)
            cool_us = gap_us if self.rules.cool_down_us is None else self.rules.cool_down_us
            too_short = current.last_us - current.began_us < self.rules.minimum_us
            if too_short or (
                self.closed_us is not None and current.last_us <= self.closed_us + cool_us
            ):
                return None
            message |= {"status": "opened", "opened_us": current.last_us, "severity": LEVELS[level]}
        else:
            before = current.told[-1]
            level = max(level, LEVELS.index(before["severity"]))
            since_us = current.last_us - before["last_us"]
            if top == before["top"]:
                quiet_us = max(before["last_us"] - current.began_us, event.scale_us)
            else:
                quiet_us = self.gap_us(event)
            due = LEVELS[level] != before["severity"] or since_us >= quiet_us
            if not due:
                return None
            message |= {
                "status": "updated",
                "opened_us": before["opened_us"],
                "severity": LEVELS[level],
            }
        current.told.append(message)
        return message


@st.composite
def streams(draw: st.DrawFn, max_size: int = 60) -> list[Event]:
    """Events in arrival order: runs of normal and anomalous ones, gaps, and steps back."""
    newest_us = dict.fromkeys(range(MACHINES), 10_000)
    events = []
    step = st.one_of(st.integers(0, 60), st.integers(-150, 150), st.sampled_from([100, 400, 5000]))
    for machine, mood, steps in draw(
        st.lists(
            st.tuples(
                st.integers(0, MACHINES - 1),
                st.sampled_from(["normal", "anomalous", "maintained"]),
                st.lists(step, min_size=1, max_size=8),
            ),
            max_size=max_size // 4,
        )
    ):
        for forward_us in steps:
            time_us = newest_us[machine] + forward_us
            newest_us[machine] = max(newest_us[machine], time_us)
            score = draw(st.sampled_from([-1e-3, -0.2, -0.5, -0.9])) if mood != "normal" else 0.3
            tenths = draw(st.tuples(*[st.integers(0, 30)] * SIGNALS))
            events.append(
                Event(machine, time_us, score, mood == "maintained", tuple(c / 8 for c in tenths))
            )
    return events


def any_rules() -> st.SearchStrategy[EpisodeRules]:
    times_us = st.sampled_from([None, 0, 1, 50, 100, 300])
    return st.builds(
        EpisodeRules,
        merge_gap_us=times_us,
        cool_down_us=times_us,
        minimum_us=st.sampled_from([0, 0, 40, 200]),
    )


@settings(max_examples=300, deadline=None)
@given(streams(), any_rules())
def test_transitions_equal_the_reference_in_any_order_of_arrival(
    events: list[Event], chosen: EpisodeRules
) -> None:
    references = {machine: Reference(chosen) for machine in range(MACHINES)}
    expected = [(i, references[e.machine].take(e)) for i, e in enumerate(events)]
    found = apply(fresh(), events, chosen)
    assert [t.row for t in found] == [i for i, message in expected if message]
    for transition, (_, message) in zip(found, [x for x in expected if x[1]], strict=True):
        assert message is not None
        ours = plain(transition)
        for name in ("contributions", "expected", "deviation", "values"):
            assert ours.pop(name) == pytest.approx(message.pop(name), rel=1e-6, abs=1e-6)
        message.pop("top")
        assert ours == message


@settings(max_examples=100, deadline=None)
@given(streams(), any_rules(), st.lists(st.integers(0, 60), max_size=5))
def test_cuts_and_restarts_change_nothing(
    events: list[Event], chosen: EpisodeRules, cuts: list[int]
) -> None:
    whole_table, table = fresh(), fresh()
    whole = apply(whole_table, events, chosen)
    parts: list[Transition] = []
    ends = [*sorted(min(c, len(events)) for c in cuts), len(events)]
    for start, end in zip([0, *ends], ends, strict=False):
        table = restarted(table)
        parts += [t._replace(row=t.row + start) for t in apply(table, events[start:end], chosen)]
    assert [(t.row, plain(t)) for t in parts] == [(t.row, plain(t)) for t in whole]
    rows = np.arange(MACHINES)
    assert table.records(rows).tobytes() == whole_table.records(rows).tobytes()


@settings(max_examples=100, deadline=None)
@given(streams(), any_rules())
def test_a_machines_episodes_alternate_are_numbered_and_never_share_an_id(
    events: list[Event], chosen: EpisodeRules
) -> None:
    table = fresh()
    found = apply(table, events, chosen)
    rows = np.arange(MACHINES)
    found += close_forgotten(table, rows, np.full(MACHINES, 10**6))
    by_machine = defaultdict(list)
    for transition in found:
        by_machine[transition.machine].append(transition)
        if transition.row >= 0:
            assert not (transition.status != "closed" and events[transition.row].maintained)
    for transitions in by_machine.values():
        ids = [t.opened_us for t in transitions if t.status == "opened"]
        assert len(set(ids)) == len(ids)
        closes = [t for t in transitions if t.status == "closed"]
        assert [t.opened_us for t in closes] == ids
        for before, after in pairwise(transitions):
            if before.status == "closed":
                assert after.status == "opened"
                assert before.closed_us is not None
                assert after.began_us > before.closed_us
            else:
                assert after.status in ("updated", "closed")
                assert after.opened_us == before.opened_us
                assert after.sequence == before.sequence + 1
                assert LEVELS.index(after.severity) >= LEVELS.index(before.severity)


@settings(max_examples=50, deadline=None)
@given(streams(), any_rules(), st.integers(0, MACHINES - 1))
def test_a_machines_episodes_do_not_depend_on_the_others(
    events: list[Event], chosen: EpisodeRules, machine: int
) -> None:
    together = [plain(t) for t in apply(fresh(), events, chosen) if t.machine == machine]
    alone = apply(fresh(), [e for e in events if e.machine == machine], chosen)
    assert [plain(t) for t in alone] == together


def test_one_anomalous_reading_opens_an_episode_and_a_quarter_of_the_scale_closes_it() -> None:
    events = [Event(0, 0, 0.1), Event(0, 10), Event(0, 20, 0.1)]
    events += [Event(0, 119, 0.1), Event(0, 120, 0.1)]
    opened, closed = apply(fresh(), events)
    assert (opened.status, opened.row, opened.opened_us) == ("opened", 1, 10)
    assert (closed.status, closed.row, closed.closed_us) == ("closed", 4, 120)
    assert (closed.close_reason, closed.anomalies, closed.sequence) == ("recovered", 1, 2)


def test_anomalous_readings_closer_than_the_merge_gap_are_one_episode() -> None:
    events = [Event(0, t, -0.2 if t % 90 == 0 else 0.1) for t in range(0, 1000, 10)]
    found = apply(fresh(), events)
    assert [t.status for t in found if t.status != "updated"] == ["opened"]


def test_a_machine_that_fell_silent_is_not_taken_for_normal() -> None:
    events = [Event(0, 0), Event(0, 100_000)]
    assert [t.status for t in apply(fresh(), events)] == ["opened", "updated"]
    recovered = [Event(0, 0), Event(0, 100_000, 0.1), Event(0, 100_100, 0.1)]
    assert told(apply(fresh(), recovered)) == [("opened", 0), ("closed", 2)]


def test_a_late_reading_of_an_episode_that_was_closed_opens_no_other() -> None:
    events = [Event(0, 0), Event(0, 10, 0.1), Event(0, 110, 0.1), Event(0, 5), Event(0, 110)]
    for chosen in (DEFAULTS, EpisodeRules(cool_down_us=0)):
        assert told(apply(fresh(), events, chosen)) == [("opened", 0), ("closed", 2)]
    opened = apply(fresh(), [*events, Event(0, 111)], EpisodeRules(cool_down_us=0))[-1]
    assert (opened.opened_us, opened.began_us, opened.anomalies) == (111, 111, 1)


def test_of_two_readings_of_one_time_the_anomalous_one_counts() -> None:
    events = [Event(0, 0), Event(0, 50, 0.1), Event(0, 50), Event(0, 150, 0.1), Event(0, 250, 0.1)]
    assert told(apply(fresh(), events)) == [("opened", 0), ("closed", 4)]


def test_what_is_still_anomalous_after_the_cool_down_opens_an_episode() -> None:
    chosen = EpisodeRules(merge_gap_us=10, cool_down_us=50)
    events = [Event(0, 0), Event(0, 1, 0.1), Event(0, 11, 0.1), Event(0, 30), Event(0, 61)]
    found = apply(fresh(), [*events, Event(0, 62)], chosen)
    assert told(found) == [("opened", 0), ("closed", 2), ("opened", 5)]
    assert (found[2].opened_us, found[2].began_us, found[2].anomalies) == (62, 30, 3)


def test_a_blip_within_the_cool_down_is_no_episode() -> None:
    chosen = EpisodeRules(merge_gap_us=10, cool_down_us=50)
    events = [Event(0, 0), Event(0, 1, 0.1), Event(0, 11, 0.1), Event(0, 30)]
    events += [Event(0, 40, 0.1), Event(0, 50, 0.1), Event(0, 100, 0.1)]
    assert told(apply(fresh(), events, chosen)) == [("opened", 0), ("closed", 2)]


def test_a_minimum_duration_holds_short_ones_back() -> None:
    chosen = EpisodeRules(merge_gap_us=10, minimum_us=20)
    blip = [Event(0, 0), Event(0, 1, 0.1), Event(0, 11, 0.1)]
    lasting = [Event(0, 20), Event(0, 30, 0.1), Event(0, 39), Event(0, 40)]
    (opened,) = apply(fresh(), [*blip, *lasting], chosen)
    assert (opened.opened_us, opened.began_us, opened.anomalies) == (40, 20, 3)


def test_what_was_dropped_as_too_short_leaves_nothing_behind() -> None:
    chosen = EpisodeRules(merge_gap_us=10, minimum_us=20)
    dropped = [Event(0, 0), Event(0, 5, 0.1), Event(0, 15, 0.1)]
    late = [Event(0, 3), Event(0, 14, 0.1), Event(0, 15, 0.1), Event(0, 23)]
    (opened,) = apply(fresh(), [*dropped, *late], chosen)
    assert (opened.row, opened.began_us, opened.anomalies) == (6, 3, 2)


def test_planned_maintenance_closes_an_episode_and_opens_none() -> None:
    events = [Event(0, 0), Event(0, 10, -0.9, maintained=True), Event(0, 20, -0.9, maintained=True)]
    opened, closed = apply(fresh(), events)
    assert (closed.row, closed.close_reason, closed.closed_us) == (1, "maintenance", 10)
    assert closed.anomalies == opened.anomalies == 1


def test_maintenance_that_begins_at_the_very_time_of_a_reading_closes_its_episode() -> None:
    assert told(apply(fresh(), [Event(0, 0), Event(0, 0, maintained=True)])) == [
        ("opened", 0),
        ("closed", 1),
    ]


def test_a_late_reading_of_the_maintenance_before_does_not_close_an_episode() -> None:
    events = [Event(0, 20), Event(0, 10, -0.9, maintained=True)]
    assert told(apply(fresh(), events)) == [("opened", 0)]


def test_a_machine_that_is_forgotten_leaves_no_episode_open() -> None:
    table = fresh()
    apply(table, [Event(0, 0), Event(1, 0, 0.1), Event(2, 50)])
    found = close_forgotten(table, np.array([0, 1]), np.array([500, 500]))
    assert [(t.machine, t.status, t.close_reason, t.closed_us, t.row) for t in found] == [
        (0, "closed", "forgotten", 500, -1)
    ]
    assert close_forgotten(table, np.array([0, 1]), np.array([500, 500])) == []


def test_each_event_is_known_to_belong_to_the_episode_that_is_open_then() -> None:
    table = fresh()
    apply(table, [Event(0, 10), Event(1, 20, 0.1)])
    later = [Event(1, 30, 0.1), Event(0, 40), Event(1, 50), Event(0, 60, -0.9, True), Event(0, 70)]
    machines = np.array([event.machine for event in later])
    opened = Opened(table, machines)
    opened.note(apply(table, later))
    found = [opened.at(row, int(machine)) for row, machine in enumerate(machines)]
    assert found == [None, 10, 50, None, None]


def test_updates_are_few_however_long_an_episode_lasts() -> None:
    events = [Event(0, t) for t in range(0, 1_000_000, 10)]
    found = apply(fresh(), events)
    # At most two for severity, else each time the duration has doubled.
    assert len(found) <= 1 + 2 + np.log2(1_000_000 / SCALE_US) + 1
    assert found[-1].last_us > 500_000


def test_another_channel_that_takes_the_lead_is_told_but_not_at_once() -> None:
    first, second = (1.0, 0.0, 0.0, 0.0), (0.0, 9.0, 0.0, 0.0)
    events = [Event(0, 0, contributions=first)]
    events += [Event(0, t, contributions=second) for t in (10, 20, 100, 110)]
    found = apply(fresh(), events)
    assert [(t.row, int(np.argmax(t.contributions))) for t in found] == [(0, 0), (3, 1)]


def test_severity_rises_with_size_duration_and_channels_alone() -> None:
    one = np.array([3.0, 0.0, 0.0], np.float32)
    both = np.array([3.0, 3.0, 0.0], np.float32)
    assert severity_level(0.1, 0.0, one, 3, 3) == 0
    assert severity_level(0.35, 0.0, one, 3, 3) == 1
    assert severity_level(0.7, 0.0, one, 3, 3) == 2
    assert severity_level(0.1, 3.0, one, 3, 3) == 1
    assert severity_level(0.2, 0.5, one, 3, 3) == 0
    assert severity_level(0.2, 0.5, both, 3, 3) == 1
    # A derived signal is no further channel; one that comes after it is.
    assert severity_level(0.2, 0.5, both, 1, 2) == 0
    assert severity_level(0.2, 0.5, both[[0, 2, 1]], 1, 2) == 1


def test_an_episode_survives_another_model() -> None:
    table = fresh()
    (opened,) = apply(table, [Event(0, 0)])
    # Another model has another scale and other thresholds; the table goes on.
    (closed,) = apply(table, [Event(0, 10, 0.1, scale_us=40), Event(0, 20, 0.1, scale_us=40)])
    assert (closed.opened_us, closed.sequence) == (opened.opened_us, 2)


def test_a_message_tells_the_whole_episode_under_one_id() -> None:
    events = [Event(0, 1_772_432_130_250_000, -0.7), Event(0, 1_772_432_130_250_010, 0.1)]
    events.append(replace(events[1], time_us=1_772_432_130_250_110))
    opened, closed = apply(fresh(), events)
    cause = Cause("c0", "c0", "u", 7.5, 2.5, 8.25)
    first, last = (episode_message(t, "mill-07", "why", [cause], "m/1") for t in (opened, closed))
    assert isinstance(first, Episode)
    assert first.id == last.id == "mill-07@2026-03-02T06:15:30.250000Z"
    assert (first.status, first.sequence, first.closed_at) == ("opened", 1, None)
    assert (last.status, last.sequence) == ("closed", 2)
    assert last.closed_at == "2026-03-02T06:15:30.250110Z"
    assert (last.severity, last.anomalies, last.anomaly_score) == ("high", 1, -0.7)
    assert encode(first) == encode(episode_message(opened, "mill-07", "why", [cause], "m/1"))
