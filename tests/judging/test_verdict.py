from __future__ import annotations

import polars as pl
import pytest
from sklearn import metrics

from tests.judging.test_matching import table
from worker.judging import matching, verdict
from worker.judging.intervals import rate, share
from worker.judging.truth import EPISODES


def known(*rows: tuple[str, int, int]) -> pl.DataFrame:
    return table(list(rows)).with_columns(label=pl.lit(None, pl.String)).cast(EPISODES)


def opened(*alarms: tuple[str, int]) -> pl.DataFrame:
    return table([(name, at, at) for name, at in alarms])


def test_recall_precision_false_alarms_and_delay_of_a_hand_made_case() -> None:
    episodes = known(("a", 0, 10), ("a", 20, 30), ("b", 0, 10), ("b", 50, 50), ("a", 60, 90))
    alarms = opened(("a", 4), ("a", 7), ("a", 18), ("a", 40), ("b", 11), ("b", 52), ("a", 55))
    minutes_us = 60_000_000
    found = verdict.truth_table(episodes, alarms, tolerance_us=3 * minutes_us)
    assert dict(found.schema) == verdict.TRUTH
    # The second was told somewhat before, the point afterwards, the last too early.
    assert found["found"].to_list() == [True, True, False, True, False]
    assert found["delay_s"].to_list() == [240.0, -120.0, None, 120.0, None]
    assert found["found_by_other"].to_list() == [None] * 5
    figures = verdict.figures(found, alarms, 2.5, 3 * minutes_us)
    assert (figures["found"], figures["missed"]) == (3, 2)
    assert (figures["true_alarms"], figures["false_alarms"]) == (4, 3)
    assert figures["recall"] == share(3, 5)
    assert figures["precision"] == share(4, 7)
    assert figures["false_alarms_per_machine_day"] == rate(3, 2.5)
    assert figures["delay_s"] == {"median": 120.0, "p90": pytest.approx(216.0)}


def test_an_alarm_that_never_ends_finds_no_more_than_what_it_opened_in() -> None:
    episodes = known(("a", 5, 9), ("a", 20, 30), ("a", 40, 50))
    told = table([("a", 0, 1000)]).rename({"begin": "opened_at", "end": "closed_at"})
    found = verdict.truth_table(episodes, matching.alarms(told))
    assert found["found"].to_list() == [False, False, False]
    assert verdict.figures(found, matching.alarms(told), 1.0)["false_alarms"] == 1


def test_without_alarms_nothing_is_found_and_there_is_no_precision() -> None:
    found = verdict.truth_table(known(("a", 0, 10)), table([]), opened(("a", 1)))
    assert found["found"].to_list() == [False]
    assert found["delay_by_other_s"].to_list() == [60.0]
    figures = verdict.figures(found, table([]), 1.0)
    assert figures["precision"]["value"] is None
    assert figures["delay_s"] == {"median": None, "p90": None}


def test_two_sides_are_compared_by_what_each_told_and_found() -> None:
    episodes = known(("a", 0, 1), ("a", 10, 11), ("a", 20, 21), ("a", 30, 31))
    this, other = opened(("a", 0), ("a", 10)), opened(("a", 0), ("a", 20))
    found = verdict.truth_table(episodes, this, other)
    assert verdict.compared(this, other, found) == {
        "episodes": {"both": 1, "only_this": 1, "only_other": 1},
        "true_episodes": {"both": 1, "only_this": 1, "only_other": 1, "neither": 1},
    }
    assert verdict.compared(this, other, None)["true_episodes"] is None


def test_rows_without_a_label_do_not_count_and_those_without_a_score_are_normal() -> None:
    scores = pl.DataFrame(
        {
            "anomaly_score": [-0.9, -0.5, 0.1, 0.4, None, -0.8],
            "is_anomaly": [True, True, False, False, False, True],
        }
    )
    labels = pl.Series([True, False, True, False, True, None])
    found = verdict.row_figures(scores, labels)
    assert (found["precision"], found["recall"], found["f1"]) == pytest.approx((0.5, 1 / 3, 0.4))
    abnormal, guess = [1, 0, 1, 0], [0.9, 0.5, -0.1, -0.4]
    assert found["roc_auc"] == metrics.roc_auc_score(abnormal, guess) == 0.75
    assert found["pr_auc"] == metrics.average_precision_score(abnormal, guess)


def test_of_rows_that_are_all_alike_there_is_no_area_under_a_curve() -> None:
    scores = pl.DataFrame({"anomaly_score": [0.1, 0.2], "is_anomaly": [False, False]})
    found = verdict.row_figures(scores, pl.Series([False, False]))
    assert set(found.values()) == {None}
