"""The channels of two tables that nobody has described: every column of numbers that both have.

Owns what becomes a channel. Columns of text with few values become categories.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from worker.core.channels import ChannelSpec, spec_from_dict
from worker.core.errors import ConfigError
from worker.training.columns import ColumnError, channel_name, names, numbers
from worker.training.readings import KEYS, Recording, files_of, load_columns, recording_of

MOST_VALUES = 16
MOST_CHANNELS = 200
_UNIT = re.compile(r"[\[(]([^\])]{1,16})[\])]\s*$")


def read_undescribed(data: Path, reference: Path) -> tuple[ChannelSpec, Recording, Recording]:
    """Read two tables, and say what channels they share.

    Raises:
        ConfigError: one cannot be read, or they share no column of numbers.
    """
    tables = [_load(data, "--data"), _load(reference, "--reference")]
    both = [name for name in tables[1].columns if name in tables[0].columns and name not in KEYS]
    channels: dict[str, dict[str, Any]] = {}
    for name in both:
        channel = _channel(name, [table[name] for table in tables])
        if channel is not None and channel["name"] not in {c["name"] for c in channels.values()}:
            channels[name] = channel
    if not any(c["kind"] == "continuous" for c in channels.values()):
        raise ConfigError(
            f"--data: {data} and {reference} share no column of numbers besides "
            f"{' and '.join(KEYS)}; say with --channels what they hold."
        )
    if len(channels) > MOST_CHANNELS:
        raise ConfigError(
            f"--data: {data} has {len(channels)} columns that could be channels, more than "
            f"{MOST_CHANNELS}; say with --channels which are to be compared."
        )
    spec = spec_from_dict({"name": "columns", "channel": list(channels.values())}, str(data))
    renamed = {name: channel["name"] for name, channel in channels.items()}
    found = [
        recording_of(_only(table, renamed), spec, str(path))
        for table, path in zip(tables, (data, reference), strict=True)
    ]
    return spec, found[0], found[1]


def _load(path: Path, option: str) -> pl.DataFrame:
    parts = [load_columns(file, None, option) for file in files_of(path, option)]
    try:
        return pl.concat(parts, how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise ConfigError(f"{option}: the tables in {path} have different columns.") from error


def _only(table: pl.DataFrame, renamed: dict[str, str]) -> pl.DataFrame:
    """The keys, and the channels under their names."""
    keys = [pl.col(name) for name in KEYS if name in table.columns]
    return table.select(*keys, *(pl.col(name).alias(new) for name, new in renamed.items()))


def _channel(name: str, columns: Iterable[pl.Series]) -> dict[str, Any] | None:
    """What a column is, as a specification says it; None: nothing that can be compared."""
    columns = list(columns)
    slug = channel_name(name)
    try:
        if all(numbers(column).is_not_null().any() for column in columns):
            unit = _UNIT.search(name)
            return {"name": slug, "kind": "continuous", "unit": unit[1] if unit else ""}
    except ColumnError:
        pass
    try:
        known = sorted({str(v) for column in columns for v in names(column).drop_nulls().unique()})
    except ColumnError:
        return None
    if not 0 < len(known) <= MOST_VALUES:
        return None
    return {"name": slug, "kind": "categorical", "values": known}
