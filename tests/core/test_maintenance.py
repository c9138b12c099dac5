from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.maintenance import (
    ANNOUNCED,
    FIELDS,
    Announcement,
    Maintained,
    announce,
    announcement,
    follow,
)
from worker.core.messages import MaintenanceNotice
from worker.core.planned import DAY_US, WEEK_US, PlannedWindow, parse_weekly
from worker.core.table import MachineTable

IDS = (b"mill-1", b"mill-2", b"press-1")
ROWS = np.arange(len(IDS))


@dataclass(frozen=True)
class Event:
    machine: int
    time_us: int


@dataclass(frozen=True)
class Notice:
    """What an event announces."""

    machine: int
    from_us: int
    until_us: int
    relearn: bool
    time_us: int = 0


Step = Event | Notice


def fresh() -> MachineTable:
    table = MachineTable(FIELDS, {}, len(IDS))
    table.reset(ROWS)
    return table


def restarted(table: MachineTable) -> MachineTable:
    copy = MachineTable(FIELDS, {}, len(IDS))
    copy.load(ROWS, table.records(ROWS))
    return copy


def apply(
    table: MachineTable, steps: Sequence[Step], windows: Sequence[PlannedWindow] = ()
) -> Maintained:
    announcements = [
        Announcement(position, step.machine, step.from_us, step.until_us, step.relearn)
        for position, step in enumerate(steps)
        if isinstance(step, Notice)
    ]
    return follow(
        table,
        windows,
        np.array([step.machine for step in steps], np.int64),
        [IDS[step.machine] for step in steps],
        np.array([step.time_us for step in steps], np.int64),
        announcements,
    )


def judged(steps: Sequence[Step], windows: Sequence[PlannedWindow] = ()) -> list[str]:
    """One letter an event that announces nothing; see :func:`letters`."""
    found = letters(apply(fresh(), steps, windows))
    return [letter for letter, step in zip(found, steps, strict=True) if isinstance(step, Event)]


def letters(found: Maintained) -> list[str]:
    """m under maintenance, r from where the level is learned anew, x refused."""
    assert not (found.maintained & found.relearn).any()
    result = np.where(found.maintained, "m", np.where(found.relearn, "r", "."))
    assert (result[found.refused] == ".").all()
    result[found.refused] = "x"
    return result.tolist()


@dataclass
class Reference:
    """One machine: every window that was announced, in a list."""

    machine_id: bytes
    windows: Sequence[PlannedWindow]
    announced: dict[int, Notice] = field(default_factory=dict)
    unlearned: set[int] = field(default_factory=set)
    worked_us: list[int] = field(default_factory=list)

    def announce(self, notice: Notice) -> bool:
        if notice.until_us <= notice.from_us:
            self.announced.pop(notice.from_us, None)
            self.unlearned.discard(notice.from_us)
            return True
        newest = max(self.worked_us, default=-1)
        others = [n for begin, n in self.announced.items() if begin != notice.from_us]
        waiting = [n for n in others if n.until_us > newest or n.from_us in self.unlearned]
        if notice.from_us not in self.announced and len(waiting) == ANNOUNCED:
            return False
        if notice.from_us not in self.announced and len(others) == ANNOUNCED:
            oldest = min((n for n in others if n not in waiting), key=lambda n: n.until_us)
            del self.announced[oldest.from_us]
        self.announced[notice.from_us] = notice
        self.unlearned.discard(notice.from_us)
        if notice.relearn:
            self.unlearned.add(notice.from_us)
        return True

    def take(self, t: int) -> str:
        mine = [w for w in self.windows if w.matches(self.machine_id)]
        spans = [(n.from_us, n.until_us) for n in self.announced.values()]
        spans += [span for w in mine for span in occurrences(w, t)]
        if any(begin <= t < end for begin, end in spans):
            return "m"
        due = {b for b in self.unlearned if self.announced[b].until_us <= t}
        self.unlearned -= due
        ends = [end for w in mine if w.relearn for _, end in occurrences(w, t) if end <= t]
        again = bool(self.worked_us) and any(end > max(self.worked_us) for end in ends)
        self.worked_us.append(t)
        return "r" if due or again else "."


def occurrences(window: PlannedWindow, around_us: int) -> list[tuple[int, int]]:
    if not window.every_us:
        return [(window.from_us, window.until_us)]
    nearest = (around_us - window.from_us) // window.every_us
    return [
        (window.from_us + k * window.every_us, window.until_us + k * window.every_us)
        for k in range(nearest - 2, nearest + 3)
    ]


def times_us() -> st.SearchStrategy[int]:
    return st.integers(0, 40).map(lambda tens: tens * 10)


def windows() -> st.SearchStrategy[list[PlannedWindow]]:
    once = st.builds(
        lambda machines, begin, length, relearn: PlannedWindow(
            machines, begin, begin + length, relearn
        ),
        st.sampled_from(["*", "mill-*", "press-1", "mill-[2-9]"]),
        times_us(),
        st.integers(1, 120),
        st.booleans(),
    )
    repeated = st.builds(
        lambda begin, length, relearn: PlannedWindow("mill-*", begin, begin + length, relearn, 150),
        times_us(),
        st.integers(1, 149),
        st.booleans(),
    )
    return st.lists(st.one_of(once, repeated), max_size=3)


def steps() -> st.SearchStrategy[list[Step]]:
    machines = st.integers(0, len(IDS) - 1)
    notices = st.builds(
        lambda m, begin, length, relearn, time: Notice(m, begin, begin + length, relearn, time),
        machines,
        times_us(),
        st.sampled_from([0, 10, 30, 100, 200]),
        st.booleans(),
        st.integers(1, 450),
    )
    arrived = st.builds(Event, machines, st.integers(1, 450))
    return st.lists(st.one_of(arrived, arrived, notices), max_size=60)


@settings(max_examples=300, deadline=None)
@given(steps(), windows())
def test_what_is_maintained_equals_the_reference_in_any_order(
    arrived: list[Step], configured: list[PlannedWindow]
) -> None:
    references = [Reference(machine_id, configured) for machine_id in IDS]
    expected = []
    for step in arrived:
        machine = references[step.machine]
        if isinstance(step, Notice) and not machine.announce(step):
            expected.append("x")
        else:
            expected.append(machine.take(step.time_us))
    assert letters(apply(fresh(), arrived, configured)) == expected


@settings(max_examples=100, deadline=None)
@given(steps(), windows(), st.lists(st.integers(0, 60), max_size=4))
def test_cuts_and_restarts_change_nothing(
    arrived: list[Step], configured: list[PlannedWindow], cuts: list[int]
) -> None:
    whole_table, table = fresh(), fresh()
    whole = apply(whole_table, arrived, configured)
    maintained: list[bool] = []
    relearn: list[bool] = []
    ends = [*sorted(min(cut, len(arrived)) for cut in cuts), len(arrived)]
    for start, end in zip([0, *ends], ends, strict=False):
        table = restarted(table)
        part = apply(table, arrived[start:end], configured)
        maintained += part.maintained.tolist()
        relearn += part.relearn.tolist()
    assert maintained == whole.maintained.tolist()
    assert relearn == whole.relearn.tolist()
    assert table.records(ROWS).tobytes() == whole_table.records(ROWS).tobytes()


def test_events_in_an_announced_window_are_maintained_and_the_first_after_it_relearns() -> None:
    notice = Notice(0, 100, 200, True)
    events = [Event(0, t) for t in (50, 100, 199, 200, 210)]
    assert judged([Event(0, 1), notice, *events]) == [".", ".", "m", "m", "r", "."]
    # Without relearn, and of another machine.
    assert judged([Notice(0, 100, 200, False), *events]) == [".", "m", "m", ".", "."]
    assert judged([Notice(1, 100, 200, True), *events]) == ["."] * 5


def test_a_late_event_of_the_window_is_maintained_also_after_its_end() -> None:
    arrived = [Notice(0, 100, 200, True), Event(0, 150), Event(0, 205), Event(0, 199)]
    assert judged([*arrived, Event(0, 207)]) == ["m", "r", "m", "."]


def test_what_is_announced_afterwards_lets_the_next_event_relearn() -> None:
    arrived = [Event(0, 300), Notice(0, 100, 200, True), Event(0, 310), Event(0, 320)]
    assert judged(arrived) == [".", "r", "."]


def test_relearning_waits_until_the_machine_is_under_no_other_maintenance() -> None:
    arrived = [Notice(0, 100, 200, True), Notice(0, 150, 250, False)]
    events = [Event(0, t) for t in (120, 220, 260, 270)]
    assert judged([*arrived, *events]) == ["m", "m", "r", "."]


def test_each_of_two_windows_is_followed_by_relearning() -> None:
    arrived = [Notice(0, 100, 200, True), Notice(0, 300, 400, True)]
    events = [Event(0, t) for t in (50, 210, 220, 350, 410, 420)]
    assert judged([*arrived, *events]) == [".", "r", ".", "m", "r", "."]


def test_an_announcement_with_the_same_beginning_replaces_extends_or_calls_off() -> None:
    first = Notice(0, 100, 200, True)
    late = [Event(0, 210), Event(0, 310)]
    assert judged([first, Notice(0, 100, 300, False), *late]) == ["m", "."]
    assert judged([first, Notice(0, 100, 100, False), Event(0, 150), *late]) == [".", ".", "."]
    # Ended early.
    ended = [first, Event(0, 150), Notice(0, 100, 155, True), Event(0, 160)]
    assert judged(ended) == ["m", "r"]


def test_a_fifth_window_is_refused_until_one_is_over() -> None:
    table = fresh()
    for k in range(ANNOUNCED):
        assert announce(table, 0, 100 * k + 100, 100 * k + 150, False)
    assert not announce(table, 0, 900, 950, False)
    assert announce(table, 0, 400, 450, True)
    assert announce(table, 1, 900, 950, False)
    assert apply(table, [Event(0, 160), Notice(0, 900, 950, False)]).refused == []
    assert not announce(table, 0, 1000, 1050, False)


def test_a_window_that_is_over_keeps_its_place_until_the_level_is_learned_anew() -> None:
    past = [Notice(0, 100 * k, 100 * k + 50, True) for k in range(1, ANNOUNCED + 1)]
    further = Notice(0, 700, 750, False)
    arrived = [Event(0, 600), *past, further, Event(0, 610), further]
    assert letters(apply(fresh(), arrived)) == [".", ".", ".", ".", ".", "x", "r", "."]


def test_a_window_in_configuration_holds_for_the_machines_that_its_pattern_names() -> None:
    configured = [PlannedWindow("mill-*", 100, 200, relearn=True)]
    arrived = [Event(m, t) for t in (50, 150, 250) for m in (0, 2)]
    assert judged(arrived, configured) == [".", ".", "m", ".", "r", "."]


def test_a_machine_that_begins_after_a_configured_window_has_nothing_to_relearn() -> None:
    configured = [PlannedWindow("*", 100, 200, relearn=True)]
    assert judged([Event(0, 250), Event(0, 260)], configured) == [".", "."]
    # One that was silent meanwhile has, once: also if an event of before comes late.
    late = [Event(0, t) for t in (50, 260, 90, 270)]
    assert judged(late, configured) == [".", "r", ".", "."]


@pytest.mark.parametrize(
    ("text", "length_h"),
    [("sun 02:00-06:00", 4), ("Sun  22:30 - 04:30", 6), ("mon 00:00-00:00", 24)],
)
def test_a_weekly_window_comes_back_every_week_at_its_utc_time(text: str, length_h: int) -> None:
    span = parse_weekly(text)
    assert span is not None
    assert span[1] - span[0] == length_h * 3_600_000_000
    window = PlannedWindow("*", *span, relearn=True, every_us=WEEK_US)
    weekday, time = text.lower().split(None, 1)
    hour, minute = (int(part) for part in time[:5].split(":"))
    # 2026-03-01 is a Sunday, 2026-03-02 a Monday.
    day = np.datetime64({"sun": "2026-03-01", "mon": "2026-03-02"}[weekday], "us").astype(int)
    begin = int(day) + (hour * 60 + minute) * 60_000_000
    end = begin + span[1] - span[0]
    times = np.array([begin - 1, begin, end - 1, end, end + 5 * DAY_US])
    assert window.contains(times).tolist() == [False, True, True, False, False]
    assert window.ended_us(times)[2:].tolist() == [end - WEEK_US, end, end]


@pytest.mark.parametrize(
    "text", ["", "sun", "sunday 02:00-06:00", "sun 2:00-6:00", "sun 24:00-25:00", "sun 02:00"]
)
def test_what_is_no_weekly_window_is_not_read_as_one(text: str) -> None:
    assert parse_weekly(text) is None


def test_a_notice_stands_among_the_events_with_its_times() -> None:
    notice = MaintenanceNotice(from_=1_999_999_000_000, until=2_000_000_000_000_000, relearn=True)
    expected = Announcement(3, 1, 1_999_999_000_000_000, 2_000_000_000_000_000, True)
    assert announcement(3, 1, notice) == expected
