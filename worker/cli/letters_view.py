r"""Dead letters and late events on a terminal, in a pipe, and as JSON.

Payloads, keys and headers come from anybody: whatever could control a terminal is written as
an escape sequence that a person can read, such as ``\x1b``.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.cluster import Record
from worker.core.messages import LateEvent, Replay, record_id
from worker.letters.letter import DECIDED_BY_BYTES, EXPLANATIONS, FIXES, LATE_EVENTS, Kind, Letter
from worker.letters.replay import POISON, REPLAYED, UNTIMED, Tally
from worker.letters.search import Summary

WIDEST = 4096
MAX_CELL_CHARS = 300
MAX_DETAIL_CHARS = 160
MAX_NAME_CHARS = 40
TOP_MACHINES = 5
MAX_TEXT_CHARS = 8_000
MAX_DUMP_BYTES = 512
DUMP_BYTES_A_LINE = 16
MOSTLY_TEXT = 0.9
OPTIONS = {
    REPLAYED: "; --again repeats them",
    POISON: "; --again repeats them",
    UNTIMED: "; with --untimed they count as measured when they are replayed",
}
"""What replays those that are left out."""


def printable(text: str) -> str:
    """Text without anything that a terminal would obey, or that would hide or reorder text."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii")
        for c in text
    )


def shortened(text: str, limit: int) -> str:
    """Printable text of at most ``limit`` characters."""
    text = printable(text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 1] + "…"


def time_text(time_ms: int) -> str:
    """Epoch milliseconds as RFC 3339 UTC; ``-`` where that is no time."""
    try:
        moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return "-"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z") if time_ms >= 0 else "-"


def duration_text(duration_ms: float) -> str:
    """A duration in its largest unit, such as ``12.5 min``."""
    for unit, size_ms in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)):
        if abs(duration_ms) >= size_ms:
            return f"{duration_ms / size_ms:.1f} {unit}"
    return f"{duration_ms:.0f} ms"


def print_list(kind: Kind, letters: Iterable[Letter], attempts: dict[str, int]) -> None:
    """A table, newest first; on a terminal what is wrong stands below each row.

    Args:
        attempts: how often each was replayed, by its id.
    """
    console = Console()
    late = kind is LATE_EVENTS
    headings = ["id", "written", *(("behind", "watermark") if late else ("reason",))]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in [*headings, "machine", "origin"]:
        table.add_column(heading, no_wrap=True)
    for heading in ("bytes", "replays"):
        table.add_column(heading, no_wrap=True, justify="right")
    details = []
    for letter in letters:
        message = letter.message
        if isinstance(message, LateEvent):
            about = [duration_text(message.lateness_ms), message.watermark]
        else:
            about = ["-", "-"] if late else [letter.reason]
        cells = [
            letter.id,
            time_text(letter.record.time_ms),
            *about,
            shortened(letter.machine or "-", MAX_NAME_CHARS),
            _origin(letter),
            f"{letter.payload_bytes:,}",
            str(attempts.get(letter.id) or "-"),
        ]
        table.add_row(*(shortened(cell, MAX_CELL_CHARS) for cell in cells))
        told = "" if isinstance(message, LateEvent) else letter.detail
        details.append(shortened(told, MAX_DETAIL_CHARS))
    # Wide enough for any row, so that each is one line whatever the terminal's width is.
    wide = Console(width=WIDEST, color_system=None)
    with wide.capture() as capture:
        wide.print(table, markup=False, highlight=False)
    header, *lines = capture.get().splitlines()
    console.print(Text(header.rstrip(), "bold"), soft_wrap=True)
    for line, detail in zip(lines, details, strict=True):
        if console.is_terminal:
            console.print(Text(line.rstrip()), soft_wrap=True)
            if detail:
                console.print(Text(f"    {detail}", "dim"), soft_wrap=True)
        else:
            typer.echo(f"{line}{detail}".rstrip())


def print_summary(kind: Kind, summary: Summary, shown: int) -> None:
    """How many, since when, of which reasons and machines."""
    if not summary.count:
        typer.echo(f"no {kind.plural} found")
        return
    first, last = time_text(summary.first_ms), time_text(summary.last_ms)
    plural = kind.singular if summary.count == 1 else kind.plural
    typer.echo(f"\n{summary.count:,} {plural}, written {first} to {last}", nl=False)
    typer.echo(f"; the newest {shown:,} are above" if shown < summary.count else "")
    if kind is not LATE_EVENTS or len(summary.reasons) > 1:
        typer.echo(f"  by reason   {_counts(summary.reasons, len(summary.reasons))}")
    machines = Counter({name or "(no id)": n for name, n in summary.machines.items()})
    more = len(machines) - TOP_MACHINES
    rest = sum(machines.values()) - sum(n for _, n in machines.most_common(TOP_MACHINES))
    typer.echo(f"  by machine  {_counts(machines, TOP_MACHINES)}", nl=False)
    others = f"{more:,}{' or more' if summary.other else ''} others"
    typer.echo(f", {others} {rest + summary.other:,}" if more > 0 else "")


def json_line(letter: Letter, attempts: int) -> str:
    """One JSON document in ASCII: what the letter says, and what it is."""
    document: dict[str, Any] = {
        "id": letter.id,
        "written": time_text(letter.record.time_ms),
        "machine": letter.machine,
        "reason": letter.reason,
        "detail": letter.detail,
        "replays": attempts,
    }
    if letter.message is not None:
        document |= msgspec.to_builtins(letter.message)
    else:
        document |= {"key": _base64(letter.key), "payload": _base64(letter.payload)}
    # ASCII, so that no text can control a terminal; DEL is the one left.
    return json.dumps(document).replace("\x7f", "\\u007f")


def print_letter(
    kind: Kind, letter: Letter, original: Record | None, replays: list[Replay]
) -> None:
    """Everything about one letter.

    Args:
        original: what is at its origin now.
        replays: those of its event, before and after.
    """
    whole = original is not None and letter.fits(original.key, original.value)
    rows = [
        ("written", time_text(letter.record.time_ms)),
        ("reason", f"{letter.reason}: {EXPLANATIONS[letter.reason]}"),
        ("detail", letter.detail),
    ]
    if letter.origin is not None:
        state = "no longer there" if original is None else "another record is there now"
        rows.append(("origin", f"{_origin(letter)}, {'still there' if whole else state}"))
    if isinstance(letter.message, LateEvent):
        rows.append(("timestamp", letter.message.timestamp))
        rows.append(("watermark", letter.message.watermark))
        rows.append(("behind", duration_text(letter.message.lateness_ms)))
    elif letter.message is not None:
        rows.append(("received", time_text(letter.message.kafka_timestamp_ms)))
    if whole and original is not None:
        rows += [("header", f"{name}: {_text(value)}") for name, value in original.headers]
    for replay in replays:
        rows.append(("replay", _replay_text(replay, letter)))
    if not replays and letter.origin is not None:
        rows.append(("replay", "none so far"))
    rows.append(("what to do", FIXES[letter.reason]))  # type: ignore[index]
    rows.append(("key", "none" if letter.key is None else _text(letter.key)))

    payload = original.value if whole and original is not None else letter.payload
    kept = len(payload or b"")
    cut = f", of which the first {kept:,} are kept" if kept < letter.payload_bytes else ""
    size = f"{letter.payload_bytes:,} bytes{cut}"
    rows.append(("payload", "none" if payload is None else size))
    typer.secho(printable(f"{kind.singular} {letter.id}"), bold=True)
    for label, text in rows:
        typer.echo(f"  {label:<11} {printable(text)}")
    if payload:
        typer.echo("")
        typer.echo(payload_text(payload))


def payload_text(payload: bytes) -> str:
    """A payload for people: JSON indented, other text as it is, the rest as a hex dump."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return _dump(payload)
    try:
        msgspec.json.decode(payload)
        text = msgspec.json.format(text, indent=2)
    except (ValueError, RecursionError):
        readable = sum(map(str.isprintable, text)) + sum(map(text.count, "\t\r\n"))
        if readable < MOSTLY_TEXT * len(text):
            return _dump(payload)
    shown = "\n".join(map(printable, text[:MAX_TEXT_CHARS].split("\n")))
    more = len(text) - MAX_TEXT_CHARS
    return shown + (f"\n… {more:,} more characters; --raw writes all" if more > 0 else "")


def print_plan(kind: Kind, tally: Tally, source: str, rate_per_s: int) -> None:
    """What a replay would do, on stderr."""
    lines = [f"{tally.events:,} {kind.plural} can be replayed to {source}"]
    if tally.events:
        lines[0] += f", in at least {duration_text(tally.events / rate_per_s * 1000)}"
    for reason, count in tally.reasons.most_common() if kind is not LATE_EVENTS else ():
        hopeless = "; the same bytes are refused again" if reason in DECIDED_BY_BYTES else ""
        lines.append(f"  {count:>9,}  {reason}{hopeless}")
    if tally.skipped:
        lines.append(f"{sum(tally.skipped.values()):,} are left out:")
    for why, count in tally.skipped.most_common():
        lines.append(f"  {count:>9,}  {why}{OPTIONS.get(why, '')}")
    typer.echo("\n".join(map(printable, lines)), err=True)


def outcome(kind: Kind, tally: Tally, source: str) -> str:
    """What a replay did, in one sentence."""
    left_out = sum(tally.skipped.values())
    plural = kind.singular if tally.events == 1 else kind.plural
    return f"replayed {tally.events:,} {plural} to {source}, left out {left_out:,}"


def _origin(letter: Letter) -> str:
    origin = letter.origin
    return "-" if origin is None else record_id(origin.topic, origin.partition, origin.offset)


def _replay_text(replay: Replay, letter: Letter) -> str:
    published = replay.published
    if published == letter.origin:
        return f"this record is attempt {replay.attempt} for {replay.letter}, {replay.replayed_at}"
    as_id = record_id(published.topic, published.partition, published.offset)
    return f"attempt {replay.attempt}, {replay.replayed_at}, as {as_id}"


def _counts(counts: Counter[str], limit: int) -> str:
    top = counts.most_common(limit)
    return ", ".join(f"{shortened(name, MAX_NAME_CHARS)} {count:,}" for name, count in top)


def _text(data: str | bytes | None) -> str:
    """Bytes as text in one line where they are text, else as Python writes them."""
    if isinstance(data, bytes):
        try:
            data = data.decode()
        except UnicodeDecodeError:
            data = repr(data)
    return shortened(data or "", MAX_TEXT_CHARS)


def _dump(payload: bytes) -> str:
    lines = []
    for start in range(0, min(len(payload), MAX_DUMP_BYTES), DUMP_BYTES_A_LINE):
        row = payload[start : start + DUMP_BYTES_A_LINE]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{start:08x}  {row.hex(' '):<{3 * DUMP_BYTES_A_LINE}} {text}")
    more = len(payload) - MAX_DUMP_BYTES
    if more > 0:
        lines.append(f"… {more:,} more bytes; --raw writes all")
    return "\n".join(lines)


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode("ascii")
