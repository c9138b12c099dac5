from __future__ import annotations

from datetime import date, datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.training.columns import ColumnError, names, numbers, times_us

SIX = 1_769_839_200_000_000  # 2026-01-31T06:00:00Z
DATETIMES = st.datetimes(datetime.fromisoformat("1973-04-01"), datetime.fromisoformat("2099-12-31"))


@pytest.mark.parametrize(
    ("written", "naive"),
    [
        ("2026-01-31T06:00:00Z", False),
        ("2026-01-31T06:00:00.000000+00:00", False),
        ("2026-01-31 07:00:00+01:00", False),
        ("2026-01-31T01:30:00-0430", False),
        (" 2026-01-31 06:00:00 UTC", False),
        ("2026-01-31T06:00", True),
        ("1769839200", False),
        ("1769839200.0", False),
        ("1769839200000", False),
        ("1769839200000000", False),
        ("1769839200000000999", False),
    ],
)
def test_moments_may_be_written_in_several_ways_also_in_one_column(
    written: str, naive: bool
) -> None:
    column, taken_as_utc = times_us(pl.Series([written, None, "null", "2026-01-31T07:00:00+01:00"]))
    assert column.to_list() == [SIX, None, None, SIX]
    assert taken_as_utc is naive


def test_moments_may_be_numbers_datetimes_or_dates_of_any_kind() -> None:
    for number in (SIX // 1_000_000, SIX // 1000, SIX, SIX * 1000):
        assert times_us(pl.Series([number, None]))[0].to_list() == [SIX, None]
    assert times_us(pl.Series([SIX / 1e6 + 0.25, float("nan")]))[0].to_list() == [
        SIX + 250000,
        None,
    ]
    naive = pl.Series([datetime.fromisoformat("2026-01-31T06:00:00")])
    for unit in ("ms", "us", "ns"):
        column, taken_as_utc = times_us(naive.dt.cast_time_unit(unit))  # type: ignore[arg-type]
        assert (column.to_list(), taken_as_utc) == ([SIX], True)
    aware = naive.dt.replace_time_zone("Europe/Berlin")
    column, taken_as_utc = times_us(aware)
    assert (column.to_list(), taken_as_utc) == ([SIX - 3_600_000_000], False)
    column, taken_as_utc = times_us(pl.Series([date(2026, 1, 31)]))
    assert (column.to_list(), taken_as_utc) == ([SIX - 6 * 3_600_000_000], True)


@given(DATETIMES, st.sampled_from(["Z", "+05:30", "-11:00", ""]), st.sampled_from(["T", " "]))
def test_text_is_read_as_python_reads_it(moment: datetime, zone: str, between: str) -> None:
    text = moment.isoformat(between) + zone
    aware = datetime.fromisoformat(text if zone else text + "Z")
    expected = pl.Series([aware]).dt.epoch("us")
    assert times_us(pl.Series([text]))[0].to_list() == expected.to_list()


@pytest.mark.parametrize(
    "value",
    [
        *("yesterday", "2026-02-30", "2026-13-01T00:00:00Z", "2026-01-31T24:01:00Z", "5", "-5"),
        *("1969-12-31T23:59:59Z", "2100-01-01T00:00:00Z", "31.01.2026", "2026-01-31T06:00:61Z"),
        *(5, -5, 5.0, datetime.fromisoformat("1960-01-01"), 10**18 * 5, float("inf")),
    ],
)
def test_what_is_no_moment_is_refused_with_its_row(value: object) -> None:
    with pytest.raises(ColumnError) as refusal:
        times_us(pl.Series([None, value, None]))
    assert refusal.value.row == 1
    assert refusal.value.value == value


def test_numbers_may_be_of_any_numeric_type_or_text_and_nan_is_missing() -> None:
    for column in (
        pl.Series([1.5, None, float("nan")], dtype=pl.Float32),
        pl.Series(["1.5", "", "NaN"]),
        pl.Series([" 1.5", "null", "-"]),
        pl.Series(["1.5e0", "n/a", None], dtype=pl.Categorical),
    ):
        assert numbers(column).to_list() == [1.5, None, None]
    assert numbers(pl.Series([1, None], dtype=pl.UInt8)).to_list() == [1.0, None]
    assert numbers(pl.Series([True, False])).to_list() == [1.0, 0.0]
    assert numbers(pl.Series([None, None])).to_list() == [None, None]
    assert numbers(pl.Series(["inf", "-1e400"])).to_list() == [float("inf"), float("-inf")]


def test_what_is_no_number_is_refused_with_its_row() -> None:
    with pytest.raises(ColumnError, match="row 2: 'x'"):
        numbers(pl.Series(["1", None, "x", "y"]))
    for column in (pl.Series([[1.0]]), pl.Series([datetime.fromisoformat("2026-01-01")])):
        with pytest.raises(ColumnError) as refusal:
            numbers(column)
        assert refusal.value.row == -1
        with pytest.raises(ColumnError):
            times_us(pl.Series([[1.0]]))


def test_names_are_text_and_whole_numbers_stay_whole() -> None:
    assert names(pl.Series([7, None])).to_list() == ["7", None]
    assert names(pl.Series([7.0, float("nan")])).to_list() == ["7", None]
    assert names(pl.Series([7.5, 8.0])).to_list() == ["7.5", "8.0"]
    assert names(pl.Series(["a", " ", None], dtype=pl.Categorical)).to_list() == ["a", None, None]
    with pytest.raises(ColumnError):
        names(pl.Series([[1]]))
