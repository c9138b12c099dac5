"""``driftdetector worker --rebuild-state``: progress while state is rebuilt, and a table of it."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Self

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from worker.app import rebuild_state
from worker.core.messages import format_time_us
from worker.settings import Settings
from worker.transport.rebuild import Rebuilt, Stage

log = logging.getLogger(__name__)

TELL_EVERY_S = 5.0


def rebuild(settings: Settings) -> None:
    """Rebuild the state of all partitions; the table goes to stdout, all else to stderr.

    Raises:
        DriftDetectorError: it was refused or failed; partitions that were finished stay so,
            and running it again starts from the beginning.
    """
    with _Display(Console(stderr=True)) as display:
        rebuilt = []
        for partition in rebuild_state(settings, display.show):
            display.finish(partition)
            rebuilt.append(partition)
    Console().print(_table(rebuilt))
    for partition in rebuilt:
        if partition.warning is not None:
            typer.echo(f"warning: {partition.warning}", err=True)


class _Display:
    """One bar a partition on a terminal, lines in the log otherwise."""

    def __init__(self, console: Console) -> None:
        self._bars: Progress | None = None
        if console.is_terminal:
            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
            self._bars = Progress(*columns, console=console)
        self._tasks: dict[tuple[int, Stage], TaskID] = {}
        self._told_s = time.monotonic()

    def show(self, partition: int, stage: Stage, done: int, total: int) -> None:
        """Show how far a stage of a partition is."""
        if self._bars is not None:
            what = "reading events" if stage == "reading" else "writing rows"
            if (partition, stage) not in self._tasks:
                self._tasks[partition, stage] = self._bars.add_task(
                    f"partition {partition}: {what}", total=total
                )
            self._bars.update(self._tasks[partition, stage], completed=done)
        elif time.monotonic() - self._told_s > TELL_EVERY_S:
            self._told_s = time.monotonic()
            log.info("partition %d: %s, %d of %d", partition, stage, done, total)

    def finish(self, rebuilt: Rebuilt) -> None:
        """Say that a partition is done."""
        if self._bars is None:
            log.info(
                "partition %d: rebuilt from %d events: %d machines, %d rows written, %d removed",
                rebuilt.partition,
                rebuilt.events,
                rebuilt.machines,
                rebuilt.rows_written,
                rebuilt.rows_removed,
            )

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()


def _table(rebuilt: list[Rebuilt]) -> Table:
    table = Table(title="Rebuilt state")
    for column in ("partition", "events read", "machines", "rows written", "rows removed"):
        table.add_column(column, justify="right")
    table.add_column("events from about")
    for row in rebuilt:
        counts = (row.events, row.machines, row.rows_written, row.rows_removed)
        from_when = "-" if row.first_time_us is None else format_time_us(row.first_time_us)
        table.add_row(str(row.partition), *(f"{count:,}" for count in counts), from_when)
    return table
