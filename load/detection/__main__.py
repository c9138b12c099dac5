"""``make bench-detection``: what detection reaches where the truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from load.detection import report
from load.detection.campaign import DETECTORS, PRODUCT, make_cases, run, summarise
from load.detection.public import data_folder
from worker.core.errors import DriftDetectorError

SETS = ("ai4i", "skab", "nab", "fleets", "simulator")
PUBLIC = ("ai4i", "skab", "nab")
BUILD = Path("build/bench-detection.json")

app = typer.Typer(add_completion=False)
console = Console(stderr=True)


def _choose(text: str, allowed: tuple[str, ...], option: str) -> list[str]:
    chosen = [part.strip() for part in text.split(",")] if text else list(allowed)
    for part in chosen:
        if part not in allowed:
            raise typer.BadParameter(f"{option}: {part!r} is none of {', '.join(allowed)}.")
    return chosen


@app.command()
def main(
    sets: Annotated[str, typer.Option(help=f"Some of {', '.join(SETS)}; default: all.")] = "",
    detectors: Annotated[
        str, typer.Option(help=f"Some of {', '.join(DETECTORS)}; default: all.")
    ] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Of each synthetic fleet and plant.")] = 3,
    out: Annotated[Path, typer.Option(help="Where the figures go.")] = BUILD,
) -> None:
    """Measure detectors on public data, synthetic fleets and the simulator's machines."""
    wanted = _choose(sets, SETS, "--sets")
    names = _choose(detectors, tuple(DETECTORS), "--detectors")
    if not sets and data_folder() is None:
        console.print("DRIFTDETECTOR_DATA is not set: no public data, synthetic sets only")
        wanted = [name for name in wanted if name not in PUBLIC]
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("detecting", total=None)
            outcomes = run(
                make_cases(wanted, range(seeds)),
                names,
                lambda done, total: progress.update(task, completed=done, total=total),
            )
    except DriftDetectorError as error:
        console.print(str(error), style="red")
        raise typer.Exit(error.exit_code) from error
    results = [r for (group, name), own in outcomes.items() for r in summarise(group, name, own)]
    report.show(results, PRODUCT)
    report.write(results, PRODUCT, out)
    print(f"written to {out}")


if __name__ == "__main__":
    app()
