"""One side of a backtest over the data, tables and recordings alike, its answers in a folder.

Owns the files of a results folder that every backtest writes, and reading labels among the data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec
import polars as pl

from worker.assets import asset_dir
from worker.core.errors import ConfigError
from worker.models.bundle import Bundle, load_bundle
from worker.recording.files import recorded_topics, segments_of, topic_of
from worker.replay.backtest import Backtest, backtest
from worker.replay.engine import Engine, Spark
from worker.replay.remembering import RememberingModel
from worker.settings import Settings
from worker.training.readings import Recording, files_of, load_columns, read_recording

if TYPE_CHECKING:
    from worker.replay.recorded import Result

SCORES, EPISODES, HEALTH, DRIFT, WINDOWS = FILES = (
    "scores.parquet",
    "episodes.parquet",
    "health.parquet",
    "drift.parquet",
    "drift_windows.parquet",
)
SUMMARY = "summary.json"

Report = Callable[[float, float], None]
"""Told how much is done, and of how much."""


@dataclass(frozen=True)
class Data:
    """What is judged.

    Attributes:
        path: a table, a folder of tables, or a recording.
        topic: of a recording; None: it is none.
        warm_up: of tables: readings from before.
        engine: of a recording: what applies it.
    """

    path: Path
    topic: str | None = None
    warm_up: Path | None = None
    engine: Engine = 1

    @property
    def is_remote(self) -> bool:
        """Whether only Spark can read them."""
        return isinstance(self.engine, Spark) and self.engine.data is not None


def data_of(
    data: str | os.PathLike[str],
    *,
    topic: str | None = None,
    warm_up: Path | None = None,
    engine: Engine = 1,
) -> Data:
    """The data at a path, or at an address that Spark reads.

    Args:
        topic: of a recording; None: the only one there is.

    Raises:
        ConfigError: they do not go together.
    """
    text = os.fspath(data)
    path = Path(text)
    if isinstance(engine, Spark) and "://" in text:
        if topic is None:
            raise ConfigError("--topic: an address is not looked into, so name the recorded topic.")
        found, engine = topic, replace(engine, data=text)
    elif recorded_topics(path):
        found = topic_of(path, topic)
    elif topic is not None:
        raise ConfigError(f"--topic: {path} is no recording; leave it out.")
    elif isinstance(engine, Spark):
        raise ConfigError("--engine: Spark reads recordings; make one with driftdetector import.")
    else:
        return Data(path, None, warm_up)
    if warm_up is not None:
        raise ConfigError("--warm-up: a recording begins with fresh state; leave it out.")
    return Data(path, found, None, engine)


@dataclass(frozen=True)
class Side:
    """Who judges: a bundle with a worker's settings.

    Attributes:
        model: the bundle's name, ``name/version`` or folder.
        what: of another side: in what it differs.
    """

    model: str
    settings: Settings
    what: Literal["a bundle", "settings"] = "a bundle"


@dataclass(frozen=True)
class Outcome:
    """What a side said; its scores are in ``folder``, as there may be more than fit in memory."""

    folder: Path
    episodes: pl.DataFrame
    summary: dict[str, Any]

    @property
    def scores(self) -> pl.LazyFrame:
        """As ``tables.SCORES``, a row for each row or record of the data."""
        return pl.scan_parquet(self.folder / SCORES)


class Sides:
    """Lets sides judge the same data; tables are read, and put to a model, once for each bundle.

    Args:
        several: whether a bundle will judge more than once.
    """

    def __init__(self, data: Data, *, several: bool = False) -> None:
        self._data = data
        self._several = several
        self._tables: dict[str, _Table] = {}

    def run(
        self,
        side: Side,
        out: Path,
        report: Report,
        *,
        messages: Path | None = None,
        watches_drift: bool = True,
    ) -> Outcome:
        """Let a side judge; write scores, episodes, health, drift and summary to ``out``.

        Args:
            messages: of a recording: folder for what a worker would have published.
            watches_drift: whether windows are also judged for drift.

        Raises:
            ConfigError: the data cannot be read, or ``out`` not written.
            BundleError: the bundle is refused.
            RecordingError: a file of the recording is damaged.
        """
        make_folder(out)
        with writing(out):
            result: Backtest | Result
            if self._data.topic is None:
                result = self._of_table(side, report, watches_drift)
                result.scores.write_parquet(out / SCORES)
            else:
                result = self._of_recording(
                    self._data.topic, side, out, report, messages, watches_drift
                )
            result.episodes.write_parquet(out / EPISODES)
            result.health.write_parquet(out / HEALTH)
            if result.drift is not None:
                result.drift.events.write_parquet(out / DRIFT)
                result.drift.windows.write_parquet(out / WINDOWS)
            write_summary(result.summary, out)
        return Outcome(out, result.episodes, result.summary)

    def _of_table(self, side: Side, report: Report, watches_drift: bool) -> Backtest:
        if side.model not in self._tables:
            self._tables[side.model] = _read_table(self._data, side.model, self._several)
        bundle, recording, before = self._tables[side.model]
        return backtest(
            bundle,
            recording,
            settings=side.settings,
            warm_up=before,
            watches_drift=watches_drift,
            on_progress=lambda share: report(share, 1.0),
        )

    def _of_recording(
        self,
        topic: str,
        side: Side,
        out: Path,
        report: Report,
        messages: Path | None,
        watches_drift: bool,
    ) -> Result:
        from worker.replay.partition import Source  # pyarrow: an extra of its own
        from worker.replay.recorded import backtest_recording

        if messages is not None and messages.exists():
            raise ConfigError(f"--out: {messages} is there already; give another folder.")
        source = Source(self._data.path, topic, side.model, side.settings, messages, watches_drift)
        return backtest_recording(source, out / SCORES, self._data.engine, report)


class _Table(NamedTuple):
    bundle: Bundle
    recording: Recording
    warm_up: Recording | None


def _read_table(data: Data, model: str, several: bool) -> _Table:
    bundle = load_bundle(model, asset_dir("models"), threads=os.cpu_count() or 1)
    if several:
        bundle = replace(bundle, model=RememberingModel(bundle.model))
    recording = read_recording(data.path, bundle.spec)
    before = read_recording(data.warm_up, bundle.spec, "--warm-up") if data.warm_up else None
    return _Table(bundle, recording, before)


def write_summary(summary: dict[str, Any], out: Path) -> None:
    """Write ``summary.json``."""
    text = json.dumps(summary, indent=2, ensure_ascii=False)
    (out / SUMMARY).write_text(text + "\n", encoding="utf-8")


def make_folder(out: Path) -> None:
    """Make a results folder.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--out: {out} cannot be made: {error.strerror}; give a folder."
        ) from error


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Say in one sentence that a results folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"--out: {out} cannot be written: {error.strerror or error}; give another folder."
        ) from error


def column_of(data: Data, name: str) -> pl.Series:
    """A column of the data that is no channel, a value for each row of their scores.

    Raises:
        ConfigError: there is no such column.
    """
    if data.topic is not None:
        return _recorded_column(data.path, data.topic, name)
    found = []
    for file in files_of(data.path, "--data"):
        frame = load_columns(file, [name], "--data")
        if name not in frame.columns:
            raise ConfigError(f"--truth-column: {file} has no column {name!r}.")
        found.append(frame[name])
    return pl.concat(found, how="vertical_relaxed")


def _recorded_column(root: Path, topic: str, name: str) -> pl.Series:
    """A field of a recording's events, by partition and offset; null where there is none."""
    from worker.recording.parquet import CHUNK_ROWS, read_batches

    event = msgspec.defstruct(
        "Event", [("value", str | float | bool | None, None)], rename={"value": name}
    )
    decoder = msgspec.json.Decoder(event)
    found: list[str | None] = []
    for batch in read_batches(segments_of(root, topic), CHUNK_ROWS, ["value"]):
        found += [_text(decoder, value) for value in batch.column("value").to_pylist()]
    column = pl.Series(name, found, pl.String)
    if column.null_count() == len(column):
        raise ConfigError(f"--truth-column: no event of {root} has a field {name!r}.")
    return column


def _text(decoder: Any, value: bytes | None) -> str | None:
    """What an event has in the field; null also of what is no event."""
    try:
        found = None if value is None else decoder.decode(value).value
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return None if found is None else str(found)
