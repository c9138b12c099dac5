"""What operators see of the online store; there only where one is written."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_WRITE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class OnlineMetrics:
    """Metrics of the writing side; may be called from any thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._up = Gauge(
            "online_store_up",
            "1: the last writing to the online store succeeded; 0: it failed, or none was tried.",
            registry=registry,
        )
        self._written = Counter(
            "online_machines_written_total",
            "Documents of machines written to the online store.",
            registry=registry,
        )
        self._failures = Counter(
            "online_write_failures_total",
            "Writings to the online store that failed; they are repeated.",
            registry=registry,
        )
        self._waiting = Gauge(
            "online_machines_waiting",
            "Machines with an event that is committed, but not in the online store yet.",
            registry=registry,
        )
        self._write_s = Histogram(
            "online_write_duration_seconds",
            "Time of one writing to the online store that succeeded.",
            buckets=_WRITE_BUCKETS,
            registry=registry,
        )

    def on_written(self, machines: int, duration_s: float) -> None:
        """Some machines were written."""
        self._up.set(1)
        self._written.inc(machines)
        self._write_s.observe(duration_s)

    def on_failed(self) -> None:
        """A writing failed."""
        self._up.set(0)
        self._failures.inc()

    def on_ended(self) -> None:
        """Nothing is written any more."""
        self._up.set(0)

    def on_waiting(self, machines: int) -> None:
        """So many machines wait to be written."""
        self._waiting.set(machines)
