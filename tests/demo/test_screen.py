from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from worker.assets import asset_dir
from worker.core.channels import parse_spec
from worker.core.messages import Episode
from worker.demo.screen import progress_line, render, span
from worker.demo.view import FaultRow, MachineRow, Title, View
from worker.simulator import Fault

MINUTE_US = 60_000_000
NOW_US = 1_767_225_600_000_000
SPEC = parse_spec((asset_dir("models") / "machine-health/channels.toml").read_text())
TITLE = Title(
    model="machine-health/1.0.0",
    broker="embedded broker",
    guarantee="at least once",
    url="http://127.0.0.1:54321",
    page="http://127.0.0.1:54322",
    channels=SPEC.continuous,
    has_types=True,
    window="1h",
)


def episode(n: int) -> Episode:
    is_open = n % 2 == 0
    return Episode(
        id=f"m-{n:04d}@2025-12-31T22:10:00.000000Z",
        machine_id=f"m-{n:04d}",
        status="updated" if is_open else "closed",
        sequence=2,
        opened_at="2025-12-31T22:10:00.000000Z",
        began_at="2025-12-31T22:10:00.000000Z",
        last_anomalous_at="2025-12-31T23:30:00.000000Z",
        closed_at=None if is_open else "2025-12-31T23:45:00.000000Z",
        close_reason=None if is_open else "recovered",
        severity="high",
        anomalies=480,
        anomaly_score=-0.6,
        worst_at="2025-12-31T23:10:00.000000Z",
        reason="torque 71.2 N*m is 31.1 above the expected 40.1 (8.1 sd); " * 3,
        causes=[],
        model_version="machine-health/1.0.0",
    )


def fault(n: int) -> Fault:
    channels = ("vibration", "temperature", "torque")
    return Fault(f"m-{n:04d}", "bearing", "machine", channels, NOW_US - 9 * MINUTE_US, NOW_US, 1.0)


def machine(n: int) -> MachineRow:
    return MachineRow(f"m-{n:04d}", "L", (1.234, 41.7, None, 33.25, 123.4), 50 - n, "ALARM")


VIEW = View(
    simulated_us=NOW_US,
    behind_us=1700 * MINUTE_US,
    events_per_s=28_812.4,
    produced=12_864_197,
    scored=12_862_011,
    late=1_790,
    dead=396,
    lag=3_120,
    episode_count=241,
    rows=[machine(n) for n in range(50)],
    episodes=[episode(n) for n in range(40)],
    faults=[FaultRow(fault(n), 6 * MINUTE_US if n % 2 else None) for n in range(8)],
    stopping=False,
)


def drawn(view: View, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, color_system=None)
    with console.capture() as capture:
        console.print(render(TITLE, view, width, height))
    return capture.get().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30), (120, 40), (200, 60)])
def test_a_view_fills_the_screen_and_no_more(width: int, height: int) -> None:
    lines = drawn(VIEW, width, height)
    assert height - 2 <= len(lines) <= height
    assert max(map(len, lines)) <= width


def test_eighty_columns_show_all_that_matters() -> None:
    text = "\n".join(drawn(VIEW, 80, 24))
    for part in (
        "machine-health/1.0.0, at least once, embedded broker",
        "28,812 events/s  lag 3,120",
        "2026-01-01 00:00 UTC, 1 d 4 h behind the clock; Ctrl-C ends it",
        "http://127.0.0.1:54322  http://127.0.0.1:54321/metrics",
        "Machines: 50 of 50 in alarm",
        "vibration",
        "tool wear",
        "ALARM",
        "Latest episodes of 241",
        "22:10 m-0000 high torque 71.2 N*m is 31.1 above the expected 40.1 (8.1 sd)",
        "22:10 m-0001 until 23:45 high torque 71.2 N*m is 31.1 above the expected",
        "Injected machine faults now: 8, found 4",
        "m-0000 bearing (vibration, temperature, torque) not found yet",
        "m-0001 bearing (vibration, temperature, torque) found after 6 min",
    ):
        assert part in text


def test_channels_that_do_not_fit_are_left_out() -> None:
    text = "\n".join(drawn(VIEW, 50, 24))
    assert "vibration" in text
    assert "tool wear" not in text
    assert "ALARM" in text


def test_the_beginning_has_its_place_for_everything_that_is_not_there_yet() -> None:
    empty = replace(VIEW, rows=[], episodes=[], faults=[], stopping=True, behind_us=0)
    text = "\n".join(drawn(empty, 80, 24))
    assert "in real time; stopping" in text
    assert "Injected machine faults now: 0, found 0" in text


def test_a_log_gets_one_line() -> None:
    assert progress_line(VIEW, 5.2) == (
        "[   5 s] simulated 2026-01-01 00:00, 28,812 events/s, lag 3,120: produced 12,864,197, "
        "scored 12,862,011, late 1,790, dead 396, episodes 241; faults now 8, found 4"
    )


@pytest.mark.parametrize(
    ("minutes", "text"),
    [(0, "0 min"), (59, "59 min"), (61, "1 h 1 min"), (1439, "23 h 59 min"), (2879, "2 d 0 h")],
)
def test_a_span_has_its_two_largest_units(minutes: int, text: str) -> None:
    assert span(minutes * MINUTE_US) == text
