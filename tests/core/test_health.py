from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.core.health_reference import Reference
from worker.core.channels import ChannelSpec, parse_spec
from worker.core.health import FIELDS, Health, HealthProfile, Transition, sensor_health
from worker.core.health.words import span
from worker.core.table import MachineTable

START_US = 1_767_225_600_000_000
SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
INTERVAL_US = 10 * SECOND_US
SPEC = """
name = "press"
[[channel]]
name = "force"
unit = "kN"
min = 0.0
max = 500.0
[[channel]]
name = "oil"
unit = "degC"
[window]
length = "1h"
"""
NAN = math.nan


def spec() -> ChannelSpec:
    return parse_spec(SPEC, "press.toml")


def profile(
    stuck: int = 10, missing: int = 5, reach: float = 100.0, machines: int = 3
) -> HealthProfile:
    """Machines whose readings are usually 20 to 80, each 10 s, with gaps of up to 200 s."""
    return HealthProfile(
        machine_ids=tuple(f"m{k}" for k in range(machines)),
        ranges=np.full((machines + 1, 2, 3), [20.0, 80.0, reach], np.float32),
        limits=np.full((machines + 1, 2, 2), [stuck, missing], np.uint16),
        usual_us=np.full((machines + 1, 2), [INTERVAL_US, 20 * INTERVAL_US], np.int64),
    )


class Run(NamedTuple):
    """What one stream of events gave."""

    usable: NDArray[np.float64]
    transitions: list[Transition]
    table: MachineTable

    def told(self) -> list[tuple[str, str | None, int, str]]:
        """Kind, channel, position of the event, and what happened."""
        names = [c.name for c in spec().continuous]
        return [
            (
                t.kind,
                None if t.channel is None else names[t.channel],
                t.row,
                "opened" if t.closed_us is None else "closed",
            )
            for t in self.transitions
        ]


class Events(NamedTuple):
    machines: NDArray[np.int64]
    times_us: NDArray[np.int64]
    record_times_us: NDArray[np.int64]
    values: NDArray[np.float64]
    impossible: NDArray[np.bool_]

    def take(self, rows: Any) -> Events:
        return Events(
            self.machines[rows],
            self.times_us[rows],
            self.record_times_us[rows],
            self.values[rows],
            self.impossible[rows],
        )


def run(
    events: Events,
    health: Health,
    ids: tuple[str, ...] = ("m0", "m1", "m2"),
    cuts: tuple[int, ...] = (),
) -> Run:
    lengths = {"channel": len(health.spec.continuous), "signal": 0}
    table = MachineTable(FIELDS, lengths, len(ids))
    table.reset(np.arange(len(ids)))
    health.begin(table, np.arange(len(ids)), ids)
    usable, transitions = [], []
    edges = sorted({0, *cuts, len(events.times_us)})
    clock_us = 0
    for start, end in pairwise(edges):
        part = events.take(slice(start, end))
        clocks_us = np.maximum.accumulate(np.maximum(part.times_us, clock_us))
        masked, told = health.check(table, clocks_us, *part)
        clock_us = int(clocks_us[-1])
        usable.append(masked)
        transitions += [t._replace(row=t.row + start) for t in told]
    return Run(np.concatenate(usable), transitions, table)


def one_machine(
    force: list[float], interval_us: int = INTERVAL_US, record_offset_us: int = 0
) -> Events:
    """Events of m0, whose oil is ordinary."""
    n = len(force)
    times_us = START_US + np.arange(n, dtype=np.int64) * interval_us
    values = np.stack([np.array(force), 50.0 + np.arange(n) % 7], axis=1)
    with np.errstate(invalid="ignore"):
        impossible = (values < 0.0) | (values > 500.0)
    return Events(np.zeros(n, np.int64), times_us, times_us + record_offset_us, values, impossible)


def ordinary(n: int) -> list[float]:
    return [50.0 + (k * 7 % 11) for k in range(n)]


def follow(force: list[float], **limits: float) -> Run:
    return run(one_machine(force), Health(spec(), profile(**limits)))  # type: ignore[arg-type]


def test_ordinary_readings_are_used_and_nothing_is_told() -> None:
    force = ordinary(200)
    result = follow(force)
    assert result.usable[:, 0].tolist() == force
    assert result.transitions == []


def test_a_stuck_sensor_is_left_out_until_it_changes_again() -> None:
    force = [*ordinary(20), *[55.5] * 30, *ordinary(30)]
    result = follow(force, stuck=10)
    opened, closed = 20 + 10, 50 + 19
    assert result.told() == [
        ("stuck", "force", opened, "opened"),
        ("stuck", "force", closed, "closed"),
    ]
    assert np.isnan(result.usable[:, 0]).nonzero()[0].tolist() == list(range(opened, closed))
    assert not np.isnan(result.usable[:, 1]).any()
    assert result.transitions[0].length == 11
    assert result.transitions[0].opened_us == START_US + opened * INTERVAL_US


def test_a_sensor_that_sticks_again_before_it_is_sound_stays_one_fault() -> None:
    force = [*ordinary(20), *[*[55.5] * 20, 56.5] * 6, *ordinary(30)]
    assert [what for *_, what in follow(force).told()] == ["opened", "closed"]


def test_a_reading_that_freezes_just_outside_its_usual_range_is_stuck() -> None:
    told = follow([*ordinary(20), *[82.25] * 30]).told()
    assert [kind for kind, *_ in told] == ["stuck"]


@pytest.mark.parametrize("rest", [0.0, 20.0, 80.0, 95.5, 500.0])
def test_readings_where_machines_rest_are_not_stuck(rest: float) -> None:
    force = [*ordinary(20), *[rest] * 100, *ordinary(20)]
    result = follow(force, reach=1000.0)
    assert result.transitions == []
    assert result.usable[:, 0].tolist() == force


def test_a_reading_that_jumped_where_no_machine_can_and_froze_is_stuck() -> None:
    result = follow([*ordinary(20), *[400.0] * 30, *ordinary(30)])
    assert [told[:2] for told in result.told()] == [("stuck", "force")] * 2
    assert np.isnan(result.usable[20:50, 0]).all()


def test_a_channel_without_a_limit_is_never_stuck_and_a_jump_in_it_is_confirmed() -> None:
    force = [*ordinary(20), *[55.5] * 500, *[400.0] * 10]
    result = follow(force, stuck=0)
    assert result.transitions == []
    assert np.isnan(result.usable[:, 0]).nonzero()[0].tolist() == [520, 521]


def test_missing_readings_are_told_once_there_are_more_than_usual() -> None:
    force = [*ordinary(20), *[NAN] * 4, *ordinary(20), *[NAN] * 30, *ordinary(70)]
    result = follow(force, missing=5)
    assert result.told() == [
        ("missing", "force", 44 + 4, "opened"),
        ("missing", "force", 74 + 59, "closed"),
    ]
    assert result.transitions[0].length == 5


def test_gaps_do_not_interrupt_a_stuck_sensor() -> None:
    force = [*ordinary(20), *[55.5, NAN, NAN, NAN] * 12]
    assert follow(force).told() == [("stuck", "force", 20 + 4 * 10, "opened")]


def test_an_impossible_reading_is_a_glitch_when_the_next_is_ordinary() -> None:
    force = [*ordinary(20), 9999.0, *ordinary(70)]
    result = follow(force)
    assert result.told() == [("glitch", "force", 21, "opened"), ("glitch", "force", 81, "closed")]
    assert np.isnan(result.usable[:, 0]).nonzero()[0].tolist() == [20]
    assert result.transitions[0].figure == 9999.0


def test_glitches_that_follow_each_other_are_one_fault() -> None:
    force = [value if k % 25 else -9999.0 for k, value in enumerate(ordinary(600), start=1)]
    result = follow(force)
    assert [what for *_, what in result.told()] == ["opened"]
    assert np.isnan(result.usable[:, 0]).sum() == 600 // 25


def test_impossible_readings_that_persist_are_out_of_range() -> None:
    force = [*ordinary(20), *[9999.0] * 8, *ordinary(20)]
    result = follow(force)
    assert result.told() == [
        ("out-of-range", "force", 22, "opened"),
        ("out-of-range", "force", 38, "closed"),
    ]
    assert np.isnan(result.usable[:, 0]).nonzero()[0].tolist() == list(range(20, 38))


def test_a_glitching_sensor_that_gets_stuck_closes_the_one_and_opens_the_other() -> None:
    told = follow([*ordinary(20), 9999.0, *ordinary(20), *[55.5] * 20]).told()
    assert [(kind, what) for kind, _, _, what in told] == [
        ("glitch", "opened"),
        ("glitch", "closed"),
        ("stuck", "opened"),
    ]
    assert told[1][2] == told[2][2]


def test_an_implausible_reading_that_returns_is_a_glitch() -> None:
    result = follow([*ordinary(20), 400.0, *ordinary(5)])
    assert result.told() == [("glitch", "force", 21, "opened")]
    assert math.isnan(result.usable[20, 0])


def test_an_implausible_jump_that_persists_is_real_from_its_third_reading_on() -> None:
    result = follow([*ordinary(20), 400.0, 401.0, 399.0, 402.0])
    assert result.transitions == []
    assert np.isnan(result.usable[:, 0]).nonzero()[0].tolist() == [20, 21]


def test_implausible_readings_that_contradict_each_other_are_glitches_not_a_jump() -> None:
    result = follow([*ordinary(20), *[400.0, 250.0] * 10, *ordinary(5)], reach=60.0)
    assert result.told() == [("glitch", "force", 21, "opened")]
    assert np.isnan(result.usable[:, 0]).nonzero()[0].tolist() == list(range(20, 40))


@pytest.mark.parametrize("fault", [175.0, 0.0, 179.9])
def test_a_single_reading_of_a_size_that_machines_reach_is_never_held_back(fault: float) -> None:
    result = follow([*ordinary(20), fault, *ordinary(20)], reach=100.0)
    assert result.usable[20, 0] == fault
    assert result.transitions == []


def test_what_grows_step_by_step_is_never_implausible() -> None:
    force = [50.0 + 4.0 * k for k in range(112)]
    result = follow(force, reach=60.0)
    assert result.usable[:, 0].tolist() == force


def test_after_a_silence_no_jump_is_implausible() -> None:
    events = one_machine([*ordinary(20), 400.0, *ordinary(20)])
    events.times_us[20:] += 3600 * SECOND_US
    result = run(events, Health(spec(), profile()))
    assert result.usable[20, 0] == 400.0
    assert {t.kind for t in result.transitions} == {"silent"}


def test_a_machine_that_sends_more_often_than_in_training_has_more_readings_to_be_stuck() -> None:
    health = Health(spec(), profile(stuck=10))
    force = [*ordinary(400), *[55.5] * 250, *ordinary(200)]
    result = run(one_machine(force, interval_us=SECOND_US), health)
    assert [told[0] for told in result.told()] == ["stuck", "stuck"]
    assert 400 + 80 <= result.transitions[0].row <= 400 + 110


def silent_machines() -> Events:
    """m0 and m1 each 10 s; m1 sends nothing between the tenth and the sixtieth minute."""
    times_us = START_US + np.repeat(np.arange(700, dtype=np.int64) * INTERVAL_US, 2)
    times_us[1::2] += SECOND_US
    machines = np.tile(np.arange(2), 700)
    since_s = (times_us - START_US) / SECOND_US
    keep = (machines == 0) | (since_s < 600) | (since_s >= 3600)
    times_us, machines = times_us[keep], machines[keep]
    values = np.stack([50.0 + np.arange(len(machines)) % 5, np.arange(len(machines)) % 7], axis=1)
    return Events(machines, times_us, times_us, values, np.zeros(values.shape, np.bool_))


def test_a_silent_machine_is_noticed_at_the_very_event_that_moves_the_clock_too_far() -> None:
    events = silent_machines()
    result = run(events, Health(spec(), profile()))
    opened, closed = result.transitions
    heard_us = events.times_us[(events.machines == 1) & (events.times_us < START_US + 600 * 10**6)]
    # The grace of 5 min is longer than 20 intervals.
    assert opened.opened_us == heard_us.max() + 5 * MINUTE_US
    assert (opened.kind, opened.machine, closed.machine) == ("silent", 1, 1)
    assert events.machines[opened.row] == 0
    assert events.times_us[opened.row - 1] <= opened.opened_us < events.times_us[opened.row]
    back = (events.machines == 1) & (events.times_us >= START_US + 3600 * 10**6)
    assert closed.row == np.flatnonzero(back)[2]
    assert closed.opened_us == opened.opened_us


def test_a_machine_is_silent_after_its_deadline_not_at_it() -> None:
    times_us = START_US + np.array([0, 1, 2, 301]) * SECOND_US
    values = np.full((4, 2), 50.0)
    machines = np.array([1, 0, 2, 2])
    events = Events(machines, times_us, times_us, values, np.zeros((4, 2), np.bool_))
    assert [t.machine for t in run(events, Health(spec(), profile())).transitions] == [1]


def test_what_silence_says_does_not_depend_on_the_bundle_that_knew_the_machine() -> None:
    events = silent_machines()
    health = Health(spec(), profile())
    silent = run(events, health).transitions[0]._replace(profile=99)
    smaller = profile(machines=0)
    assert sensor_health(spec(), smaller, silent, "m1").detail.endswith("an event each 10 s")


def test_the_only_machine_of_a_partition_is_found_silent_when_it_returns() -> None:
    events = one_machine(ordinary(40))
    events.times_us[20:] += 3600 * SECOND_US
    result = run(events, Health(spec(), profile()))
    assert [t.row for t in result.transitions] == [20, 22]
    assert result.transitions[0].opened_us == events.times_us[19] + 5 * MINUTE_US


def test_a_gateway_that_sends_in_batches_is_not_called_silent_between_all_of_them() -> None:
    batches, size = 50, 60
    times_us = START_US + np.repeat(np.arange(batches * size, dtype=np.int64) * INTERVAL_US, 2)
    machines = np.tile(np.arange(2), batches * size)
    # m1's events of each ten minutes come at their end.
    batch = (times_us - START_US) // (size * INTERVAL_US)
    arrival = np.where(machines == 1, START_US + (batch + 1) * size * INTERVAL_US, times_us)
    order = np.argsort(arrival, kind="stable")
    values = np.stack([50.0 + np.arange(len(order)) % 5, np.arange(len(order)) % 7], axis=1)
    events = Events(
        machines[order], times_us[order], times_us[order], values, np.zeros(values.shape, np.bool_)
    )
    result = run(events, Health(spec(), profile()))
    assert {(t.kind, t.machine) for t in result.transitions} == {("silent", 1)}
    assert len(result.transitions) <= 4


def test_a_machine_whose_pace_is_not_known_is_never_silent() -> None:
    events = one_machine(ordinary(40))
    events.times_us[20:] += 10**6 * 3600 * SECOND_US
    assert run(events, Health(spec(), HealthProfile.unknown(2))).transitions == []


@pytest.mark.parametrize("behind_s", [200, -200, 7200, 86_400 * 365])
def test_a_gateway_clock_that_is_wrong_by_a_constant_is_told(behind_s: int) -> None:
    events = one_machine(ordinary(600), record_offset_us=behind_s * SECOND_US)
    mended = one_machine(ordinary(600), record_offset_us=SECOND_US)
    mended.times_us[:] += 6000 * SECOND_US
    mended.record_times_us[:] += 6000 * SECOND_US
    both = Events(*(np.concatenate(pair) for pair in zip(events, mended, strict=True)))
    result = run(both, Health(spec(), profile()))
    assert result.told()[0][0] == "clock-skew"
    assert [what for *_, what in result.told()] == ["opened", "closed"]
    assert result.transitions[0].row < 200
    assert result.transitions[0].figure == pytest.approx(-behind_s)
    assert result.usable.tolist() == both.values.tolist()


def test_a_clock_has_to_be_much_less_wrong_to_be_right_again() -> None:
    events = one_machine(ordinary(900))
    events.record_times_us[:] += np.repeat([200, 120, 60], 300) * SECOND_US
    opened, closed = run(events, Health(spec(), profile())).transitions
    assert opened.row < 300
    assert closed.row >= 600


@pytest.mark.parametrize("speed", [0.0, 0.01, 0.5, 3.0])
def test_old_events_that_are_caught_up_with_are_no_wrong_clock(speed: float) -> None:
    events = one_machine(ordinary(5000))
    passed_us = ((events.times_us - START_US) * speed).astype(np.int64)
    events.record_times_us[:] = START_US + 90_000 * SECOND_US + passed_us
    assert run(events, Health(spec(), profile())).transitions == []


def test_delayed_delivery_is_no_wrong_clock_where_some_events_are_fresh() -> None:
    events = one_machine(ordinary(2000))
    hour = (events.times_us - START_US) // (60 * INTERVAL_US)
    events.record_times_us[:] = START_US + (hour + 1) * 60 * INTERVAL_US
    assert run(events, Health(spec(), profile())).transitions == []


def test_a_machine_that_training_did_not_have_misses_only_channels_that_it_sent() -> None:
    health = Health(spec(), profile())
    never = run(one_machine([NAN] * 50), health, ids=("new",))
    assert never.transitions == []
    stopped = run(one_machine([*ordinary(5), *[NAN] * 50]), health, ids=("new",))
    assert [t.kind for t in stopped.transitions] == ["missing"]
    known = run(one_machine([NAN] * 50), health, ids=("m1",))
    assert [t.kind for t in known.transitions] == ["missing"]


def test_what_a_forgotten_machine_has_open_ends() -> None:
    health = Health(spec(), profile())
    result = run(one_machine([*ordinary(20), *[55.5] * 30]), health)
    (ended,) = health.end(result.table, 0, START_US + 10**9)
    assert (ended.kind, ended.opened_us) == ("stuck", result.transitions[0].opened_us)
    assert ended.closed_us == START_US + 10**9
    assert health.end(result.table, 1, START_US) == []


VALUES = st.one_of(
    st.sampled_from([NAN, 0.0, 20.0, 55.5, 60.25, 90.0, 250.0, 400.0, 460.0, 9999.0, -1.0]),
    st.floats(20.0, 80.0, width=32),
)


@st.composite
def streams(draw: st.DrawFn) -> Events:
    n = draw(st.integers(1, 120))
    steps = st.sampled_from([-20, 0, 1, 5, 10, 10, 10, 10, 60, 400, 5000])
    since_s = np.cumsum([draw(steps) for _ in range(n)])
    machines = np.array([draw(st.integers(0, 2)) for _ in range(n)], np.int64)
    delays = st.sampled_from([0, 120, 400, -200, 10**6])
    delay_s = np.where(np.arange(n) < draw(st.integers(0, n)), draw(delays), draw(delays))
    pool = draw(st.lists(VALUES, min_size=1, max_size=5))
    values = np.array([[draw(st.sampled_from(pool)) for _ in range(2)] for _ in range(n)])
    times_us = START_US + since_s.astype(np.int64) * SECOND_US
    with np.errstate(invalid="ignore"):
        impossible = (values < 0.0) | (values > 500.0)
    records_us = times_us + delay_s * SECOND_US
    return Events(machines, times_us, records_us, values, impossible)


@st.composite
def healths(draw: st.DrawFn) -> Health:
    limits = {"stuck": draw(st.integers(0, 6)), "missing": draw(st.integers(0, 4))}
    reach = draw(st.sampled_from([60.0, 100.0, math.inf]))
    return Health(spec(), profile(**limits, reach=reach, machines=2))


@settings(max_examples=100, deadline=None)
@given(streams(), healths())
def test_the_kernel_does_what_the_documentation_says(events: Events, health: Health) -> None:
    result = run(events, health)
    reference = Reference(
        health.profile,
        [1, 2, 0],
        [(0.0, 500.0), (-math.inf, math.inf)],
        health.spec.grace_us,
        health.spec.max_future_us / 2e6,
    )
    columns = zip(*(column.tolist() for column in events), strict=True)
    usable = [reference.event(row, *columns_) for row, columns_ in enumerate(columns)]
    np.testing.assert_array_equal(result.usable, np.array(usable))
    told = [
        (t.row, t.machine, t.channel, t.kind, t.opened_us, t.closed_us) for t in result.transitions
    ]
    assert told == reference.told


@settings(max_examples=40, deadline=None)
@given(streams(), healths(), st.data())
def test_any_cut_gives_the_same(events: Events, health: Health, data: st.DataObject) -> None:
    n = len(events.times_us)
    cuts = tuple(data.draw(st.lists(st.integers(0, n), max_size=5)))
    whole, parts = run(events, health), run(events, health, cuts=cuts)
    np.testing.assert_array_equal(whole.usable, parts.usable)
    assert repr(whole.transitions) == repr(parts.transitions)
    everyone = np.arange(3)
    assert whole.table.records(everyone).tobytes() == parts.table.records(everyone).tobytes()


@settings(max_examples=40, deadline=None)
@given(streams(), healths())
def test_conditions_open_and_close_in_turns_under_ids_of_their_own(
    events: Events, health: Health
) -> None:
    open_ones: dict[tuple[int, int | None, str], str] = {}
    seen = set()
    for transition in run(events, health).transitions:
        message = sensor_health(health.spec, health.profile, transition, f"m{transition.machine}")
        key = (transition.machine, transition.channel, transition.kind)
        if message.status == "opened":
            assert not [k for k in open_ones if k[:2] == key[:2] and key[1] is not None]
            assert message.id not in seen
            seen.add(message.id)
            open_ones[key] = message.id
        else:
            assert open_ones.pop(key) == message.id
            assert message.closed_at is not None
            assert message.closed_at >= message.opened_at


@settings(max_examples=40, deadline=None)
@given(streams(), healths())
def test_but_for_silence_a_machine_does_not_depend_on_others(
    events: Events, health: Health
) -> None:
    alone = np.flatnonzero(events.machines == 0)
    if not len(alone):
        return
    together, single = run(events, health), run(events.take(alone), health)
    np.testing.assert_array_equal(together.usable[alone], single.usable)
    conditions = [t for t in together.transitions if t.machine == 0 and t.kind != "silent"]
    expected = [t._replace(row=int(alone[t.row])) for t in single.transitions if t.kind != "silent"]
    assert repr(conditions) == repr(expected)


def sentences(force: list[float], **limits: float) -> list[str]:
    health = Health(spec(), profile(**limits))  # type: ignore[arg-type]
    told = run(one_machine(force), health).transitions
    found = [sensor_health(health.spec, health.profile, t, "press-1") for t in told]
    return [f"{m.detail}; {m.effect}" for m in found]


def test_messages_say_it_in_plain_words() -> None:
    assert sentences([*ordinary(20), *[55.5] * 30, *ordinary(30)]) == [
        (
            "force is exactly 55.5 kN for 11 readings in a row; "
            "force is left out of aggregates and scores until this closes"
        ),
        (
            "force changes again, now 51 kN; it lasted 6 min 30 s; "
            "nothing is left out any more because of it"
        ),
    ]
    assert sentences([*ordinary(20), *[NAN] * 9])[0].startswith(
        "force is absent from 5 events in a row; "
    )
    assert sentences([*ordinary(20), *[-1.0] * 9])[0].startswith(
        "force is outside its physical range from 0 to 500 kN for 3 readings in a row, at last -1"
    )
    assert sentences([*ordinary(20), 460.0, *ordinary(9)])[0].startswith(
        "force jumped to 460 kN and returned at once; usual is 20 to 80 kN; such readings of force"
    )


def test_the_value_of_a_glitch_is_told_as_it_was_sent() -> None:
    health = Health(spec(), profile())
    told = run(one_machine([*ordinary(20), -273.16, *ordinary(9)]), health).transitions[0]
    assert sensor_health(health.spec, health.profile, told, "press-1").value == -273.16


def test_a_message_names_channel_value_and_times() -> None:
    health = Health(spec(), profile())
    result = run(one_machine([*ordinary(20), *[55.5] * 30]), health)
    message = sensor_health(health.spec, health.profile, result.transitions[0], "press-1")
    assert message.id == "press-1@2026-01-01T00:05:00.000000Z/stuck/force"
    assert (message.kind, message.channel, message.status) == ("stuck", "force", "opened")
    assert (message.value, message.unit, message.closed_at) == (55.5, "kN", None)
    silent = run(silent_machines(), health).transitions[0]
    message = sensor_health(health.spec, health.profile, silent, "press-2")
    assert message.id.endswith("Z/silent")
    assert message.detail == "nothing has been heard for 5 min; usual is an event each 10 s"
    assert (message.channel, message.value) == (None, None)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.25, "0.25 s"),
        (60, "1 min"),
        (3599.9, "1 h"),
        (3725, "1 h 2 min"),
        (90_000, "1 d 1 h"),
        (86_399, "24 h"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert span(round(seconds * 1e6)) == said
