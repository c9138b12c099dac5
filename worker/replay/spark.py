"""A recording applied on a Spark cluster, by the same ``step``.

A task applies one day of one machine (``machines.py``), and what is known of the machine then goes
on to the task of the next day with its records. What the driver does: the clocks of the partitions
from a first look at all records, and files of what comes of each day of a partition.
"""

from __future__ import annotations

import os
import pickle
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from worker.core.errors import ConfigError, RecordingError
from worker.models.bundle import Bundle
from worker.replay import spark_tasks as tasks
from worker.replay.drift_windows import KeptFile
from worker.replay.engine import Spark
from worker.replay.machines import Clock, Mark, clocks_of
from worker.replay.partition import Applied, Source, schema
from worker.settings import KafkaSettings

if TYPE_CHECKING:
    from pyspark import Broadcast
    from pyspark.sql import DataFrame, SparkSession

TASKS_A_CORE = 4
_DATE = re.compile(r"/date=(\d{4}-\d\d-\d\d)/[^/\n]+$", re.MULTILINE)


def apply_on_spark(
    bundle: Bundle,
    source: Source,
    cluster: Spark,
    folder: Path,
    on_progress: Callable[[int, int], None] = lambda done, size: None,
) -> list[Applied]:
    """Apply each machine of a recording from fresh state, day by day.

    Args:
        folder: where the files of the results go.
        on_progress: told how many days are done, and of how many.

    Returns:
        What came of each day of a partition, by partition and day.

    Raises:
        ConfigError: Spark cannot be started, or has no such data; or a partition has more
            machines than a worker takes.
        RecordingError: days of a partition are not in the order of its offsets.
    """
    place = f"{cluster.data or source.root}/topic={source.topic}"
    with _session(cluster.master) as spark, _explained(place):
        days = _Days(spark, bundle, source, place, folder)
        for done in days.apply():
            on_progress(done, len(days.dates))
    return sorted(days.found, key=lambda one: one.path.name)


class _Days:
    """The days of a recording, one after the other.

    Attributes:
        found: what came of each day of a partition.
    """

    def __init__(
        self, spark: SparkSession, bundle: Bundle, source: Source, place: str, folder: Path
    ) -> None:
        self._spark, self._bundle, self._source, self._folder = spark, bundle, source, folder
        self._records = spark.read.option("pathGlobFilter", "*.parquet").parquet(place)
        # The names of the files say it: a query would open each of them.
        self.dates = sorted(set(_DATE.findall("\n".join(self._records.inputFiles()))))
        self.found: list[Applied] = []
        # Only what judging needs leaves this machine.
        settings = source.settings.model_copy(update={"kafka": KafkaSettings()})
        job = tasks.Job.of(bundle, replace(source, settings=settings))
        self._job: Broadcast[tasks.Job] = spark.sparkContext.broadcast(job)
        self._tasks = spark.sparkContext.defaultParallelism * TASKS_A_CORE
        self._clocks: dict[int, Clock] = {}

    def apply(self) -> Iterator[int]:
        """Apply each day; yields how many are done."""
        before: DataFrame | None = None
        for number, date in enumerate(self.dates):
            result = self._apply(date, before)
            self._keep(result, number)
            before = result
            yield number + 1

    def _apply(self, date: str, before: DataFrame | None) -> DataFrame:
        """What comes of each machine's day; also of those that say nothing."""
        rows = self._records.where(f"date = '{date}'").selectExpr(*tasks.READ)
        # The first look has to see the same stretches as the tasks.
        placed = rows.mapInArrow(tasks.placing(self._job), tasks.PLACED).persist()
        marks = placed.where("marked").select(*Mark._fields).collect()
        clocks = clocks_of((Mark(*row) for row in marks), self._bundle.spec.pane_us, self._clocks)
        self._clocks |= clocks
        grouped = placed.drop("before_us", "marked")
        if before is not None:
            grouped = grouped.unionByName(
                before.where("carried IS NOT NULL").selectExpr(*tasks.CARRY)
            )
        # Grouping alone would put small groups together into few tasks.
        grouped = grouped.repartition(self._tasks, *tasks.GROUP)
        task = tasks.applying(self._job, self._spark.sparkContext.broadcast(clocks))
        result = grouped.groupBy(*tasks.GROUP).applyInPandas(task, tasks.RESULT)
        # Without what led to it: a plan of all days before would grow from day to day.
        reliably = self._spark.sparkContext.getCheckpointDir() is not None
        result = result.checkpoint() if reliably else result.localCheckpoint()
        placed.unpersist()
        return result

    def _keep(self, result: DataFrame, number: int) -> None:
        """Write what came of a day: for each partition its scores and its partials."""
        parts: dict[int, Applied] = {}
        machines: Counter[int] = Counter()
        rows = result.where("applied IS NOT NULL").select("partition", "machine", "applied")
        for partition, machine, applied in rows.collect():
            path = self._folder / f"{partition:05}-{number:05}.parquet"
            part = parts.setdefault(partition, Applied(partition, path))
            part.join(pickle.loads(applied))  # noqa: S301  # of our own tasks
            machines[partition] += machine != ""
        self._refuse_more(machines)
        self._keep_scores(result, parts)
        if self._source.watches_drift and self._bundle.reference is not None:
            self._keep_partials(result, parts)
        self.found += parts.values()

    def _refuse_more(self, machines: Counter[int]) -> None:
        """A worker would refuse some; by single machines it cannot be said which."""
        most = self._source.settings.worker.max_machines
        for partition, count in machines.items():
            if count > most:
                raise ConfigError(
                    f"--engine: partition {partition} has {count:,} machines on a day, more than "
                    f"worker.max_machines ({most:,}), so a worker may refuse some, which Spark "
                    "does not do; use --engine local, or allow for more."
                )

    def _keep_scores(self, result: DataFrame, parts: Mapping[int, Applied]) -> None:
        scores = result.where("scores IS NOT NULL").select("scores")
        scores = scores.mapInArrow(tasks.unpacking, tasks.SCORED)
        # All of a partition are in one task, which sorts them without having them in memory.
        scores = scores.repartition("partition").sortWithinPartitions("partition", "offset")
        packed = scores.mapInArrow(tasks.packing, tasks.PACKED).toLocalIterator()
        for partition, own in groupby(packed, key=itemgetter("partition")):
            with pq.ParquetWriter(parts[partition].path, schema(), compression="zstd") as file:
                for row in own:
                    file.write_table(tasks.scores_in(row["scores"]))

    def _keep_partials(self, result: DataFrame, parts: Mapping[int, Applied]) -> None:
        settings = self._source.settings.drift
        files = {
            partition: KeptFile(settings, partition, part.path.with_suffix(".partials"))
            for partition, part in parts.items()
        }
        watched = result.selectExpr("partition", "inline(watched)").groupBy("partition", "panes")
        partials = watched.applyInPandas(tasks.gathering(self._job), tasks.PARTIALS)
        for partition, group, start_us, content in partials.toLocalIterator():
            files[partition].write(start_us, group, bytes(content))
        for partition, file in files.items():
            parts[partition].kept = file.finish()


@contextmanager
def _session(master: str | None) -> Iterator[SparkSession]:
    """A session of its own, or the one that runs already, which goes on."""
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    running = SparkSession.getActiveSession()
    builder = SparkSession.builder.appName("driftdetector backtest")
    if master is not None:
        builder = builder.master(master)
        if master.startswith("local"):
            # Tasks need the packages that are installed here.
            builder = builder.config("spark.pyspark.python", sys.executable)
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
        what = ours[1] if ours else _first_line(error)
        raise RecordingError(f"Spark could not apply the recording: {what}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
