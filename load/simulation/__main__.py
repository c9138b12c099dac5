"""``make simulate``: run seeds, show what they met, and replay the one that failed."""

from __future__ import annotations

import re
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

from load.simulation.campaign import Summary, run_campaign
from load.simulation.world import Outcome, simulate

app = typer.Typer(add_completion=False)
console = Console(highlight=False)


def parse_seeds(text: str) -> range:
    """``"5000"`` is 0 to 4999; ``"100-199"`` includes both ends.

    Raises:
        typer.BadParameter: it is neither, or empty.
    """
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is neither a count nor a range such as 100-199.")
    first, last = (int(match[1]), int(match[2])) if match[2] else (0, int(match[1]) - 1)
    if last < first:
        raise typer.BadParameter(f"{text!r} holds no seed.")
    return range(first, last + 1)


@app.command()
def main(
    seeds: Annotated[str, typer.Option(help="How many, or a range such as 100-199.")] = "1000",
    seed: Annotated[int | None, typer.Option(help="Only this one, with its whole trace.")] = None,
) -> None:
    """Run the worker on an in-memory broker, under faults that each seed decides."""
    if seed is not None:
        outcome = simulate(seed, whole_trace=True)
        _show_trace(outcome)
        raise typer.Exit(outcome.violation is not None)
    wanted = parse_seeds(seeds)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("seeds", total=len(wanted))
        summary = run_campaign(wanted, lambda: progress.advance(task))
    console.print(_table(summary))
    for outcome in summary.failed:
        _show_trace(outcome)
    if summary.never_happened:
        console.print(f"[red]never happened:[/] {', '.join(summary.never_happened)}")
    colour = "red" if summary.violations else "green"
    console.print(
        f"[{colour}]{summary.seeds} seeds, {summary.virtual_s / 3600:.1f} simulated hours, "
        f"{summary.violations} violations[/]"
    )
    raise typer.Exit(bool(summary.violations or summary.never_happened))


def _table(summary: Summary) -> Table:
    table = Table("what happened", "times", box=None)
    for kind, count in sorted(summary.happened.items()):
        table.add_row(kind, f"{count:,}")
    return table


def _show_trace(outcome: Outcome) -> None:
    for line in outcome.trace:
        console.print(escape(line), soft_wrap=True)
    if outcome.violation is None:
        console.print(f"[green]seed {outcome.seed}: all checks hold[/]")
    else:
        console.print(f"[red]seed {outcome.seed}: {escape(outcome.violation)}[/]", soft_wrap=True)
        console.print(f"replay it with: make simulate SEED={outcome.seed}")


if __name__ == "__main__":
    app()
