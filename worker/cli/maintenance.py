"""``driftdetector maintenance``: announce planned maintenance of a machine, or call it off."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from worker.cli.context import context_of
from worker.cli.progress import progress_bar
from worker.core.errors import ConfigError

NOW = "now"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("maintenance")(maintenance)


def maintenance(
    context: typer.Context,
    machine: Annotated[str, typer.Argument(metavar="MACHINE", help="Its machine_id.")],
    begin: Annotated[
        str,
        typer.Option(
            "--from", metavar="TIME", help="RFC 3339 with an offset, or from now on, such as 2h."
        ),
    ] = NOW,
    until: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="RFC 3339 with an offset, or how long, such as 90m."),
    ] = None,
    relearn: Annotated[
        bool,
        typer.Option(
            "--relearn", help="The machine is another one afterwards: learn its level anew."
        ),
    ] = False,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Call off what begins at --from.")
    ] = False,
) -> None:
    """Announce planned maintenance: meanwhile nothing the machine does is an anomaly.

    The notice goes to the machine's own events, so it holds for all that come behind it. Announcing
    what begins at the same time again replaces it: with another end, or with --cancel.
    """
    from worker.cluster import Cluster
    from worker.core.messages import MaintenanceNotice, format_time_us
    from worker.notices import announce, find_machine

    span = _span(begin, until, cancel, datetime.now(UTC))
    try:
        notice = MaintenanceNotice(*span, relearn)
    except ValueError as error:
        raise ConfigError(f"--until: {error}; write another time.") from error
    with Cluster(context_of(context).settings()) as cluster:
        with progress_bar(f"looking for {machine}") as progress:
            place = find_machine(cluster, machine, progress)
        origin = announce(cluster, machine, place, notice)
    first, last = (format_time_us(time_us) for time_us in notice.span_us)
    if cancel:
        typer.echo(f"{machine}: the maintenance from {first} is called off.")
    else:
        typer.echo(f"{machine}: maintenance from {first} until {last} is announced.")
    if relearn:
        typer.echo("From its first reading afterwards the machine's level is learned anew.")
    typer.echo(
        f"Its newest event is of {format_time_us(place.time_us)}; the notice is behind it, offset "
        f"{origin.offset} of partition {origin.partition} of {origin.topic}."
    )


def _span(begin: str, until: str | None, cancel: bool, now: datetime) -> tuple[datetime, datetime]:
    """Beginning and end."""
    if cancel:
        if until is not None:
            raise ConfigError("--until: what is called off has no end; remove it, or --cancel.")
        if begin == NOW:
            raise ConfigError("--cancel: write with --from when the maintenance was to begin.")
        moment = _moment(begin, "--from", None)
        return moment, moment
    if until is None:
        raise ConfigError("--until: write when the maintenance ends, or how long it lasts.")
    first = now if begin == NOW else _moment(begin, "--from", now)
    last = _moment(until, "--until", first)
    if last <= first:
        raise ConfigError(f"--until: {until!r} is not after the beginning; write a later time.")
    return first, last


def _moment(text: str, key: str, after: datetime | None) -> datetime:
    """A time, or, if there is something to count from, a length of time after it."""
    from worker.core.channels import parse_duration_us

    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        moment = None
    if moment is not None and moment.tzinfo is not None:
        return moment.astimezone(UTC)
    if moment is None and after is not None:
        with suppress(ConfigError, OverflowError):
            return after + timedelta(microseconds=parse_duration_us(text, key))
    more = "" if after is None else ", or a length of time, such as 90m"
    raise ConfigError(
        f"{key}: {text!r} is not a time; write RFC 3339 with an offset, such as "
        f"2026-03-02T06:00:00Z{more}."
    )
