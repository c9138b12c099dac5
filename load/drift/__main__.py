"""``make bench-drift``: false alarms and power where the truth is known, beside other libraries."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from load.drift import campaign, cost, environment, report
from load.drift.series import LONG, SHORT, Plan

BUILD = Path("build/bench-drift.json")

app = typer.Typer(add_completion=False)
console = Console(stderr=True)


@app.command()
def main(
    repetitions: Annotated[int, typer.Option(min=1, help="Of each kind of series.")] = 200,
    only: Annotated[str, typer.Option(help="short, long: kinds of references.")] = "short,long",
    others: Annotated[bool, typer.Option(help="Also measure other libraries.")] = True,
    windows: Annotated[int, typer.Option(help="To close while memory is watched.")] = 2000,
    out: Annotated[Path, typer.Option(help="Where the figures go.")] = BUILD,
) -> None:
    """Measure false alarms, power and cost of drift detection."""
    kinds = {"short": SHORT[0], "long": LONG[0]}
    wanted = [kinds[name] for name in only.split(",") if name in kinds]
    plans = [plan for plan in campaign.plans() if plan.reference_rows in wanted]
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    results: list[tuple[Plan, report.Counts]] = []
    compared: list[tuple[Plan, report.Counts]] = []
    with Progress(*columns, console=console, transient=True) as progress:
        for plan in plans:
            task = progress.add_task(f"{plan}", total=None)
            counts = campaign.run(
                plan,
                repetitions,
                os.cpu_count() or 1,
                lambda task=task: progress.advance(task),  # type: ignore[misc]
            )
            results.append((plan, counts))
            report.write(out, results, compared, {})
            progress.remove_task(task)
        if others:
            problem = environment.prepare()
            if problem is not None:
                console.print(problem, style="yellow")
            else:
                progress.add_task("other libraries", total=None)
                found = environment.compare(plans, repetitions)
                compared = list(zip(plans, found, strict=True))
    spent = cost.measure(windows)
    shown = Console(width=report.WIDTH)
    report.show(shown, results, compared)
    report.show_cost(shown, spent)
    report.write(out, results, compared, spent)
    print(f"written to {out}")


if __name__ == "__main__":
    app()
