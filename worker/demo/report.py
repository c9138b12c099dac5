"""The end of a demo: its figures, the check that they agree, and how they are shown."""

from __future__ import annotations

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
        anomalies: as read from their topic.
        faults_injected, faults_detected: machine faults; see
            :func:`worker.simulator.match_faults` for what counts.
        chance_level: share of fault-free stretches that would pass for a detected fault.
        sensor_faults: injected faults of sensors, which are not to be found as anomalies.
        duration_s: from the first event to the last one processed.
        simulated_s: event time covered.
    """

    events_produced: int
    events_scored: int
    events_late: int
    events_dead: int
    anomalies: int
    faults_injected: int
    faults_detected: int
    chance_level: float
    false_alarms_per_machine_day: float
    sensor_faults: int
    events_per_second: float
    duration_s: float
    simulated_s: float
    machines: int
    seed: int
    model_version: str
    broker: str
    exactly_once: bool

    @property
    def scored_per_machine_day(self) -> float:
        """Readings scored a machine and day of event time."""
        return self.events_scored * 86_400 / (self.machines * self.simulated_s)

    def check(self, published: int) -> None:
        """See whether every event has come out exactly once.

        Args:
            published: anomalies by the worker's own count.

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
        if published != self.anomalies:
            raise DriftDetectorError(
                f"the worker published {published} anomalies, but {self.anomalies} are in the "
                "topic; please report this with the log file."
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
        "anomalies": f"{report.anomalies:,}",
        "machine faults": f"{report.faults_detected} of {report.faults_injected} detected"
        + (f" ({by_kind})" if by_kind else ""),
        "by chance": f"{report.chance_level:.1%} of fault-free stretches would pass for one",
        "false alarms": f"{report.false_alarms_per_machine_day:.1f} a machine and day, of "
        f"{report.scored_per_machine_day:,.0f} readings",
        "sensor faults": f"{report.sensor_faults} (silent, stuck, missing, glitches)",
        "delivery": "exactly once" if report.exactly_once else "at least once",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table
