"""The HTTP service's Prometheus metrics."""

from __future__ import annotations

from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

Endpoint = Literal["/predict", "/predict/batch"]
Refusal = Literal["busy", "rate", "slow", "large"]
FeaturesSource = Literal["online", "request"]

_INFERENCE_BUCKETS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.5)


class ApiMetrics:
    """Counts what the service was asked and what it answered."""

    def __init__(self, version: str, framework: str) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._requests = Counter(
            "inference_requests_total",
            "Requests for predictions, by the status of the answer.",
            ["endpoint", "status"],
            registry=registry,
        )
        self._duration_s = Histogram(
            "inference_request_duration_seconds",
            "Time from the request's head to its answer.",
            ["endpoint"],
            buckets=_INFERENCE_BUCKETS,
            registry=registry,
        )
        for endpoint in get_args(Endpoint):
            self._duration_s.labels(endpoint)
        self._anomalies = Counter(
            "anomalies_detected_total", "Predictions that are anomalies.", registry=registry
        )
        self._predictions = Counter(
            "predictions_total",
            "Predictions, by where the machine's past came from.",
            ["features_source"],
            registry=registry,
        )
        for source in get_args(FeaturesSource):
            self._predictions.labels(source)
        self._store_failures = Counter(
            "online_read_failures_total",
            "Requests for which the online store did not answer in time.",
            registry=registry,
        )
        self._refused = Counter(
            "http_requests_refused_total",
            "Requests refused to keep the service up: too many, often, slow or large.",
            ["reason"],
            registry=registry,
        )
        for reason in get_args(Refusal):
            self._refused.labels(reason)
        model = Info("model", "The model in use.", registry=registry)
        model.info({"version": version, "framework": framework})

    def on_answered(self, endpoint: Endpoint, status: int, duration_s: float) -> None:
        """A request for predictions was answered."""
        self._requests.labels(endpoint, status).inc()
        self._duration_s.labels(endpoint).observe(duration_s)

    def on_predicted(self, source: FeaturesSource, is_anomaly: bool) -> None:
        """A reading was scored."""
        self._predictions.labels(source).inc()
        if is_anomaly:
            self._anomalies.inc()

    def on_store_failed(self) -> None:
        """The online store did not answer in time."""
        self._store_failures.inc()

    def on_refused(self, reason: Refusal) -> None:
        """A request was refused."""
        self._refused.labels(reason).inc()

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
