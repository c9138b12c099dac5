"""The three sentences: what they may claim, and what they must not."""

from __future__ import annotations

from typing import Any

import pytest

from worker.judging import intervals
from worker.report.verdict import verdict

DAYS = 1000.0


def summary(
    episodes: int = 100, model: str = "pump/1.0.0", truth: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    return {
        "model": model,
        "machines": 10,
        "machine_days": DAYS,
        "episodes": episodes,
        "budget": 0.1,
        "threshold": None,
        **({} if truth is None else {"truth": truth}),
        **more,
    }


def truth(found: int, of: int, false: int) -> dict[str, Any]:
    return {
        "episodes": of,
        "found": found,
        "missed": of - found,
        "recall": intervals.share(found, of),
        "precision": intervals.share(found, found + false),
        "false_alarms_per_machine_day": intervals.rate(false, DAYS),
        "delay_s": {"median": 600.0 if found else None, "p90": 1200.0 if found else None},
    }


def compared(only_this: int, only_other: int, false: tuple[int, int], both: int = 50) -> Any:
    of = both + only_this + only_other + 5
    counts = {"both": both, "only_this": only_this, "only_other": only_other, "neither": 5}
    against = {
        "episodes": {"both": both, "only_this": only_this, "only_other": only_other},
        "true_episodes": counts,
    }
    mine = truth(both + only_this, of, false[0])
    theirs = truth(both + only_other, of, false[1])
    other = summary(both + only_other + false[1], "pump/2.0.0", theirs)
    return verdict(summary(both + only_this + false[0], truth=mine, against=against), other)


@pytest.mark.parametrize(
    ("only_this", "only_other", "false", "answer"),
    [
        (0, 0, (10, 10), "They cannot be told apart."),
        # Four to none is what chance gives one time in eight.
        (4, 0, (10, 12), "They cannot be told apart."),
        (12, 1, (10, 12), "More is found by pump/1.0.0."),
        (1, 12, (10, 12), "More is found by pump/2.0.0."),
        (2, 3, (10, 90), "Fewer false alarms by pump/1.0.0."),
        (2, 3, (90, 10), "Fewer false alarms by pump/2.0.0."),
        (12, 1, (90, 10), "One finds more, the other is quieter."),
        (12, 1, (10, 90), "Better: pump/1.0.0."),
    ],
)
def test_a_side_is_better_only_where_chance_would_hardly_give_it(
    only_this: int, only_other: int, false: tuple[int, int], answer: str
) -> None:
    found = compared(only_this, only_other, false)
    assert found.answer == answer
    apart = "cannot be told apart" in found.answer
    assert apart == all("cannot be told apart" in sentence for sentence in found.sentences[1:])


def test_sides_of_the_same_bundle_are_told_apart_by_their_settings() -> None:
    against = {"episodes": {"both": 3, "only_this": 1, "only_other": 0}, "true_episodes": None}
    found = verdict(summary(4, against=against), summary(3))
    assert (
        "these settings told 4 episodes and the others 3: 3 by both, 1 and 0" in found.sentences[0]
    )


def test_without_the_truth_no_side_is_better_even_if_one_tells_far_less() -> None:
    against = {"episodes": {"both": 3, "only_this": 1, "only_other": 90}, "true_episodes": None}
    found = verdict(summary(4, against=against), summary(93, "pump/2.0.0"))
    assert found.tone == "unsure"
    assert "Clearly fewer alarms came from pump/1.0.0" in found.sentences[1]


@pytest.mark.parametrize(
    ("episodes", "answer", "claim"),
    [
        (20, "Within its budget of false alarms.", "clearly fewer than the 0.1"),
        (100, "Within its budget of false alarms.", "not to be told apart from the 0.1"),
        (200, "More alarms than its budget of false ones.", "clearly more than the 0.1"),
    ],
)
def test_alarms_alone_are_held_against_the_budget(episodes: int, answer: str, claim: str) -> None:
    found = verdict(summary(episodes), None)
    assert found.answer == answer
    assert claim in found.sentences[2]


@pytest.mark.parametrize(
    ("false", "answer"),
    [
        (20, "Fewer false alarms than tolerated."),
        (100, "As many false alarms as tolerated."),
        (200, "Too many false alarms."),
    ],
)
def test_false_alarms_are_held_against_the_budget(false: int, answer: str) -> None:
    found = verdict(summary(40 + false, truth=truth(40, 50, false)), None)
    assert found.answer == answer
    assert (
        "It found 40 of 50 true episodes, 80% (67% to 89%), half of them within"
        in (found.sentences[1])
    )


def test_nothing_found_has_no_delay() -> None:
    found = verdict(summary(0, truth=truth(0, 3, 0)), None)
    assert found.sentences[1] == "It found none of 3 true episodes."


def test_without_a_machine_day_nothing_is_claimed() -> None:
    found = verdict({**summary(0), "machine_days": 0.0, "machines": 0}, None)
    assert found.tone == "unsure"
    assert "unknown a machine and day" in found.sentences[0]
