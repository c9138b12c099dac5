"""The figures of the worker that a demo needs, from the registry behind ``/metrics``."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry


class Counters:
    """Reads totals over all labels, or those with some."""

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

    @property
    def told(self) -> int:
        """Messages about episodes published."""
        return self._total("episodes_total")

    @property
    def episodes(self) -> int:
        """Episodes opened."""
        return self._total("episodes_total", {"status": "opened"})

    def _total(self, name: str, labels: Mapping[str, str] | None = None) -> int:
        families = self._registry.restricted_registry([name]).collect()
        samples = (sample for family in families for sample in family.samples)
        wanted = (labels or {}).items()
        return int(sum(s.value for s in samples if s.name == name and wanted <= s.labels.items()))
