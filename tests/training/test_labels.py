from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from worker.core.errors import ConfigError
from worker.judging.truth import EPISODES
from worker.training.labels import Verdict, judge, read_labels

START = datetime(2026, 1, 31, tzinfo=UTC)
HOUR_US = 3_600_000_000


def at(hours: float | None) -> datetime | None:
    return None if hours is None else START + timedelta(hours=hours)


def labels(*rows: tuple[str, float, float]) -> pl.DataFrame:
    return pl.DataFrame([(m, at(a), at(b), None) for m, a, b in rows], EPISODES, orient="row")


def episodes(*rows: tuple[str, float]) -> pl.DataFrame:
    schema = {"machine_id": pl.String, "opened_at": pl.Datetime("us", "UTC")}
    return pl.DataFrame([(m, at(a)) for m, a in rows], schema, orient="row")


def test_labels_are_read_as_the_truth_of_a_backtest_is(tmp_path: Path) -> None:
    csv = tmp_path / "labels.csv"
    csv.write_text("end,kind,machine_id,start\n1769842800000,bearing,7,2026-01-31T06:00:00Z\n")
    expected = labels(("7", 6, 7)).with_columns(label=pl.lit("bearing"))
    assert read_labels(csv).equals(expected)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("machine_id,begin\n", r"has no rows"),
        ("machine_id,start,end\na,yesterday,1769842800\n", r"row 1, start: 'yesterday' is not a"),
        ("begin,end\n1769842800,1769842801\n", r"needs the columns machine_id, begin and end"),
        ("machine_id,timestamp,label\na,1769842800,1\n", r"needs the columns machine_id, begin"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"--labels: .*{sentence}"):
        read_labels(path)


def test_an_episode_is_false_when_it_opens_in_no_fault_of_its_machine() -> None:
    known = labels(("a", 1, 2), ("a", 5, 6), ("b", 1, 2))
    found = episodes(
        ("a", 0.8),  # somewhat before the first fault
        ("a", 1.5),  # the first fault again
        ("a", 3),  # between faults
        ("b", 2.5),  # after the fault
        ("c", 1),  # of a machine without faults
    )
    assert judge(known, found, HOUR_US // 4) == Verdict(labels=3, caught=1, episodes=5, false=3)
    assert judge(known, found, 0) == Verdict(labels=3, caught=1, episodes=5, false=4)


def test_catching_nothing_is_worth_nothing() -> None:
    assert judge(labels(("a", 1, 2)), episodes(), 0).f1 == 0.0
    assert judge(labels(("a", 1, 2)), episodes(("a", 3)), 0).f1 == 0.0
    assert judge(labels(("a", 1, 2)), episodes(("a", 1)), 0).f1 == 1.0
    assert Verdict(labels=2, caught=1, episodes=2, false=1).f1 == 0.5
