"""``driftdetector topics``: create the declared topics, and compare a cluster with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.context import context_of

if TYPE_CHECKING:
    from worker.settings import Settings
    from worker.topics import Difference, Topic

TIMEOUT_S = 10.0
EXIT_DIFFERENT = 1


def register(app: typer.Typer) -> None:
    """Add the command group ``topics``."""
    group = typer.Typer(no_args_is_help=True)
    group.command("apply")(apply)
    group.command("check")(check)
    app.add_typer(group, name="topics", help="Create and compare the Kafka topics.")


def apply(
    context: typer.Context,
    replication_factor: Annotated[
        int | None,
        typer.Option(
            "--replication-factor",
            metavar="N",
            min=1,
            help="Copies of each partition. Default: the cluster's own default.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Ask the cluster, but create nothing.")
    ] = False,
) -> None:
    """Create the declared topics that are missing.

    Existing topics are never changed: where one differs from its declaration in
    topics/*.toml, the difference is shown with the command that would change it, and
    the exit status is 1.
    """
    settings = context_of(context).settings()
    _run(settings, write=True, replication_factor=replication_factor, dry_run=dry_run)


def check(context: typer.Context) -> None:
    """Compare the topics with their declarations; writes nothing, exits 1 if any differs."""
    _run(context_of(context).settings(), write=False, replication_factor=None, dry_run=False)


def _run(settings: Settings, *, write: bool, replication_factor: int | None, dry_run: bool) -> None:
    from worker import topics
    from worker.kafka_config import connect

    declarations = topics.load_declarations()
    admin, metadata = connect(settings.kafka, TIMEOUT_S)
    planned = topics.plan(settings, declarations, metadata)
    brokers = settings.kafka.brokers
    missing, differences = topics.compare(
        admin, metadata, planned, brokers, TIMEOUT_S, replication_factor
    )
    if write:
        topics.create(admin, missing, TIMEOUT_S, replication_factor, dry_run)
    _print(planned, missing, differences, _done(write, dry_run))
    if differences or (missing and not write):
        raise typer.Exit(EXIT_DIFFERENT)


def _done(write: bool, dry_run: bool) -> str:
    if not write:
        return "missing; driftdetector topics apply creates it"
    return "would be created" if dry_run else "created"


def _print(
    planned: list[Topic], missing: list[Topic], differences: list[Difference], done: str
) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True)
    different = {difference.topic for difference in differences}
    for topic in planned:
        state = "as declared"
        if topic in missing:
            count = topic.partitions
            state = f"{done} ({count} partition{'' if count == 1 else 's'})"
        elif topic.name in different:
            state = "differs"
        console.print(f"{topic.name}: {state}", markup=False, highlight=False)
    if not differences:
        return
    table = Table(title="Differences; nothing was changed")
    for heading in ("topic", "setting", "declared", "actual"):
        table.add_column(heading, overflow="fold")
    for difference in differences:
        table.add_row(*difference[:4])
    console.print(table, markup=False)
    console.print("To change them:")
    for hint in dict.fromkeys(difference.hint for difference in differences):
        console.print(f"  {hint}", markup=False, highlight=False)
