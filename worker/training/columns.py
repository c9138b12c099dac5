"""Columns of tables as people write them: to numbers, names and epoch microseconds.

Owns what a column of a CSV or Parquet file may hold. Everything here works on whole
columns; what cannot be read raises :class:`ColumnError` with the first such value.
"""

from __future__ import annotations

import re

import polars as pl

from worker.core.events import LATEST_US

MISSING = ("", "null", "nan", "na", "none", "n/a", "-")
"""Text, in lower case, that says there is no value."""
_MOMENT = (
    r"^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?)?"
    r"\s*(?:(?i:(Z|UTC))|([+-])(\d{2}):?(\d{2})?)?$"
)
_EPOCH_NUMBER = r"^\d+(?:\.\d+)?$"
# From 1973 on, the numbers of seconds, milliseconds, microseconds and nanoseconds do not overlap.
_EPOCH_UNITS = ((10**17, 1e-3), (10**14, 1), (10**11, 1_000), (10**8, 1_000_000))


LONGEST_NAME = 63


class ColumnError(Exception):
    """One value of a column cannot be what the column is meant to be.

    Attributes:
        row: position of the first such value; -1 where the column as a whole is wrong.
        value: what stands there.
    """

    def __init__(self, row: int, value: object) -> None:
        super().__init__(f"row {row}: {value!r}")
        self.row = row
        self.value = value


def names(column: pl.Series) -> pl.Series:
    """Machine ids, categories or codes as text, null where there is none; 7 and 7.0 are ``"7"``."""
    if column.dtype.is_nested():
        raise ColumnError(-1, column.dtype)
    if column.dtype.is_float():
        column = column.fill_nan(None)
        whole = column.cast(pl.Int64, strict=False)
        if not ((whole != column) | (whole.is_null() & column.is_not_null())).any():
            column = whole
    text = column.cast(pl.String).str.strip_chars()
    return text.set(text == "", None)


def channel_name(column: str) -> str:
    """A column's name in the form of a channel's: ``Air temperature [K]``, air_temperature_k."""
    name = re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")[:LONGEST_NAME]
    return name if name[:1].isalpha() else f"column_{name}"[:LONGEST_NAME].rstrip("_")


def numbers(column: pl.Series) -> pl.Series:
    """Readings as float64, null where there is none; infinities stay.

    Raises:
        ColumnError: text that is no number, or a column of times or lists.
    """
    if column.dtype in (pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
    if column.dtype == pl.String:
        column = _without_missing(column)
        return _strictly(column, column.cast(pl.Float64, strict=False)).fill_nan(None)
    if not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
        raise ColumnError(-1, column.dtype)
    return column.cast(pl.Float64).fill_nan(None)


def times_us(column: pl.Series) -> tuple[pl.Series, bool]:
    """Moments as epoch microseconds, null where there is none.

    Understands datetimes with or without a zone, dates, RFC 3339 text (also with a space
    instead of the T) and epoch seconds, milliseconds, microseconds or nanoseconds, which
    their size tells apart.

    Returns:
        The column, and whether some moments had no zone and were taken as UTC.

    Raises:
        ColumnError: a value is no moment between 1970 and 2100.
    """
    dtype = column.dtype
    if isinstance(dtype, pl.Datetime):
        result, naive = column.dt.epoch("us"), dtype.time_zone is None
    elif dtype == pl.Date:
        result, naive = column.cast(pl.Datetime("us")).dt.epoch("us"), True
    elif dtype.is_numeric():
        result, naive = _from_epoch(column), False
    elif dtype in (pl.String, pl.Categorical, pl.Enum):
        column = _without_missing(column.cast(pl.String))
        result, naive = _from_text(column)
    elif dtype == pl.Null:
        return column.cast(pl.Int64), False
    else:
        raise ColumnError(-1, dtype)
    result = result.set(~result.is_between(0, LATEST_US, closed="left"), None)
    return _strictly(column, result), naive and result.is_not_null().any()


def _without_missing(text: pl.Series) -> pl.Series:
    text = text.str.strip_chars()
    return text.set(text.str.to_lowercase().is_in(MISSING), None)


def _strictly(column: pl.Series, result: pl.Series) -> pl.Series:
    """``result``, unless it lacks a value that ``column`` has."""
    lost = result.is_null() & column.is_not_null()
    if column.dtype.is_float():
        lost &= column.is_not_nan()
    if lost.any():
        row = int(lost.arg_max() or 0)
        raise ColumnError(row, column[row])
    return result


def _from_epoch(column: pl.Series) -> pl.Series:
    moments = pl.lit(None, pl.Int64)
    for least, factor in reversed(_EPOCH_UNITS):
        # Whole numbers stay whole: a float64 does not hold a nanosecond of today.
        value = pl.col("x") // 1000 if factor < 1 else pl.col("x") * factor
        moments = pl.when(pl.col("x") >= least).then(_rounded(column, value)).otherwise(moments)
    whole = column if column.dtype.is_float() else column.cast(pl.Int64, strict=False)
    return pl.DataFrame({"x": whole}).select(moments.alias("t"))["t"]


def _rounded(column: pl.Series, value: pl.Expr) -> pl.Expr:
    return (value.round() if column.dtype.is_float() else value).cast(pl.Int64, strict=False)


def _from_text(text: pl.Series) -> tuple[pl.Series, bool]:
    parts = (
        pl.DataFrame({"text": text})
        .select(pl.col("text").str.extract_groups(_MOMENT).alias("parts"))
        .unnest("parts")
    )
    parts.columns = ["day", "hour", "minute", "second", "part", "utc", "sign", "ahead_h", "ahead_m"]

    def number(name: str, most: int) -> pl.Expr:
        value = pl.col(name).cast(pl.Int64).fill_null(0)
        return pl.when(value <= most).then(value)

    part_us = pl.col("part").str.pad_end(9, "0").cast(pl.Int64).fill_null(0) // 1000
    ahead_min = number("ahead_h", 23) * 60 + number("ahead_m", 59)
    ahead_min = pl.when(pl.col("sign") == "-").then(-ahead_min).otherwise(ahead_min)
    minutes = number("hour", 23) * 60 + number("minute", 59) - ahead_min
    day = pl.col("day").str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    moments = parts.select(
        t=day.dt.epoch("us") + (minutes * 60 + number("second", 60)) * 1_000_000 + part_us,
        naive=pl.col("utc").is_null() & pl.col("sign").is_null() & pl.col("day").is_not_null(),
    )
    numeric = text.str.contains(_EPOCH_NUMBER)
    result = moments["t"]
    if numeric.any():
        fractional = text.str.contains(".", literal=True).any()
        epoch = text.set(~numeric, None).cast(pl.Float64 if fractional else pl.Int64, strict=False)
        result = result.fill_null(_from_epoch(epoch))
    return result, bool(moments["naive"].any())
