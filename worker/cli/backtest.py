"""``driftdetector backtest``: what a bundle would have said of recorded readings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from worker.cli import backtest_view as view
from worker.cli.context import Context, context_of
from worker.core.errors import ConfigError
from worker.replay.engine import Spark
from worker.settings import setting_keys

if TYPE_CHECKING:
    from worker.replay.sides import Report, Side


class Where(StrEnum):
    """What applies a recording."""

    LOCAL = "local"
    SPARK = "spark"


FAILED = 1
"""Exit status when a condition of --fail-if is met."""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="backtest")(backtest_command)


def backtest_command(
    context: typer.Context,
    data: Annotated[
        str,
        typer.Option(
            metavar="PATH",
            help="CSV or Parquet file, a folder of them, or a recording; of Spark also an address.",
        ),
    ],
    model: Annotated[str, typer.Option(help="Bundle: name, name/version, or its folder.")],
    out: Annotated[Path, typer.Option(help="Folder for scores, episodes, health and summary.")],
    warm_up: Annotated[
        Path | None, typer.Option(help="Readings from before, for the state to begin with.")
    ] = None,
    topic: Annotated[
        str | None, typer.Option(help="Of a recording. Default: the only one there is.")
    ] = None,
    messages: Annotated[
        bool,
        typer.Option(
            "--messages", help="Of a recording: also keep what a worker would have published."
        ),
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Of a recording: processes. Default: all cores.")
    ] = None,
    engine: Annotated[
        Where, typer.Option(help="Of a recording: this machine, or a Spark cluster.")
    ] = Where.LOCAL,
    master: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Of Spark, such as yarn. Default: as Spark's own settings say."
        ),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="Known faults, or labels of rows: CSV or Parquet.")
    ] = None,
    truth_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Column of the data that says by 0 or 1 what is known."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="OTHER", help="A second side: another bundle, or other settings (a TOML file)."
        ),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            metavar="KEY=VALUES",
            help="Try a setting: threshold=-0.2:0:0.02, budget=0.01,0.1,1, "
            "episodes.merge_gap_s=60,600.",
        ),
    ] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help='Such as "recall < 0.9", of the numbers in summary.json: exit status 1; may be '
            "repeated.",
        ),
    ] = None,
) -> None:
    """Score recorded readings as the worker would have; write the answers as tables.

    A recording goes through the worker's own step, record by record. Settings are a worker's.
    """
    if engine is Where.SPARK and messages:
        raise ConfigError("--messages: Spark keeps no messages; use --engine local.")
    if engine is Where.SPARK and jobs is not None:
        raise ConfigError("--jobs: Spark has tasks of its own; leave it out.")
    if engine is Where.LOCAL and master is not None:
        raise ConfigError("--master: is for --engine spark; leave it out.")
    if truth is not None and truth_column is not None:
        raise ConfigError("--truth-column: the truth is --truth already; leave one of them out.")
    shared = context_of(context)
    errors, console = Console(stderr=True), Console()
    with Progress(console=errors, transient=True) as progress, _extras():
        from worker.judging.gate import parse_condition
        from worker.judging.sweep import parse_sweep
        from worker.replay.sides import Side, data_of
        from worker.replay.trial import Trial, run_trial
        from worker.report.page import write_report

        applies = Spark(master) if engine is Where.SPARK else jobs or os.cpu_count() or 1
        judged = data_of(data, topic=topic, warm_up=warm_up, engine=applies)
        if messages and judged.topic is None:
            raise ConfigError(f"--messages: {data} is no recording; leave it out.")
        this = Side(model, shared.settings())
        row = None if sweep is None else parse_sweep(sweep, setting_keys())
        trial = Trial(
            judged,
            this,
            out,
            messages=messages,
            against=None if against is None else _other(against, this),
            truth=truth,
            truth_column=truth_column,
            sweep=row,
            swept=[shared.settings(overrides) for overrides in row.settings()] if row else [],
            conditions=[parse_condition(text) for text in fail_if or []],
        )
        summary = run_trial(trial, lambda step: _reporter(progress, step))
        report = None
        if not judged.is_remote:
            progress.add_task("writing the report", total=None)
            report = write_report(trial)
    for note in summary["notes"]:
        errors.print(f"note: {note}", highlight=False, markup=False)
    for table in view.tables(summary):
        console.print(table)
    if report is not None:
        console.print(str(report), soft_wrap=True, highlight=False, markup=False)
    console.print(str(out), soft_wrap=True, highlight=False, markup=False)
    if fail_if and not summary["gate"]["passed"]:
        raise typer.Exit(FAILED)


def _other(text: str, this: Side) -> Side:
    """The other side: a settings file for the same bundle, or a bundle with the same settings."""
    from worker.replay.sides import Side

    if not text.lower().endswith(".toml"):
        return Side(text, this.settings)
    if not Path(text).is_file():
        raise ConfigError(f"--against: there is no file {text!r}; write a settings file.")
    return Side(this.model, Context(Path(text)).settings(), "settings")


def _reporter(progress: Progress, step: str) -> Report:
    task = progress.add_task(step, total=None)
    return lambda done, size: progress.update(task, completed=done, total=size)


@contextmanager
def _extras() -> Iterator[None]:
    """Say which extra of the installation is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        spark = "record,train,spark"
        extras = {"pyarrow": "record,train", "pandas": spark, "pyspark": spark}
        extra = extras.get(error.name or "", "train")
        raise ConfigError(
            f"a backtest needs the package {error.name}; install driftdetector[{extra}]."
        ) from error
