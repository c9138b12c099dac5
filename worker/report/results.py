"""What a backtest left in its folder, as the report takes it.

Owns which files are read; docs/backtesting.md says what is in them. Scores stay on disk, there may
be more than fit in memory.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from worker.core.errors import ConfigError
from worker.replay.sides import DRIFT, EPISODES, HEALTH, SCORES, SUMMARY, WINDOWS
from worker.replay.trial import AGAINST, TRUTH


@dataclass(frozen=True)
class Side:
    """What one candidate said.

    Attributes:
        scores: file with a row for each row of the data.
        episodes, health: a row for each; see ``worker.replay.tables``.
    """

    summary: dict[str, Any]
    scores: Path
    episodes: pl.DataFrame
    health: pl.DataFrame


@dataclass(frozen=True)
class Drift:
    """What the drift agent would have said; see ``worker.replay.drift_windows``."""

    events: pl.DataFrame
    windows: pl.DataFrame


@dataclass(frozen=True)
class Results:
    """A results folder.

    Attributes:
        this: what the model of the backtest said.
        other: what it was held against; None: nothing.
        truth: a row for each true episode; None: nobody knows.
        drift: None: the bundle has no reference.
    """

    this: Side
    other: Side | None
    truth: pl.DataFrame | None
    drift: Drift | None


def read_results(folder: Path) -> Results:
    """Read a results folder.

    Raises:
        ConfigError: it is none, or a file is damaged.
    """
    try:
        this = _side(folder)
        # An earlier backtest may have left more in the folder than this one's summary tells of.
        return Results(
            this=this,
            other=_side(folder / AGAINST) if this.summary.get("against") else None,
            truth=pl.read_parquet(folder / TRUTH) if this.summary.get("truth") else None,
            drift=_drift(folder) if this.summary.get("drift") else None,
        )
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise ConfigError(
            f"{folder} has no complete results of a backtest: {str(error).splitlines()[0]}; "
            "run the backtest again."
        ) from error


def _side(folder: Path) -> Side:
    return Side(
        summary=json.loads((folder / SUMMARY).read_text(encoding="utf-8")),
        scores=folder / SCORES,
        episodes=pl.read_parquet(folder / EPISODES),
        health=pl.read_parquet(folder / HEALTH),
    )


def _drift(folder: Path) -> Drift:
    return Drift(
        events=pl.read_parquet(folder / DRIFT),
        windows=pl.read_parquet(folder / WINDOWS),
    )
