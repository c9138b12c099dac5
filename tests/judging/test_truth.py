from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from worker.core.errors import ConfigError
from worker.judging import truth

START = datetime(2026, 1, 1, tzinfo=UTC)


def minute(number: int) -> datetime:
    return START + timedelta(minutes=number)


def written(folder: Path, text: str) -> Path:
    path = folder / "truth.csv"
    path.write_text(text)
    return path


def scores(rows: list[tuple[str | None, int | None]]) -> pl.DataFrame:
    return pl.DataFrame(
        [(name, None if at is None else minute(at)) for name, at in rows],
        {"machine_id": pl.String, "timestamp": truth.MOMENT},
        orient="row",
    )


@pytest.mark.parametrize(
    "text",
    [
        "machine_id,begin,end,label\n7,2026-01-01T00:02Z,2026-01-01T00:05Z,valve\n",
        "machine_id;start;until;kind\n7;2026-01-01 00:02:00;2026-01-01 00:05:00;valve\n",
        "fault,closed_at,opened_at,machine_id\nvalve,1767225900,1767225720,7\n",
    ],
)
def test_episodes_are_read_under_the_usual_names(text: str, tmp_path: Path) -> None:
    known = truth.read_truth(written(tmp_path, text))
    assert not known.by_row
    assert known.frame.rows() == [("7", minute(2), minute(5), "valve")]


def test_a_row_with_one_time_is_a_point(tmp_path: Path) -> None:
    text = "machine_id,timestamp,kind\na,2026-01-01T00:02:00Z,valve\n"
    known = truth.read_truth(written(tmp_path, text))
    assert known.frame.rows() == [("a", minute(2), minute(2), "valve")]
    spans = truth.windows(known.frame, 60_000_000)
    assert spans.rows() == [("a", minute(1), minute(3))]


def test_only_points_in_time_last_longer_than_they_say() -> None:
    episodes = pl.DataFrame([("a", minute(2), minute(3), None)], truth.EPISODES, orient="row")
    assert truth.windows(episodes, 60_000_000).rows() == [("a", minute(1), minute(3))]


def test_rows_with_one_time_and_labels_of_0_and_1_are_labels(tmp_path: Path) -> None:
    text = "machine_id,timestamp,label\na,2026-01-01T00:02:00Z,1\na,2026-01-01T00:03:00Z,0\n"
    known = truth.read_truth(written(tmp_path, text))
    assert known.by_row
    rows = scores([("a", 3), ("a", 2), ("b", 2), (None, None)])
    assert truth.labels_of_rows(known.frame, rows).to_list() == [False, True, None, None]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("machine_id,what\na,b\n", "has the columns machine_id, what; it needs"),
        ("machine_id,begin,end\n", "has no rows"),
        ("machine_id,begin,end\na,yesterday,1767225600\n", "row 1, begin: 'yesterday'"),
        ("machine_id,begin,end\na,1767225600,\n", "row 1: end is missing"),
        ("machine_id,begin,end\n,1767225600,1767225600\n", "row 1: machine_id is missing"),
        ("machine_id,begin,end\na,1767225601,1767225600\n", "row 1: the end is before the begin"),
    ],
)
def test_a_wrong_file_is_refused_by_row_and_column(
    text: str, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"--truth: .*truth.csv.*{sentence}"):
        truth.read_truth(written(tmp_path, text))


@pytest.mark.parametrize("values", [["1", "0", ""], [1.0, 0.0, None], [True, False, None]])
def test_labels_are_0_and_1_however_they_are_written(values: list[object]) -> None:
    assert truth.require_labels(pl.Series("x", values), "x").to_list() == [True, False, None]


@pytest.mark.parametrize("values", [["ok", "broken"], [0, 2], ["", None]])
def test_a_column_that_holds_no_labels_is_refused(values: list[object]) -> None:
    with pytest.raises(ConfigError, match="--truth-column: a label is 0 or 1"):
        truth.require_labels(pl.Series("x", values), "--truth-column")


def test_an_episode_is_a_run_of_labelled_rows_of_one_machine_in_the_order_of_time() -> None:
    rows = scores(
        [("b", 0), ("a", 3), ("a", 1), ("b", 1), ("a", 2), ("a", 4), ("a", 5), (None, 6), ("a", 7)]
    )
    labels = pl.Series([True, False, True, True, True, None, False, True, True])
    found = truth.episodes_of_labels(rows, labels)
    assert found.rows() == [
        ("a", minute(1), minute(2), None),
        ("a", minute(7), minute(7), None),
        ("b", minute(0), minute(1), None),
    ]


def test_episodes_of_machines_and_times_that_were_not_judged_are_left_out() -> None:
    rows = [("a", 0, 4), ("a", 21, 30), ("a", 12, 12), ("c", 0, 9)]
    known = pl.DataFrame(
        [(m, minute(b), minute(e), None) for m, b, e in rows], truth.EPISODES, orient="row"
    )
    machines = truth.machines_of(scores([("a", 2), ("a", 10), ("b", 2)]).lazy())
    kept, notes = truth.placed(known, machines, 2 * 60_000_000)
    assert kept.rows() == [known.row(0), known.row(2)]
    assert notes == [
        "true episodes of machines that the data do not have, left out: 1",
        "true episodes before or after the machine's readings, left out: 1",
    ]


def test_a_file_without_machines_is_of_the_only_one(tmp_path: Path) -> None:
    known = truth.read_truth(written(tmp_path, "begin,end\n1767225600,1767225660\n"))
    one = truth.machines_of(scores([("a", 2), ("a", 3)]).lazy())
    assert truth.with_machine(known, one)["machine_id"].to_list() == ["a"]
    two = truth.machines_of(scores([("a", 2), ("b", 3)]).lazy())
    with pytest.raises(ConfigError, match=r"truth.csv has no column machine_id.* 2 machines"):
        truth.with_machine(known, two)
