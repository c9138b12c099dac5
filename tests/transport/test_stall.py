"""The judge of standing still, fed with plain numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.transport.stall import MOVING, Level, Observation, StallJudge

TIMEOUT_S = 60.0
LOOK_S = 1.0


def judge() -> StallJudge:
    return StallJudge(TIMEOUT_S, 2 * LOOK_S)


def still(name: str = "thread", progress: int = 0) -> Observation:
    return Observation(name, f"the {name} has not moved", progress)


def test_standing_still_is_stalled_at_half_the_time_and_dead_at_the_end_of_it() -> None:
    judged = judge()
    levels = [judged.look(LOOK_S, [still()]).level for _ in range(62)]
    assert levels == [Level.MOVING] * 30 + [Level.STALLED] * 30 + [Level.DEAD] * 2


def test_the_reason_says_what_for_how_long_and_names_all_that_stand_still() -> None:
    judged = judge()
    for _ in range(41):
        verdict = judged.look(LOOK_S, [still("thread"), still("commit")])
    assert verdict.reason == "the thread has not moved for 40 s; the commit has not moved for 40 s"


def test_the_reason_stays_short_when_everything_stands_still() -> None:
    judged = judge()
    for _ in range(41):
        verdict = judged.look(LOOK_S, [still(f"partition {number}") for number in range(100)])
    assert verdict.reason.count("has not moved") == 3
    assert verdict.reason.endswith("; and 97 more")


def test_one_step_forward_starts_the_time_anew() -> None:
    judged = judge()
    for _ in range(59):
        judged.look(LOOK_S, [still()])
    assert judged.look(LOOK_S, [still(progress=1)]) == MOVING
    for _ in range(29):
        assert judged.look(LOOK_S, [still(progress=1)]) == MOVING
    assert judged.look(LOOK_S, [still(progress=1)]).level is Level.STALLED


def test_what_has_nothing_to_do_may_stand_still_for_ever() -> None:
    judged = judge()
    idle = Observation("thread", None)
    assert {judged.look(LOOK_S, [idle]) for _ in range(1000)} == {MOVING}


def test_idle_time_is_not_held_against_what_begins_afterwards() -> None:
    judged = judge()
    for _ in range(50):
        judged.look(LOOK_S, [still()])
    judged.look(LOOK_S, [Observation("thread", None)])
    for _ in range(30):
        assert judged.look(LOOK_S, [still()]) == MOVING


@pytest.mark.parametrize("stopped_s", [120.0, 86_400.0])
def test_time_in_which_the_process_did_not_run_does_not_count(stopped_s: float) -> None:
    judged = judge()
    judged.look(LOOK_S, [still()])
    assert judged.look(stopped_s, [still()]) == MOVING
    assert judged.look(LOOK_S, [still(progress=1)]) == MOVING


def test_a_clock_that_goes_back_changes_nothing() -> None:
    judged = judge()
    for _ in range(100):
        assert judged.look(-5.0, [still()]) == MOVING


@given(
    st.lists(
        st.tuples(st.floats(0, 10), st.one_of(st.none(), st.integers(0, 3))),
        min_size=1,
        max_size=200,
    )
)
def test_it_agrees_with_the_plain_definition(looks: list[tuple[float, int | None]]) -> None:
    """Dead exactly when the same progress was due over looks that add up to the timeout."""
    judged = StallJudge(20.0, 5.0)
    since_s: list[float] = []
    last: int | None = None
    for elapsed_s, progress in looks:
        if progress is None:
            verdict = judged.look(elapsed_s, [Observation("x", None)])
            since_s, last = [], None
        else:
            verdict = judged.look(elapsed_s, [still("x", progress)])
            since_s = [*since_s, min(elapsed_s, 5.0)] if progress == last else []
            last = progress
        total_s = 0.0
        for part_s in since_s:
            total_s += part_s
        expected = Level.DEAD if total_s >= 20 else Level.STALLED if total_s >= 10 else Level.MOVING
        assert verdict.level is expected
        assert bool(verdict.reason) == (expected is not Level.MOVING)
