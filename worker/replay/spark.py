"""A recording applied on a Spark cluster, by the same ``step``.

A task applies one day of one partition, and what is known of its machines then goes on to the
task of the next day with the data. Partitions are not divided further: a machine is silent, or
forgotten, by the clock of its partition, so machines alone would not give the same answers.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from worker.core.changelog import StateReader
from worker.core.errors import ConfigError, RecordingError
from worker.core.state import PartitionState
from worker.models.bundle import Bundle, load_bundle
from worker.pipelines import state_limits
from worker.recording.parquet import CHUNK_ROWS, READ
from worker.replay.engine import Spark
from worker.replay.partition import Applied, PartitionRun, Source

if TYPE_CHECKING:
    from pyspark import Broadcast
    from pyspark.sql import DataFrame, SparkSession

Task = Callable[[tuple[Any, ...], pd.DataFrame], pd.DataFrame]

CARRIED = -1
"""In place of an offset: the row holds what is known from the days before."""
TASKS_A_CORE = 4
_RESULT = "partition int, applied binary, scores binary, partials binary, carried binary"
_ROWS = pa.schema(
    [
        pa.field("offset", pa.int64()),
        pa.field("timestamp", pa.int64()),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
    ]
)
_opened: dict[str, Bundle] = {}
"""Bundles that this process has opened, by the hash of their files."""


@dataclass(frozen=True)
class _Files:
    """A bundle's files, which go to where the tasks run."""

    contents: dict[str, bytes]

    @classmethod
    def of(cls, bundle: Bundle) -> _Files:
        return cls({path.name: path.read_bytes() for path in sorted(bundle.path.iterdir())})

    def open(self) -> Bundle:
        digest = hashlib.sha256(b"".join(self.contents.values())).hexdigest()
        if digest not in _opened:
            with tempfile.TemporaryDirectory(prefix="driftdetector-") as folder:
                for name, content in self.contents.items():
                    (Path(folder) / name).write_bytes(content)
                _opened[digest] = load_bundle(folder, Path(folder), threads=1)
        return _opened[digest]


def apply_on_spark(
    bundle: Bundle,
    source: Source,
    cluster: Spark,
    folder: Path,
    on_progress: Callable[[int, int], None] = lambda done, size: None,
) -> list[Applied]:
    """Apply each partition of a recording from fresh state, day by day.

    Args:
        folder: where the files of the results go.
        on_progress: told how many days are done, and of how many.

    Returns:
        What came of each day of a partition, by partition and day.

    Raises:
        ConfigError: Spark cannot be started, or has no such data.
        RecordingError: days of a partition are not in the order of its offsets.
    """
    found: list[Applied] = []
    place = f"{cluster.data or source.root}/topic={source.topic}"
    with spark_session(cluster.master) as spark, _explained(place):
        records = spark.read.parquet(place)
        days = sorted(row["date"] for row in records.select("date").distinct().collect())
        files = spark.sparkContext.broadcast(_Files.of(bundle))
        tasks = spark.sparkContext.defaultParallelism * TASKS_A_CORE
        before: DataFrame | None = None
        for number, day in enumerate(days):
            rows = records.where(records["date"] == day).selectExpr(
                "partition", "offset", "unix_millis(timestamp) AS timestamp", "key", "value"
            )
            if before is not None:
                rows = rows.unionByName(_carried(before))
            # Grouping alone would put small groups together into few tasks.
            grouped = rows.repartition(tasks, "partition").groupBy("partition")
            result = grouped.applyInPandas(_task(source, files), _RESULT).persist()
            rows_of_results = result.drop("carried").toLocalIterator()
            found += [_keep(row.asDict(), folder, number) for row in rows_of_results]
            if before is not None:
                before.unpersist()
            before = result
            on_progress(number + 1, len(days))
        if before is not None:
            before.unpersist()
    return sorted(found, key=lambda one: one.path.name)


def _carried(result: DataFrame) -> DataFrame:
    """What is known after a day, as a row of the next day's records."""
    return result.selectExpr(
        "partition",
        f"CAST({CARRIED} AS BIGINT) AS offset",
        "CAST(NULL AS BIGINT) AS timestamp",
        "CAST(NULL AS BINARY) AS key",
        "carried AS value",
    )


def _task(source: Source, files: Broadcast[_Files]) -> Task:
    """What Spark calls for each day of a partition, wherever it likes."""

    def task(key: tuple[Any, ...], rows: pd.DataFrame) -> pd.DataFrame:
        table = pa.Table.from_pandas(rows[list(READ)], _ROWS, preserve_index=False)
        return pd.DataFrame([_apply(source, files.value.open(), int(key[0]), table)])

    return task


def _apply(source: Source, bundle: Bundle, partition: int, table: pa.Table) -> dict[str, Any]:
    """Apply one day of a partition, columns ``_ROWS`` in any order."""
    table = table.sort_by("offset")
    state = None
    if table["offset"][0].as_py() == CARRIED:
        state = _restore(bundle, source, table["value"][0].as_py())
        table = table.slice(1)
        if table.num_rows and table["offset"][0].as_py() < state.next_offset:
            raise RecordingError(
                f"partition {partition} has offset {table['offset'][0].as_py()} on a later day "
                f"than offset {state.next_offset - 1}; its days are not in the order of offsets."
            )
    with (
        tempfile.TemporaryDirectory(prefix="driftdetector-") as folder,
        PartitionRun(bundle, source, Path(folder), partition, state) as run,
    ):
        for batch in table.combine_chunks().to_batches(CHUNK_ROWS):
            run.take(batch)
        applied = run.finish()
        kept = applied.kept
        return {
            "partition": partition,
            "applied": pickle.dumps(applied),
            "scores": applied.path.read_bytes(),
            "partials": b"" if kept is None else kept.path.read_bytes(),
            "carried": pickle.dumps((run.state.next_offset, run.state.snapshot())),
        }


def _restore(bundle: Bundle, source: Source, carried: bytes) -> PartitionState:
    next_offset, rows = pickle.loads(carried)  # noqa: S301  # of our own tasks
    reader = StateReader(bundle.spec, state_limits(source.settings, bundle))
    reader.read(rows, range(len(rows)))
    return reader.finish(next_offset)


def _keep(row: dict[str, Any], folder: Path, day: int) -> Applied:
    """Write what came of a day of a partition."""
    applied: Applied = pickle.loads(row["applied"])  # noqa: S301  # of our own tasks
    path = folder / f"{applied.partition:05}-{day:05}.parquet"
    path.write_bytes(row["scores"])
    kept = applied.kept
    if kept is not None:
        kept = replace(kept, path=path.with_suffix(".partials"))
        kept.path.write_bytes(row["partials"])
    return replace(applied, path=path, kept=kept)


@contextmanager
def spark_session(master: str | None) -> Iterator[SparkSession]:
    """A session of its own, or the one that runs already, which goes on.

    Raises:
        ConfigError: Spark cannot be started.
    """
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    running = SparkSession.getActiveSession()
    builder = SparkSession.builder.appName("driftdetector backtest")
    if master is not None:
        builder = builder.master(master)
        if master.startswith("local"):
            # Tasks need the packages that are installed here, and Spark would take the first
            # python3 of PATH. It reads the variable alone: the configuration key is for submits.
            os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = builder.config("spark.ui.showConsoleProgress", "false")
    try:
        spark = running or builder.getOrCreate()
    except (PySparkException, OSError) as error:
        raise ConfigError(
            f"--master: Spark cannot be started: {_first_line(error)}; it needs Java 17 or newer "
            f"(JAVA_HOME is {os.environ.get('JAVA_HOME') or 'not set'}) and a cluster that "
            "answers."
        ) from error
    try:
        yield spark
    finally:
        if running is None:
            spark.stop()


@contextmanager
def _explained(place: str) -> Iterator[None]:
    """Say in a sentence what Spark found."""
    from pyspark.errors import AnalysisException, PySparkException

    try:
        yield
    except AnalysisException as error:
        raise ConfigError(
            f"--data: Spark finds no recording in {place}: {_first_line(error)}"
        ) from error
    except PySparkException as error:
        ours = re.search(r"worker\.core\.errors\.\w+: (.+)", str(error))
        theirs = re.findall(r"^\w[\w.]*Error: .+", str(error), re.MULTILINE)
        what = ours[1] if ours else theirs[-1] if theirs else _first_line(error)
        raise RecordingError(f"Spark could not apply the recording: {what}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
