"""Prometheus metrics, one registry per app: of every process, and of the scoring worker.

Names follow Prometheus' conventions (base units, ``_total`` for counters). What nobody may
miss because no dashboard shows it is logged as well, seldom: machines beyond the limit.
"""

from __future__ import annotations

import collections
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from worker.core.messages import (
    DEAD_LETTER_REASONS,
    DeadLetterReason,
    EpisodeStatus,
    HealthKind,
    HealthStatus,
)
from worker.core.outgoing import Outputs

log = logging.getLogger(__name__)

TELL_OF_REFUSALS_EVERY_S = 600.0
_STEP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_COMMIT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_RESTORE_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class TransportMetrics:
    """What every process counts, whatever its agent does: commits, restores, lag.

    Its ``on_*`` methods may be called from any thread.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._dead = Counter(
            "dead_letters_total", "Records that could not be used.", ["reason"], registry=registry
        )
        for reason in DEAD_LETTER_REASONS:
            self._dead.labels(reason)
        self._deleted_unread = Counter(
            "events_lost_to_retention_total",
            "Offsets of the input that were deleted before they were read.",
            ["partition"],
            registry=registry,
        )
        self._step_s = Histogram(
            "step_duration_seconds",
            "Time to apply one chunk.",
            buckets=_STEP_BUCKETS,
            registry=registry,
        )
        self._commit_s = Histogram(
            "commit_duration_seconds",
            "Time of one commit.",
            buckets=_COMMIT_BUCKETS,
            registry=registry,
        )
        self._restore_s = Histogram(
            "restore_duration_seconds",
            "Time to restore assigned partitions from the changelog.",
            buckets=_RESTORE_BUCKETS,
            registry=registry,
        )
        self._lag = Gauge(
            "consumer_lag_events", "Records not fetched yet.", ["partition"], registry=registry
        )
        self._event_time_lag_s = Gauge(
            "event_time_lag_seconds",
            "Wall clock minus the newest event time processed.",
            ["partition"],
            registry=registry,
        )
        self._standby_partitions = Gauge(
            "standby_partitions",
            "Partitions of other workers of whose state a copy is kept.",
            registry=registry,
        )
        self._standby_lag = Gauge(
            "standby_lag_rows",
            "Rows of the changelog that a copy has not read yet.",
            ["partition"],
            registry=registry,
        )
        self._model = Info("model", "The model in use.", registry=registry)
        self._newest_time_s: dict[int, float] = {}
        self._read_lag: Callable[[], Mapping[int, int]] = dict
        self._read_standby_lag: Callable[[], Mapping[int, int]] = dict

    def set_model(self, version: str, framework: str) -> None:
        """Fill ``model_info``."""
        self._model.info({"version": version, "framework": framework})

    def watch_lag(self, read_lag: Callable[[], Mapping[int, int]]) -> None:
        """Ask ``read_lag`` for the lag of each owned partition at every scrape."""
        self._read_lag = read_lag

    def watch_standbys(self, read_lag: Callable[[], Mapping[int, int]]) -> None:
        """Ask ``read_lag`` for the lag of each standby copy at every scrape."""
        self._read_standby_lag = read_lag

    def on_applied(self, partition: int, outputs: Any, duration_s: float) -> None:
        """A chunk was applied; what it gave is for whoever knows the agent to count."""
        raise NotImplementedError

    def on_committed(self, duration_s: float) -> None:
        """Record the time of a commit."""
        self._commit_s.observe(duration_s)

    def on_deleted_unread(self, partition: int, offsets: int) -> None:
        """Count what retention deleted before it was read."""
        self._deleted_unread.labels(partition).inc(offsets)

    def on_restored(self, duration_s: float) -> None:
        """Record the time of a restore."""
        self._restore_s.observe(duration_s)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        lag = self._read_lag()
        self._lag.clear()
        self._event_time_lag_s.clear()
        for partition, events in lag.items():
            self._lag.labels(partition).set(events)
            if partition in self._newest_time_s:
                lag_s = time.time() - self._newest_time_s[partition]
                self._event_time_lag_s.labels(partition).set(lag_s)
        copies = self._read_standby_lag()
        self._standby_partitions.set(len(copies))
        self._standby_lag.clear()
        for partition, rows in copies.items():
            self._standby_lag.labels(partition).set(rows)
        return generate_latest(self.registry)

    def _count_applied(
        self,
        partition: int,
        dead: Mapping[DeadLetterReason, int],
        newest_time_us: int,
        duration_s: float,
    ) -> None:
        """Count what every chunk has.

        Args:
            newest_time_us: latest event time in it; -1 without any.
        """
        for reason, count in dead.items():
            self._dead.labels(reason).inc(count)
        if newest_time_us >= 0:
            newest_s = newest_time_us / 1e6
            self._newest_time_s[partition] = max(
                newest_s, self._newest_time_s.get(partition, newest_s)
            )
        self._step_s.observe(duration_s)


class Metrics(TransportMetrics):
    """Counts what the scoring worker reports; see docs/architecture.md for the list."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock_s = clock_s
        registry = self.registry
        self._events = Counter(
            "events_processed_total",
            "Records read from sensor-events: scored, late or dead.",
            ["partition"],
            registry=registry,
        )
        self._scored = Counter("events_scored_total", "Events scored.", registry=registry)
        self._anomalies = Counter(
            "anomalies_detected_total", "Anomalies published.", registry=registry
        )
        self._episodes = Counter(
            "episodes_total",
            "Episodes published, by what was told of them.",
            ["status"],
            registry=registry,
        )
        for status in get_args(EpisodeStatus):
            self._episodes.labels(status)
        self._health = Counter(
            "sensor_conditions_total",
            "Faulty conditions of sensors published, by what was told of them.",
            ["kind", "status"],
            registry=registry,
        )
        for kind in get_args(HealthKind):
            for status in get_args(HealthStatus):
                self._health.labels(kind, status)
        self._late = Counter(
            "late_events_total", "Events older than their machine's watermark.", registry=registry
        )
        self._masked = Counter(
            "readings_masked_total",
            "Readings outside their channel's physical range.",
            ["channel"],
            registry=registry,
        )
        self._machines = Gauge("machines", "Machines with state.", ["partition"], registry=registry)
        self._count_machines: Callable[[], Mapping[int, int]] = dict
        self._refused: collections.Counter[int] = collections.Counter()
        self._told_of_refusals_s = -TELL_OF_REFUSALS_EVERY_S

    def watch_machines(self, count: Callable[[], Mapping[int, int]]) -> None:
        """Ask ``count`` for the machines of each owned partition at every scrape."""
        self._count_machines = count

    def on_applied(self, partition: int, outputs: Outputs, duration_s: float) -> None:
        """Count what a chunk gave."""
        self._events.labels(partition).inc(outputs.events)
        self._scored.inc(outputs.scored)
        self._anomalies.inc(outputs.anomalies)
        for status, count in outputs.episodes.items():
            self._episodes.labels(status).inc(count)
        for (kind, status), count in outputs.health.items():
            self._health.labels(kind, status).inc(count)
        self._late.inc(outputs.late)
        if refused := outputs.dead["too-many-machines"]:
            self._tell_of_refusals(partition, refused)
        for channel, count in outputs.masked.items():
            self._masked.labels(channel).inc(count)
        self._count_applied(partition, outputs.dead, outputs.newest_time_us, duration_s)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        self._machines.clear()
        for partition, machines in self._count_machines().items():
            self._machines.labels(partition).set(machines)
        return super().render()

    def _tell_of_refusals(self, partition: int, events: int) -> None:
        self._refused[partition] += events
        now_s = self._clock_s()
        if now_s - self._told_of_refusals_s < TELL_OF_REFUSALS_EVERY_S:
            return
        self._told_of_refusals_s = now_s
        log.warning(
            "partitions %s have as many machines as worker.max_machines allows: %d events of "
            "further ones went to dead-letters since this was last said; look there for a gateway "
            "that invents machine ids, or raise the limit",
            sorted(self._refused),
            self._refused.total(),
            extra={"partitions": sorted(self._refused)},
        )
        self._refused.clear()
