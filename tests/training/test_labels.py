from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from worker.core.errors import ConfigError
from worker.training.labels import Verdict, judge, read_labels

START = datetime(2026, 1, 31, tzinfo=UTC)
SIX_US = 1_769_839_200_000_000  # 2026-01-31T06:00:00Z


def at(hours: float | None) -> datetime | None:
    return None if hours is None else START + timedelta(hours=hours)


def labels(*rows: tuple[str, float, float]) -> pl.DataFrame:
    return pl.DataFrame(
        [(m, at(a), at(b)) for m, a, b in rows], ["machine_id", "start", "end"], orient="row"
    ).with_columns(pl.col("start", "end").dt.epoch("us"))


def episodes(*rows: tuple[str, float, float | None]) -> pl.DataFrame:
    schema = {
        "machine_id": pl.String,
        "opened_at": pl.Datetime("us", "UTC"),
        "closed_at": pl.Datetime("us", "UTC"),
    }
    return pl.DataFrame([(m, at(a), at(b)) for m, a, b in rows], schema, orient="row")


def test_labels_are_read_from_csv_and_parquet_with_any_other_columns(tmp_path: Path) -> None:
    csv = tmp_path / "labels.csv"
    csv.write_text("end,kind,machine_id,start\n1769842800000,bearing,7,2026-01-31T06:00:00Z\n")
    expected = {"machine_id": ["7"], "start": [SIX_US], "end": [SIX_US + 3_600_000_000]}
    assert read_labels(csv).to_dict(as_series=False) == expected
    parquet = tmp_path / "labels.parquet"
    pl.DataFrame({"machine_id": [7], "start": [at(6)], "end": [at(7)]}).write_parquet(parquet)
    assert read_labels(parquet).to_dict(as_series=False) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("machine_id,start\n", r"has no column 'end'; it needs machine_id, start and end"),
        ("machine_id,start,end\n", r"has no rows; leave the option out"),
        ("machine_id,start,end\na,yesterday,1769842800\n", r"row 1, start: 'yesterday' is not a"),
        ("machine_id,start,end\na,1769842800,1769842801\na,,1769842800\n", r"row 2: each fault"),
        ("machine_id,start,end\na,1769842801,1769842800\n", r"row 1: .*end that is not before"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"--labels: .*{sentence}"):
        read_labels(path)


def test_an_episode_is_false_when_it_overlaps_no_fault_of_its_machine() -> None:
    known = labels(("a", 1, 2), ("a", 5, 6), ("b", 1, 2))
    found = episodes(
        ("a", 0, 1),  # touches the first fault
        ("a", 1.5, 1.7),  # the first fault again
        ("a", 3, 4),  # between faults
        ("b", 2.5, None),  # after the fault, and still open
        ("c", 1, 2),  # of a machine without faults
    )
    assert judge(known, found) == Verdict(labels=3, caught=1, episodes=5, false=3)


def test_an_episode_that_is_still_open_reaches_to_the_end() -> None:
    verdict = judge(labels(("a", 5, 6)), episodes(("a", 1, None)))
    assert verdict == Verdict(labels=1, caught=1, episodes=1, false=0)
    assert verdict.f1 == 1.0


def test_catching_nothing_is_worth_nothing() -> None:
    assert judge(labels(("a", 1, 2)), episodes()).f1 == 0.0
    assert judge(labels(("a", 1, 2)), episodes(("a", 3, 4))).f1 == 0.0
    assert Verdict(labels=2, caught=1, episodes=2, false=1).f1 == 0.5
