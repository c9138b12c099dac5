"""Backtests for notebooks and scripts: the same as the commands, with tables as answers."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from worker.core.errors import ConfigError
from worker.core.messages import to_time_us
from worker.recording.files import topic_of
from worker.replay.engine import Engine
from worker.replay.moment import Moment, moment_of
from worker.replay.partition import Source
from worker.replay.sides import DRIFT, EPISODES, HEALTH, SCORES, SUMMARY, WINDOWS, Side, data_of
from worker.replay.trial import AGAINST, TRUTH, Trial, run_trial
from worker.settings import load_settings


@dataclass(frozen=True)
class Results:
    """What a backtest found. Tables have ``to_pandas()``; polars takes them by ``pl.from_arrow``.

    Attributes:
        folder: has the same as files; without ``out`` it goes with this object.
        summary: counts and rates, as in ``summary.json``.
        against: the other side's, if there is one.
    """

    folder: Path
    summary: dict[str, Any] = field(repr=False)
    against: Results | None = field(default=None, repr=False)
    _keeps: Any = field(default=None, repr=False)

    @property
    def scores(self) -> pa.Table:
        """A row for each row or record of the data."""
        return pq.read_table(self.folder / SCORES)

    @property
    def episodes(self) -> pa.Table:
        """A row for each episode."""
        return pq.read_table(self.folder / EPISODES)

    @property
    def health(self) -> pa.Table:
        """A row for each fault of a sensor or machine."""
        return pq.read_table(self.folder / HEALTH)

    @property
    def drift(self) -> pa.Table | None:
        """A row for each drift; None: the bundle has no reference."""
        return self._read(DRIFT)

    @property
    def drift_windows(self) -> pa.Table | None:
        """A row for each window that was held against the reference; None: there is none."""
        return self._read(WINDOWS)

    @property
    def truth(self) -> pa.Table | None:
        """A row for each true episode; None: nothing was known."""
        return self._read(TRUTH)

    def _read(self, name: str) -> pa.Table | None:
        path = self.folder / name
        return pq.read_table(path) if path.exists() else None


def run_backtest(
    data: str | os.PathLike[str],
    model: str | os.PathLike[str],
    *,
    against: str | os.PathLike[str] | None = None,
    truth: str | os.PathLike[str] | None = None,
    truth_column: str | None = None,
    warm_up: str | os.PathLike[str] | None = None,
    topic: str | None = None,
    settings: dict[str, Any] | None = None,
    engine: Engine = 1,
    out: str | os.PathLike[str] | None = None,
) -> Results:
    """Say what a bundle would have said of recorded readings, as ``driftdetector backtest`` does.

    Args:
        data: CSV or Parquet file, a folder of them, or a recording; of Spark also an address.
        model: bundle: name, ``name/version`` or folder.
        against: another bundle beside.
        truth: known faults, or labels of rows: CSV or Parquet.
        truth_column: column of the data that says it instead.
        warm_up: of tables: readings from before.
        topic: of a recording; default: the only one there is.
        settings: of a worker, by dotted name, such as ``{"detection.budget": 0.5}``; others are
            as for the commands: environment, ``driftdetector.toml``, defaults.
        engine: of a recording: how many processes, or ``Spark("yarn")``. A script that asks for
            more than one process needs an ``if __name__ == "__main__"``.
        out: folder to keep the files in.

    Raises:
        DriftDetectorError: something that was given cannot be used; one sentence says what.
    """
    chosen = load_settings(None, os.environ, settings)
    keeps = tempfile.TemporaryDirectory(prefix="driftdetector-") if out is None else None
    folder = Path(keeps.name if keeps is not None else os.fspath(out or ""))
    before = None if warm_up is None else Path(warm_up)
    other = None if against is None else Side(os.fspath(against), chosen)
    trial = Trial(
        data_of(data, topic=topic, warm_up=before, engine=engine),
        Side(os.fspath(model), chosen),
        folder,
        against=other,
        truth=None if truth is None else Path(truth),
        truth_column=truth_column,
    )
    summary = run_trial(trial, lambda step: lambda done, size: None)
    beside = None
    if other is not None:
        text = (folder / AGAINST / SUMMARY).read_text(encoding="utf-8")
        beside = Results(folder / AGAINST, json.loads(text), None, keeps)
    return Results(folder, summary, beside, keeps)


def explain(
    recording: str | os.PathLike[str],
    machine_id: str,
    at: datetime,
    model: str | os.PathLike[str],
    *,
    topic: str | None = None,
    settings: dict[str, Any] | None = None,
) -> Moment:
    """Say what was known of a machine at a moment, as ``driftdetector explain`` does.

    Args:
        at: with a time zone; the machine's last reading up to then is explained.

    Raises:
        DriftDetectorError: something that was given cannot be used; one sentence says what.
    """
    if at.tzinfo is None:
        raise ConfigError(f"at: {at} has no time zone; write at.replace(tzinfo=UTC), for example.")
    root, chosen = Path(recording), load_settings(None, os.environ, settings)
    source = Source(root, topic_of(root, topic), os.fspath(model), chosen)
    return moment_of(source, machine_id, to_time_us(at))
