"""The end of a demo: its figures, the check that they agree, and how they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
from rich.table import Table

from worker.core.errors import ConfigError, DriftDetectorError
from worker.demo.screen import span
from worker.simulator import FaultReport


class Report(msgspec.Struct, frozen=True):
    """What ``--report`` writes, flat.

    Attributes:
        events_scored, events_late, events_dead: scored as the worker's metrics count them;
            late and dead as read from their topics.
        anomalies, episodes: anomalies, and episodes opened, as read from their topics.
        faults_injected, faults_detected: machine faults; see
            :func:`worker.simulator.match_faults` for what counts.
        first_channel_right: faults whose episode names first a channel that they show in.
        chance_level: share of fault-free stretches that would pass for a detected fault.
        sensor_faults, sensor_alarms: injected faults of sensors, and how many of them opened an
            episode of the machine.
        duration_s: from the first event to the last one processed.
        simulated_s: event time covered.
    """

    events_produced: int
    events_scored: int
    events_late: int
    events_dead: int
    anomalies: int
    episodes: int
    faults_injected: int
    faults_detected: int
    first_channel_right: int
    chance_level: float
    false_episodes_per_machine_day: float
    sensor_faults: int
    sensor_alarms: int
    events_per_second: float
    duration_s: float
    simulated_s: float
    machines: int
    seed: int
    model_version: str
    broker: str
    exactly_once: bool

    def check(self, published: Mapping[str, int], found: Mapping[str, int]) -> None:
        """See whether every event and message has come out exactly once.

        Args:
            published: messages of each topic by the worker's own count.
            found: the same as read from the topics.

        Raises:
            DriftDetectorError: nothing was scored, or a count does not agree.
        """
        accounted = self.events_scored + self.events_late + self.events_dead
        if not self.events_scored:
            raise DriftDetectorError("the demo scored no event; let it run for longer.")
        if accounted != self.events_produced:
            raise DriftDetectorError(
                f"the demo produced {self.events_produced} events, but scored, late and dead make "
                f"{accounted}; please report this with the log file."
            )
        for topic, count in published.items():
            if found[topic] != count:
                raise DriftDetectorError(
                    f"the worker published {count} messages to {topic}, but {found[topic]} are "
                    "there; please report this with the log file."
                )

    def write(self, path: Path) -> None:
        """Write the JSON file.

        Raises:
            ConfigError: it cannot be written.
        """
        text = msgspec.json.format(msgspec.json.encode(self), indent=2)
        try:
            path.write_bytes(text + b"\n")
        except OSError as error:
            raise ConfigError(f"--report: {path} cannot be written: {error.strerror}.") from error


def check_writable(path: Path) -> None:
    """Find out before the run whether its report can be written.

    Raises:
        ConfigError: the folder does not exist, or the path is one.
    """
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ConfigError(f"--report: {path} cannot be written; name a file in a folder there is.")


def summary(report: Report, faults: FaultReport) -> Table:
    """The closing table."""
    table = Table(show_header=False, title="What happened", title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    by_kind = ", ".join(
        f"{kind} {faults.detected_by_kind[kind]}/{count}"
        for kind, count in faults.injected_by_kind.items()
    )
    rows = {
        "simulated": f"{report.machines:,} machines for {span(round(report.simulated_s * 1e6))} in "
        f"{report.duration_s:.1f} s (seed {report.seed})",
        "events produced": f"{report.events_produced:,} = {report.events_scored:,} scored + "
        f"{report.events_late:,} late + {report.events_dead:,} dead",
        "events per second": f"{report.events_per_second:,.0f}",
        "episodes": f"{report.episodes:,}, of {report.anomalies:,} anomalies",
        "machine faults": f"{report.faults_detected} of {report.faults_injected} detected"
        + (f" ({by_kind})" if by_kind else ""),
        "first channel": f"right for {report.first_channel_right} of {report.faults_detected}",
        "by chance": f"{report.chance_level:.1%} of fault-free stretches would pass for one",
        "false episodes": f"{faults.false_episodes:,} in {faults.fault_free_machine_days:,.1f} "
        f"machine-days without faults, {report.false_episodes_per_machine_day:.2f} a day",
        "sensor faults": f"{report.sensor_faults} (silent, stuck, missing, glitches), of which "
        f"{report.sensor_alarms} opened an episode",
        "delivery": "exactly once" if report.exactly_once else "at least once",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table
