"""``make torture``: workers killed, frozen, cut off and rebalanced, on a real Kafka.

Scores a continuous load meanwhile, then compares outputs and state with those of an
undisturbed run and of a plain step. Exits 1 unless they are the same and every injection
was recovered from. Writes build/torture.json; logs are in build/torture/.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import shutil
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from load.torture.campaign import Campaign, Plan, Result
from load.torture.report import figures, tables

BUILD = Path("build")
FOLDER = BUILD / "torture"


def run(plan: Plan, folder: Path) -> Result:
    """Run a campaign with its progress on stderr."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("starting", total=plan.injections)

        def tell(step: str, done: int) -> None:
            progress.update(task, description=step, completed=done)

        return Campaign(plan, folder, tell).run()


def main() -> int:
    """Run the campaign; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="make torture",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for option in dataclasses.fields(Plan):
        default = random.randrange(1_000_000) if option.name == "seed" else option.default
        help_ = "default: another one each time" if option.name == "seed" else f"default {default}"
        name = "--" + option.name.replace("_", "-")
        parser.add_argument(name, type=int, default=default, help=help_, metavar="N")
    plan = Plan(**vars(parser.parse_args()))
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    Console(stderr=True).print(f"seed {plan.seed}; logs in {FOLDER}")
    try:
        result = run(plan, FOLDER)
    except (TimeoutError, RuntimeError) as error:
        print(f"The campaign could not go on: {error}; see {FOLDER}.", file=sys.stderr)
        return 1
    Console().print(tables(result))
    path = BUILD / "torture.json"
    path.write_text(json.dumps(figures(result), indent=2) + "\n")
    print(f"written to {path}")
    return 0 if result.passed else 1


if __name__ == "__main__":
    sys.exit(main())
