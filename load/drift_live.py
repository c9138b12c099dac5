"""``make drift-campaign``: changes of a simulated fleet, found by real processes on a real Kafka.

Each case is a day of event time, produced as fast as Kafka takes it. A worker scores it and a
drift agent judges it, each a process of its own. A case passes if every change is told once to
each group that tells it, of its own channels first, with a beginning at most one window off; and
if a day without a change gives no event. Writes build/drift-campaign.json; logs are in
build/drift-campaign/. Exits 1 unless all pass.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from load.drift_fleet import AFTER_US, US_PER_HOUR, events, train_fleet
from load.local_kafka import LocalKafka
from load.records import NewRecord, committed_offsets, produce, read_topic, unique, wait_until
from load.worker_process import WorkerProcess, create_topics, load
from worker.core.drift import FLEET
from worker.core.messages import to_time_us
from worker.models.bundle import Bundle
from worker.settings import Settings, TopicSettings
from worker.simulator import FleetChange

BUILD = Path("build")
FOLDER = BUILD / "drift-campaign"
WAIT_S = 120.0
HOURS = 24
WINDOWS_MIN = (60, 360)
START_US = AFTER_US + 9 * US_PER_HOUR
CHANGES = {
    "step": FleetChange("step", ("pressure",), START_US, 1.5),
    "slow-drift": FleetChange(
        "slow-drift", ("flow",), AFTER_US + US_PER_HOUR, 3.0, 12 * US_PER_HOUR
    ),
    "recalibrated-sensor": FleetChange("recalibrated-sensor", ("current",), START_US, 1.0),
    "regime-change": FleetChange("regime-change", ("pressure", "flow"), START_US, 2.0),
}
"""One of each kind that the simulator has."""


@dataclass(frozen=True)
class Found:
    """What was told of one case.

    Attributes:
        opened: groups whose event was opened, as often as one was.
        channels: of the fleet's first event, the most significant first.
        advice: of it.
        began_windows: how long after the change it is said to have begun, in windows of its own.
        told_windows: how long after the change it was opened, in the same.
        passed: whether that is as it should be.
    """

    case: str
    seed: int
    opened: tuple[str, ...]
    channels: tuple[str, ...]
    advice: str
    began_windows: float | None
    told_windows: float | None
    passed: bool


def settings_of(brokers: str, name: str, bundle: Bundle) -> dict[str, str]:
    """Settings of a worker and its drift agent that share nothing with others."""
    return {
        "kafka.brokers": brokers,
        **{f"topics.{key}": f"{name}-{topic}" for key, topic in TopicSettings()},
        "worker.app_id": name,
        "worker.instance_id": "0",
        "worker.bundle": str(bundle.path),
        "drift.windows_min": json.dumps(WINDOWS_MIN),
    }


def catch_up(brokers: str, group: str, topic: str) -> None:
    """Wait until a group has committed all of a topic, whether or not markers end it."""

    def done() -> bool:
        offsets = committed_offsets(brokers, group, topic).values()
        return all(offset >= end - 1 for offset, end in offsets if end)

    wait_until(done, f"{group} has committed all of {topic}", WAIT_S)


def run_case(
    brokers: str,
    bundle: Bundle,
    changes: Sequence[FleetChange],
    seed: int,
    folder: Path,
    hours: int,
) -> list[dict[str, Any]]:
    """The drift events that a worker and an agent publish of a fleet's hours, in order."""
    settings = settings_of(brokers, unique("drift-live"), bundle)
    create_topics(settings)
    known = load(settings)
    sent = [NewRecord(value=value, key=key) for key, value in events(hours, changes, seed=seed)]
    produce(brokers, known.topics.sensor_events, sent)
    with (
        WorkerProcess(settings, folder / "log") as scoring,
        WorkerProcess(settings, folder / "log", command="drift") as drifting,
    ):
        scoring.wait_for_events(len(sent), WAIT_S)
        scoring.wait_until_healthy(WAIT_S)
        if scoring.terminate():
            raise RuntimeError("the worker did not end in order")
        drifting.wait_until_healthy(WAIT_S)
        catch_up(brokers, f"{known.worker.app_id}-drift", known.partials_topic)
        if drifting.terminate():
            raise RuntimeError("the drift agent did not end in order")
    return drift_events(brokers, known)


def drift_events(brokers: str, known: Settings) -> list[dict[str, Any]]:
    """All drift events, decoded, in the order of each partition."""
    return [
        msgspec.json.decode(record.value or b"")
        for record in read_topic(brokers, known.topics.drift_events)
    ]


def judge(
    case: str, seed: int, changes: Sequence[FleetChange], told: Sequence[Mapping[str, Any]]
) -> Found:
    """Hold what was told against what was changed."""
    drifts = [event for event in told if event["status"] == "opened"]
    opened = tuple(sorted(event["group"] for event in drifts))
    first = next((event for event in drifts if event["group"] == FLEET), None)
    if first is None:
        return Found(case, seed, opened, (), "", None, None, passed=not changes and not opened)
    names = dict.fromkeys(_channel(feature["feature"]) for feature in first["features"])
    window_us = first["window_s"] * 1e6
    start_us = changes[0].start_us if changes else AFTER_US
    began = (_time_us(first["began_at"]) - start_us) / window_us
    told_after = (_time_us(first["opened_at"]) - start_us) / window_us
    once = len(opened) == len(set(opened))
    right = bool(changes) and next(iter(names), "") in changes[0].channels
    return Found(
        *(case, seed, opened, tuple(names), first["advice"], round(began, 2)),
        *(round(told_after, 2), once and right and abs(began) <= 1.0),
    )


def _channel(feature: str) -> str:
    return next((c for c in ("pressure", "flow", "current") if c in feature), feature)


def _time_us(text: str) -> int:
    return to_time_us(datetime.fromisoformat(text))


def table_of(found: Sequence[Found]) -> Table:
    """The cases side by side."""
    names = ("change", "seed", "events of", "channels", "advice", "began", "told", "verdict")
    table = Table(*names, title=f"{HOURS} h each; began and told in windows after the change")
    for one in found:
        began, told = (
            "" if x is None else f"{x:+.2f}" for x in (one.began_windows, one.told_windows)
        )
        verdict = "as it should be" if one.passed else "WRONG"
        table.add_row(
            *(one.case, str(one.seed), ", ".join(one.opened), ", ".join(one.channels)),
            *(one.advice, began, told, verdict),
        )
    return table


def main() -> int:
    """Run all cases; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=1, help="fleets of each case (default 1)")
    parser.add_argument("--cases", nargs="*", choices=["none", *CHANGES], help="default: all")
    chosen = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    console = Console(width=150)
    found = []
    bundle = train_fleet(FOLDER)
    with LocalKafka() as kafka:
        for case in chosen.cases or ["none", *CHANGES]:
            for seed in range(31, 31 + chosen.seeds):
                started_s = time.perf_counter()
                changes = [CHANGES[case]] if case in CHANGES else []
                told = run_case(kafka.bootstrap_servers, bundle, changes, seed, FOLDER, HOURS)
                (FOLDER / f"{case}-{seed}.json").write_text(json.dumps(told, indent=1))
                found.append(judge(case, seed, changes, told))
                took_s = time.perf_counter() - started_s
                console.print(f"{case}, seed {seed}: {len(told)} messages, {took_s:.0f} s")
    console.print(table_of(found))
    (BUILD / "drift-campaign.json").write_text(json.dumps([asdict(one) for one in found], indent=1))
    return 0 if all(one.passed for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
