"""What operators see, read back as Prometheus would."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from prometheus_client.parser import text_string_to_metric_families

from worker.core.messages import DEAD_LETTER_REASONS
from worker.core.outgoing import Outputs
from worker.metrics import TELL_OF_REFUSALS_EVERY_S, Metrics


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


def test_machines_are_shown_for_owned_partitions_only() -> None:
    metrics = Metrics()
    owned = {0: 700, 1: 3}
    metrics.watch_machines(lambda: owned)
    assert samples(metrics)["machines", (("partition", "0"),)] == 700
    owned.pop(0)
    assert ("machines", (("partition", "0"),)) not in samples(metrics)


def test_what_retention_took_is_counted() -> None:
    metrics = Metrics()
    metrics.on_deleted_unread(2, 400)
    metrics.on_deleted_unread(2, 1)
    assert samples(metrics)["events_lost_to_retention_total", (("partition", "2"),)] == 401


def test_machines_beyond_the_limit_are_told_at_once_and_then_seldom(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now_s = [50.0]
    metrics = Metrics(clock_s=lambda: now_s[0])
    refused = Outputs(events=8, dead=Counter({"too-many-machines": 8}))
    metrics.on_applied(1, Outputs(events=3, dead=Counter({"empty": 3})), 0.0)
    assert not caplog.records
    metrics.on_applied(1, refused, 0.0)
    for _ in range(100):
        now_s[0] += 5.0
        metrics.on_applied(2, refused, 0.0)
    assert len(caplog.records) == 1
    assert "partitions [1]" in caplog.messages[0]
    assert ": 8 events" in caplog.messages[0]
    now_s[0] += TELL_OF_REFUSALS_EVERY_S
    metrics.on_applied(1, refused, 0.0)
    assert len(caplog.records) == 2
    assert "partitions [1, 2]" in caplog.messages[1]
    assert ": 808 events" in caplog.messages[1]
