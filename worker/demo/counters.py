"""The figures of the worker that a demo needs, from the registry behind ``/metrics``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry


class Counters:
    """Reads totals over all labels."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    @property
    def processed(self) -> int:
        """Events that the worker is done with: scored, late or dead."""
        return self._total("events_processed_total")

    @property
    def scored(self) -> int:
        """Events scored."""
        return self._total("events_scored_total")

    @property
    def anomalies(self) -> int:
        """Anomalies published."""
        return self._total("anomalies_detected_total")

    def _total(self, name: str) -> int:
        families = self._registry.restricted_registry([name]).collect()
        return int(sum(s.value for family in families for s in family.samples if s.name == name))
