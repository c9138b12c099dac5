"""``driftdetector dead-letters`` and ``late-events``: list, show, replay."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.context import context_of
from worker.cli.progress import progress_bar
from worker.core.errors import ConfigError

if TYPE_CHECKING:
    from worker.cluster import Cluster
    from worker.core.messages import Replay
    from worker.letters.letter import Kind, KindName, Letter
    from worker.letters.replay import Rules
    from worker.letters.search import Progress, Selection

MAX_LISTED = 10_000
DEFAULT_RATE = 500
EXIT_CUT = 1
EXIT_NOT_CONFIRMED = 1
EXIT_INTERRUPTED = 130

Reasons = Annotated[
    list[str] | None,
    typer.Option("--reason", metavar="REASON", help="Only these; may be repeated."),
]
Machine = Annotated[
    str | None, typer.Option(metavar="ID", help="Only this machine's, by key or machine_id.")
]
Since = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Written from then on: RFC 3339, or how long ago (2h)."),
]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Written before then.")]
Limit = Annotated[int, typer.Option(min=0, max=MAX_LISTED, help="How many, newest first.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document a line, no summary.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="topic-partition-offset, from list.")]
Raw = Annotated[bool, typer.Option("--raw", help="Write only the original payload, as it was.")]
Ids = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Only these. Default: all.")
]
MaxEvents = Annotated[
    int | None, typer.Option("--limit", min=1, help="At most so many, each machine's oldest first.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Again = Annotated[
    bool, typer.Option("--again", help="Also what was replayed before, however often.")
]
Untimed = Annotated[
    bool,
    typer.Option(
        "--untimed",
        help="Also events without a readable timestamp of their own; "
        "they will count as measured now.",
    ),
]
Rate = Annotated[int, typer.Option(min=1, max=1_000_000, help="Events a second, at most.")]


def register(app: typer.Typer) -> None:
    """Add the command groups ``dead-letters`` and ``late-events``."""
    dead = typer.Typer(no_args_is_help=True)
    dead.command("list")(list_dead_letters)
    dead.command("show")(show_dead_letter)
    dead.command("replay")(replay_dead_letters)
    app.add_typer(dead, name="dead-letters", help="Records that could not be used.")
    late = typer.Typer(no_args_is_help=True)
    late.command("list")(list_late_events)
    late.command("show")(show_late_event)
    late.command("replay")(replay_late_events)
    app.add_typer(late, name="late-events", help="Events that came too late to be scored.")


def list_dead_letters(
    context: typer.Context,
    reason: Reasons = None,
    machine: Machine = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """Show the newest dead letters, and how many there are by reason and machine."""
    _list(context, "dead-letters", (reason, machine, since, until), limit, as_json)


def list_late_events(
    context: typer.Context,
    machine: Machine = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """Show the newest late events, and how many there are by machine."""
    _list(context, "late-events", (None, machine, since, until), limit, as_json)


def show_dead_letter(context: typer.Context, letter_id: Id, raw: Raw = False) -> None:
    """Show everything about one dead letter, and what to do about it."""
    _show(context, "dead-letters", letter_id, raw)


def show_late_event(context: typer.Context, letter_id: Id, raw: Raw = False) -> None:
    """Show everything about one late event, and what to do about it."""
    _show(context, "late-events", letter_id, raw)


def replay_dead_letters(
    context: typer.Context,
    ids: Ids = None,
    reason: Reasons = None,
    machine: Machine = None,
    since: Since = None,
    until: Until = None,
    limit: MaxEvents = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    again: Again = False,
    untimed: Untimed = False,
    rate: Rate = DEFAULT_RATE,
) -> None:
    """Publish the events of dead letters to the input again, after a fix; each only once.

    What an earlier replay published is skipped, also where that was killed on its way.
    """
    from worker.letters.replay import Rules

    rules = Rules(again=again, untimed=untimed, limit=limit)
    conditions = (reason, machine, since, until)
    _replay(context, "dead-letters", ids or [], conditions, rules, rate, dry_run, yes)


def replay_late_events(
    context: typer.Context,
    ids: Ids = None,
    machine: Machine = None,
    since: Since = None,
    until: Until = None,
    limit: MaxEvents = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    again: Again = False,
    untimed: Untimed = False,
    rate: Rate = DEFAULT_RATE,
) -> None:
    """Publish late events to the input again, each only once.

    They are late again unless the workers' state was built anew or the grace is longer now.
    """
    from worker.letters.replay import Rules

    rules = Rules(again=again, untimed=untimed, limit=limit)
    conditions = (None, machine, since, until)
    _replay(context, "late-events", ids or [], conditions, rules, rate, dry_run, yes)


_Conditions = tuple[list[str] | None, str | None, str | None, str | None]
"""Values of --reason, --machine, --since and --until."""


def _list(
    context: typer.Context, name: KindName, conditions: _Conditions, limit: int, as_json: bool
) -> None:
    from worker.cli import letters_view as view
    from worker.letters.search import newest, search

    kind, selection = _kind(name), _selection(conditions)
    with _cluster(context) as cluster, progress_bar(f"reading {kind.plural}") as progress:
        ranges = cluster.ranges(kind.topic(cluster.settings), selection.since_ms)
        found = search(cluster, kind, selection, ranges, progress)
        letters, summary = newest(found, limit)
        attempts = _attempts(cluster, letters)
    if as_json:
        for letter in letters:
            typer.echo(view.json_line(letter, attempts.get(letter.id, 0)))
        return
    if letters:
        view.print_list(kind, letters, attempts)
    view.print_summary(kind, summary, len(letters))


def _show(context: typer.Context, name: KindName, letter_id: str, raw: bool) -> None:
    from worker.cli import letters_view as view

    kind = _kind(name)
    with _cluster(context) as cluster:
        letter = _find(cluster, kind, letter_id)
        original = None if letter.origin is None else cluster.fetch(letter.origin)
        whole = original is not None and letter.fits(original.key, original.value)
        if raw:
            payload = original.value if original is not None and whole else letter.payload
            sys.stdout.buffer.write(payload or b"")
            sys.stdout.buffer.flush()
            if not whole and not letter.is_whole:
                typer.echo(
                    f"only the first {len(payload or b''):,} of {letter.payload_bytes:,} bytes are "
                    "kept, and the original is gone",
                    err=True,
                )
                raise typer.Exit(EXIT_CUT)
            return
        replays = _replays_about(cluster, letter)
    view.print_letter(kind, letter, original, replays)


def _replay(
    context: typer.Context,
    name: KindName,
    ids: list[str],
    conditions: _Conditions,
    rules: Rules,
    rate: int,
    dry_run: bool,
    yes: bool,
) -> None:
    from worker.cli import letters_view as view
    from worker.letters.replay import Chooser, Replayer, Tally
    from worker.letters.replays import Replays
    from worker.letters.search import search

    kind, selection = _kind(name), _selection(conditions)
    with _cluster(context) as cluster:
        source = cluster.settings.topics.sensor_events
        topic = kind.topic(cluster.settings)
        chosen = [_find(cluster, kind, letter_id) for letter_id in dict.fromkeys(ids)]
        ranges = {} if ids else cluster.ranges(topic, selection.since_ms)
        replays = Replays(source)
        replays.read(cluster, pending=False)
        chooser = Chooser(cluster, replays, rules)

        def letters(progress: Progress) -> Iterator[Letter]:
            if ids:
                return filter(selection.matches, chosen)
            return search(cluster, kind, selection, ranges, progress)

        plan = Tally()
        with progress_bar(f"reading {kind.plural}") as progress:
            for _ in chooser.choose(letters(progress), plan):
                pass
        view.print_plan(kind, plan, source, rate)
        if dry_run or not plan.events:
            return
        if not yes:
            _confirm(plan.events)
        replayer = Replayer(cluster, replays)
        tally = Tally()
        try:
            with progress_bar(f"replaying {kind.plural}") as progress:
                events = chooser.choose(letters(lambda *_: None), tally)
                replayer.publish(events, rate, tally, lambda n: progress(n, plan.events))
        except KeyboardInterrupt:
            typer.echo(f"interrupted: {replayer.so_far()}", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None
        typer.echo(view.outcome(kind, tally, source))


def _kind(name: KindName) -> Kind:
    from worker.letters.letter import DEAD_LETTERS, LATE_EVENTS

    return DEAD_LETTERS if name == DEAD_LETTERS.name else LATE_EVENTS


def _cluster(context: typer.Context) -> Cluster:
    from worker.cluster import Cluster

    return Cluster(context_of(context).settings())


def _selection(conditions: _Conditions) -> Selection:
    from worker.letters.search import Selection, parse_reasons, parse_time_ms

    reasons, machine, since, until = conditions
    now_ms = time.time_ns() // 1_000_000
    return Selection(
        reasons=parse_reasons(reasons or []),
        machine=machine,
        since_ms=None if since is None else parse_time_ms(since, "--since", now_ms),
        until_ms=None if until is None else parse_time_ms(until, "--until", now_ms),
    )


def _find(cluster: Cluster, kind: Kind, letter_id: str) -> Letter:
    from worker.letters.search import find_letter, parse_id

    topic = kind.topic(cluster.settings)
    cluster.partitions(topic)  # says so where the topic is missing
    letter = find_letter(cluster, kind, parse_id(kind, topic, letter_id))
    if letter is None:
        raise ConfigError(
            f"there is no {kind.singular} {letter_id} (any more); see which there are with: "
            f"driftdetector {kind.name} list."
        )
    return letter


def _attempts(cluster: Cluster, letters: list[Letter]) -> dict[str, int]:
    """How often the events of some letters were replayed, by the letter's id."""
    from worker.letters.replays import Replays

    settings = cluster.settings
    origins = {letter.id: letter.origin for letter in letters if letter.origin is not None}
    places = {(origin.partition, origin.offset) for origin in origins.values()}
    replays = Replays(settings.topics.sensor_events, only=places)
    if cluster.has(settings.topics.replays):
        replays.read(cluster, pending=False)
    return {letter_id: replays.attempts(origin)[0] for letter_id, origin in origins.items()}


def _replays_about(cluster: Cluster, letter: Letter) -> list[Replay]:
    """Replays of a letter's event, and the one that published the record it is about."""
    from worker.letters.replays import read_replays

    topic = cluster.settings.topics.replays
    if letter.origin is None or not cluster.has(topic):
        return []
    every = read_replays(cluster, cluster.ranges(topic))
    return [replay for replay in every if letter.origin in (replay.origin, replay.published)]


def _confirm(events: int) -> None:
    if not sys.stdin.isatty():
        raise ConfigError("nothing was replayed: there is no terminal to ask; add --yes.")
    if not typer.confirm(f"Replay {events:,} events?", err=True):
        raise typer.Exit(EXIT_NOT_CONFIRMED)
