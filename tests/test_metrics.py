"""What operators see, read back as Prometheus would."""

from __future__ import annotations

import time
from collections import Counter

from prometheus_client.parser import text_string_to_metric_families

from worker.core.messages import DEAD_LETTER_REASONS
from worker.core.pipeline import Outputs
from worker.metrics import Metrics


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_a_chunk_is_counted_by_what_became_of_its_events() -> None:
    metrics = Metrics()
    outputs = Outputs(
        events=10,
        scored=6,
        late=1,
        anomalies=2,
        dead=Counter({"not-utf8": 2, "empty": 1}),
        masked=Counter({"torque": 4}),
        newest_time_us=int((time.time() - 5) * 1e6),
    )
    metrics.on_applied(3, outputs, 0.01)
    seen = samples(metrics)
    assert seen["events_processed_total", (("partition", "3"),)] == 10
    assert seen["events_scored_total", ()] == 6
    assert seen["anomalies_detected_total", ()] == 2
    assert seen["late_events_total", ()] == 1
    assert seen["dead_letters_total", (("reason", "not-utf8"),)] == 2
    assert seen["readings_masked_total", (("channel", "torque"),)] == 4
    assert seen["step_duration_seconds_count", ()] == 1


def test_every_reason_is_there_from_the_start() -> None:
    seen = samples(Metrics())
    for reason in DEAD_LETTER_REASONS:
        assert seen["dead_letters_total", (("reason", reason),)] == 0


def test_lag_is_shown_for_owned_partitions_only() -> None:
    metrics = Metrics()
    owned = {0: 7, 1: 0}
    metrics.watch_lag(lambda: owned)
    metrics.on_applied(0, Outputs(newest_time_us=int((time.time() - 60) * 1e6)), 0.0)
    seen = samples(metrics)
    assert seen["consumer_lag_events", (("partition", "0"),)] == 7
    assert 60 <= seen["event_time_lag_seconds", (("partition", "0"),)] < 90
    assert ("event_time_lag_seconds", (("partition", "1"),)) not in seen
    owned.pop(0)
    seen = samples(metrics)
    assert ("consumer_lag_events", (("partition", "0"),)) not in seen
    assert ("event_time_lag_seconds", (("partition", "0"),)) not in seen


def test_commits_restores_and_the_model_are_shown() -> None:
    metrics = Metrics()
    metrics.on_committed(0.2)
    metrics.on_restored(1.5)
    metrics.set_model("machine-health/1.0.0", "onnxruntime 1.32.0")
    seen = samples(metrics)
    assert seen["commit_duration_seconds_sum", ()] == 0.2
    assert seen["restore_duration_seconds_sum", ()] == 1.5
    labels = (("framework", "onnxruntime 1.32.0"), ("version", "machine-health/1.0.0"))
    assert seen["model_info", labels] == 1
