"""The drift agent's Prometheus metrics."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import get_args

from prometheus_client import Counter, Gauge

from worker.core.channels import US_PER_S
from worker.core.drift import WindowReport
from worker.core.drifting import DriftOutputs
from worker.core.drifting.agent import PartialFate
from worker.metrics import TransportMetrics


class DriftMetrics(TransportMetrics):
    """Counts what the drift agent reports; see docs/drift.md for the list."""

    def __init__(self) -> None:
        super().__init__()
        registry = self.registry
        self._partials = Counter(
            "drift_partials_total",
            "Partials read, by what became of them.",
            ["fate"],
            registry=registry,
        )
        for fate in get_args(PartialFate):
            self._partials.labels(fate)
        self._windows = Counter(
            "drift_windows_total",
            "Windows judged.",
            ["group", "window", "verdict"],
            registry=registry,
        )
        self._detections = Counter(
            "drift_detections_total", "Drift events opened.", ["group"], registry=registry
        )
        self._requests = Counter(
            "retraining_requests_total", "Retraining requests published.", registry=registry
        )
        self._accepted = Counter(
            "drift_acceptances_total", "Changes accepted by people.", registry=registry
        )
        self._score = Gauge(
            "data_drift_score",
            "Distance of the last window from the training, in standard deviations; 0.3 is much.",
            ["group", "window", "feature"],
            registry=registry,
        )
        self._drifted = Gauge(
            "features_with_drift",
            "Features that drifted in the last window.",
            ["group", "window"],
            registry=registry,
        )
        self._window_lag_s = Gauge(
            "drift_window_lag_seconds",
            "Wall clock minus the end of the last window that was judged.",
            ["group", "window"],
            registry=registry,
        )
        self._ends_us: dict[tuple[str, str], int] = {}

    def on_applied(self, partition: int, outputs: DriftOutputs, duration_s: float) -> None:
        """Count what a chunk gave."""
        for fate, count in outputs.partials.items():
            self._partials.labels(fate).inc(count)
        for report in outputs.windows:
            self._on_window(report)
        for group in outputs.opened:
            self._detections.labels(group).inc()
        self._requests.inc(outputs.requests)
        self._accepted.inc(outputs.accepted)
        self._count_applied(partition, outputs.dead, outputs.newest_time_us, duration_s)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        ends_us: Mapping[tuple[str, str], int] = self._ends_us.copy()
        for place, end_us in ends_us.items():
            self._window_lag_s.labels(*place).set(time.time() - end_us / US_PER_S)
        return super().render()

    def _on_window(self, report: WindowReport) -> None:
        place = report.group, f"{report.window_us // (60 * US_PER_S)}m"
        self._windows.labels(*place, report.verdict).inc()
        self._ends_us[place] = report.end_us
        if report.verdict in ("sparse", "blind"):
            return
        for one in report.features:
            self._score.labels(*place, one.feature).set(one.score)
        self._drifted.labels(*place).set(sum(one.drifted for one in report.features))
