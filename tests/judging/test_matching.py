from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from worker.judging.matching import MOMENT, alarms, matches, shared_events, told_spans
from worker.replay.tables import EPISODES

START = datetime(2026, 1, 1, tzinfo=UTC)
SPANS = {"machine_id": pl.String, "begin": MOMENT, "end": MOMENT}

Span = tuple[str, int, int]


@st.composite
def spans(draw: st.DrawFn) -> list[Span]:
    """Spans of few machines at few moments, so that they meet, touch, repeat and contain."""
    span = st.tuples(st.sampled_from("ab"), st.integers(0, 12), st.integers(0, 6))
    return [
        (name, begin, begin + length) for name, begin, length in draw(st.lists(span, max_size=9))
    ]


def minute(number: int) -> datetime:
    return START + timedelta(minutes=number)


def table(rows: list[Span]) -> pl.DataFrame:
    return pl.DataFrame([(m, minute(b), minute(e)) for m, b, e in rows], SPANS, orient="row")


def meet(one: Span, other: Span) -> bool:
    return one[0] == other[0] and one[1] <= other[2] and other[1] <= one[2]


@given(spans(), spans())
def test_spans_meet_where_each_pair_that_is_tried_says_so(
    mine: list[Span], others: list[Span]
) -> None:
    found = matches(table(mine), table(others))
    for one, met, first_us in zip(mine, found.met, found.first_us, strict=True):
        meeting = [other for other in others if meet(one, other)]
        assert met == bool(meeting)
        since = min((max(one[1], other[1]) for other in meeting), default=None)
        assert first_us == (0 if since is None else minute(since).timestamp() * 1e6)


@given(spans(), spans())
def test_sides_share_an_event_where_a_chain_of_spans_that_meet_joins_them(
    mine: list[Span], others: list[Span]
) -> None:
    left = [(span, "this") for span in mine] + [(span, "other") for span in others]
    sides = []
    while left:
        chain = [left.pop()]
        for reached in chain:
            joined = [one for one in left if meet(one[0], reached[0])]
            chain += joined
            left = [one for one in left if not meet(one[0], reached[0])]
        sides.append({side for _, side in chain})
    assert shared_events(table(mine), table(others)) == (
        sides.count({"this", "other"}),
        sides.count({"this"}),
        sides.count({"other"}),
    )


def test_an_alarm_is_an_opening_and_an_episode_that_is_open_has_no_end() -> None:
    episodes = pl.DataFrame(
        [
            ("1", "a", minute(2), minute(9), "low", []),
            ("2", "b", minute(1), minute(4), "low", []),
            ("3", "a", minute(20), None, "low", []),
        ],
        EPISODES,
        orient="row",
    )
    assert alarms(episodes).rows() == table([("a", 2, 2), ("b", 1, 1), ("a", 20, 20)]).rows()
    assert told_spans(episodes)["end"][:2].to_list() == [minute(9), minute(4)]
    assert told_spans(episodes).select(pl.col("end").dt.epoch("us"))["end"][2] == 2**62
