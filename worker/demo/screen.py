"""How a demo looks: a screen of any size, and one line for a log."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from worker.core.channels import US_PER_S
from worker.core.messages import Episode, format_time_us
from worker.demo.view import FaultRow, MachineRow, Title, View

MIN_ROWS = 2
FIXED_LINES = 10
"""Four of the header, two of the machines' heading, three rules, one to spare."""
FIXED_COLUMNS = 32
CHANNEL_COLUMNS = 12

_STATE_STYLES = {"ok": "green", "watch": "yellow", "ALARM": "bold red", "silent": "magenta"}
_SEVERITY_STYLES = {"low": "yellow", "medium": "red", "high": "bold red"}


def render(title: Title, view: View, width: int, height: int) -> RenderableType:
    """Draw a view so that it fits ``width`` columns and ``height`` lines."""
    rows = max(height - FIXED_LINES, 3 * MIN_ROWS)
    faults = min(len(view.faults), max(MIN_ROWS, rows // 4)) or 1
    episodes = max(MIN_ROWS, (rows - faults) * 2 // 5)
    machines = max(MIN_ROWS, rows - faults - episodes)
    alarms = sum(row.state == "ALARM" for row in view.rows)
    return Group(
        *_header(title, view),
        _rule(f"Machines: {alarms} of {len(view.rows)} in alarm"),
        _machines(title, view.rows[:machines], width),
        _rule(f"Latest episodes of {view.episode_count:,}"),
        *_lines((_episode(e) for e in view.episodes[:episodes]), episodes),
        _rule(f"Injected machine faults now: {len(view.faults)}, found {view.found}"),
        *_lines((_fault(row) for row in view.faults[:faults]), faults),
    )


def progress_line(view: View, elapsed_s: float) -> str:
    """One line for a log."""
    return (
        f"[{elapsed_s:4.0f} s] simulated {_moment(view.simulated_us)}, "
        f"{view.events_per_s:,.0f} events/s, lag {view.lag:,}: produced {view.produced:,}, "
        f"scored {view.scored:,}, late {view.late:,}, dead {view.dead:,}, "
        f"episodes {view.episode_count:,}; faults now {len(view.faults)}, found {view.found}"
    )


def span(duration_us: int) -> str:
    """A length of time in its two largest units, such as ``1 d 4 h``."""
    minutes = round(duration_us / (60 * US_PER_S))
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 1440:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h"


def _header(title: Title, view: View) -> list[Text]:
    first = Text.assemble(
        ("DriftDetector ", "bold"), f"{title.model}, {title.guarantee}, {title.broker}"
    )
    pace = "in real time" if view.in_real_time else f"{span(view.behind_us)} behind the clock"
    end = "stopping" if view.stopping else "Ctrl-C ends it"
    second = Text(f"{_moment(view.simulated_us)} UTC, {pace}; {end}")
    third = Text.assemble(
        (f"{view.events_per_s:,.0f} events/s", "bold"),
        f"  lag {view.lag:,}  produced {view.produced:,}  scored {view.scored:,}"
        f"  late {view.late:,}  dead {view.dead:,}",
    )
    fourth = Text.assemble((title.page, "bold"), (f"  {title.url}/metrics", "dim"))
    return [_one_line(line) for line in (first, second, third, fourth)]


def _machines(title: Title, rows: Iterable[MachineRow], width: int) -> Table:
    shown = max(1, (width - FIXED_COLUMNS) // CHANNEL_COLUMNS + 1)
    table = Table(box=None, expand=True, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("machine", no_wrap=True)
    if title.has_types:
        table.add_column("type", no_wrap=True)
    for channel in title.channels[:shown]:
        name = channel.name.replace("_", " ")
        table.add_column(_heading(name, channel.unit), justify="right", overflow="ellipsis")
    table.add_column(f"anomalies\nlast {title.window}", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True, min_width=6)
    for row in rows:
        cells = [row.machine_id, *([row.type] if title.has_types else [])]
        cells += ["-" if value is None else f"{value:.5g}" for value in row.values[:shown]]
        state = Text(row.state, _STATE_STYLES[row.state])
        table.add_row(*cells, f"{row.recent:,}", state)
    return table


def _heading(name: str, unit: str) -> Text:
    """Two lines: the name, and below it the rest of a long name or the unit."""
    first, _, rest = name.partition(" ") if len(name) > CHANNEL_COLUMNS else (name, "", "")
    return Text(f"{first}\n{rest or unit}", no_wrap=True, overflow="ellipsis")


def _episode(episode: Episode) -> Text:
    ended = "" if episode.closed_at is None else f" until {episode.closed_at[11:16]}"
    return Text.assemble(
        f"{episode.opened_at[11:16]} {episode.machine_id}{ended} ",
        (episode.severity, _SEVERITY_STYLES[episode.severity] if not ended else "dim"),
        f" {episode.reason}",
    )


def _fault(row: FaultRow) -> Text:
    fault = row.fault
    if row.found_after_us is None:
        found = ("not found yet", "yellow")
    else:
        found = (f"found after {span(row.found_after_us)}", "green")
    since = format_time_us(fault.start_us)[11:16]
    return Text.assemble(
        f"{since} {fault.machine_id} {fault.kind} ({', '.join(fault.channels)}) ", found
    )


def _lines(texts: Iterable[Text], count: int) -> list[Text]:
    """Exactly ``count`` lines, so that what is below keeps its place."""
    lines = [_one_line(text) for text in texts]
    return lines + [Text("")] * (count - len(lines))


def _one_line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _rule(title: str) -> Rule:
    return Rule(title, align="left", style="dim")


def _moment(time_us: int) -> str:
    return format_time_us(time_us)[:16].replace("T", " ")
