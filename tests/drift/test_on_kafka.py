"""A worker and a drift agent on a real Kafka: the one's trouble is not the other's."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path

import httpx
import msgspec
import numpy as np

from load.drift_fleet import events
from load.drift_live import CHANGES, catch_up, judge, run_case, settings_of
from load.local_kafka import LocalKafka, free_port
from load.worker_process import WorkerProcess, create_topics, load
from tests.deploy.test_rules import DASHBOARDS, queries
from tests.drift.conftest import agent, told
from tests.support.installed import need
from tests.support.kafka import NewRecord, produce, read_topic, unique, wait_until
from worker.core.drift import Partial
from worker.core.drifting import DriftState
from worker.core.events import Chunk
from worker.core.outgoing import Record, partition_of
from worker.models.bundle import Bundle

WAIT_S = 60.0
HOURS = 12
STEP = CHANGES["step"]
SCORED = ("anomalies", "late_events", "dead_letters", "anomaly_episodes", "sensor_health")


def expected(bundle: Bundle, brokers: str, topic: str) -> Iterator[Record]:
    """What an agent gives that reads each partition of the partials in one go."""
    everything = sorted(read_topic(brokers, topic), key=lambda r: (r.partition, r.offset))
    for number, group in groupby(everything, lambda record: record.partition):
        records = list(group)
        chunk = Chunk(
            topic,
            number,
            np.array([record.offset for record in records]),
            np.array([record.timestamp_ms for record in records]),
            [record.key for record in records],
            [record.value for record in records],
        )
        yield from agent(bundle, partitions=4).step(DriftState(), chunk).records


def test_an_agent_that_is_killed_behind_and_fed_garbage_counts_each_row_once(
    kafka: LocalKafka, watched: Bundle, tmp_path: Path
) -> None:
    brokers, name = kafka.bootstrap_servers, unique("drift")
    settings = settings_of(brokers, name, watched)
    create_topics(settings)
    known = load(settings)
    source, partials = known.topics.sensor_events, known.partials_topic
    alone = {**settings_of(brokers, f"{name}-alone", watched), "topics.sensor_events": source}
    create_topics(alone)
    sent = [NewRecord(value=value, key=key) for key, value in events(HOURS, [STEP])]
    half = len(sent) // 2

    log = tmp_path / "log"
    with WorkerProcess(settings, log) as scoring, WorkerProcess(alone, log) as undisturbed:
        with WorkerProcess(settings, log, command="drift") as drifting:
            produce(brokers, source, sent[:half])
            wait_until(
                lambda: drifting.metrics().get("drift_windows_total", 0) > 0, "a window", WAIT_S
            )
            drifting.kill()
        garbage = NewRecord(value=b"garbage", key=b"fleet", partition=partition_of(b"fleet", 4))
        produce(brokers, partials, [garbage])
        produce(brokers, source, sent[half:])
        scoring.wait_for_events(len(sent), WAIT_S)
        catch_up(brokers, name, source)
        assert '"healthy"' in scoring.get("/health")
        # It is behind by seven hours of event time.
        with WorkerProcess(settings, log, command="drift") as drifting:
            drifting.wait_until_healthy(WAIT_S)
            catch_up(brokers, f"{name}-drift", partials)
            # Lag is measured now and then, so it may be behind what was read.
            wait_until(
                lambda: drifting.metrics().get("consumer_lag_events", 1) == 0, "no lag", WAIT_S
            )
            metrics, sums = drifting.get("/metrics"), drifting.metrics()
            assert drifting.terminate() == 0
        assert scoring.terminate() == 0
        undisturbed.wait_for_events(len(sent), WAIT_S)
        assert undisturbed.terminate() == 0

    other = load(alone)
    for key in SCORED:
        mine, theirs = (
            sorted((r.partition, r.key, r.value) for r in read_topic(brokers, topic))
            for topic in (getattr(known.topics, key), getattr(other.topics, key))
        )
        assert [one for one in mine if b"invalid-partial" not in one[2]] == theirs, key
    assert read_topic(brokers, known.topics.anomalies)

    assert 'dead_letters_total{reason="invalid-partial"} 1.0' in metrics
    assert 'data_drift_score{feature="pressure",group="fleet",window="60m"}' in metrics
    assert sums["drift_detections_total"] > 0
    assert sums["features_with_drift"] > 0
    assert sums["drift_window_lag_seconds"] > 0
    assert sums["consumer_lag_events"] == 0
    assert 'drift_partials_total{fate="merged"}' in metrics
    rows = [r.value for r in read_topic(brokers, partials) if r.value != b"garbage"]
    counted = [Partial.from_bytes(value or b"") for value in rows]
    assert sum(one.rows for one in counted if one.group == "fleet") == len(sent)
    wanted = list(expected(watched, brokers, partials))
    for stream, topic in (
        ("drift-events", known.topics.drift_events),
        ("retraining-requests", known.topics.retraining_requests),
    ):
        published = sorted((r.key, r.value) for r in read_topic(brokers, topic))
        assert published == sorted((r.key, r.value) for r in wanted if r.stream == stream)
    (opened,) = [event for event in told(wanted).opened if event["group"] == "fleet"]
    assert "pressure" in opened["features"][0]["feature"]
    (letter,) = read_topic(brokers, known.topics.dead_letters)
    told_of = msgspec.json.decode(letter.value or b"")
    assert (told_of["reason"], told_of["origin"]["topic"]) == ("invalid-partial", partials)


def test_a_case_of_the_campaign_is_as_it_should_be(
    kafka: LocalKafka, watched: Bundle, tmp_path: Path
) -> None:
    changes = [CHANGES["regime-change"]]
    found = run_case(kafka.bootstrap_servers, watched, changes, 31, tmp_path, HOURS)
    verdict = judge("regime-change", 31, changes, found)
    assert verdict.passed, verdict
    assert {event["id"] for event in found if event["group"] == "fleet"} == {found[0]["id"]}


def test_every_query_of_the_dashboards_has_data(
    kafka: LocalKafka, watched: Bundle, tmp_path: Path
) -> None:
    """A real Prometheus scrapes a worker, a drift agent and the HTTP service at work."""
    need("prometheus", "prometheus")
    brokers, name = kafka.bootstrap_servers, unique("dashboards")
    settings = settings_of(brokers, name, watched)
    create_topics(settings)
    sent = [NewRecord(value=value, key=key) for key, value in events(HOURS, [STEP])]
    log = tmp_path / "log"
    with (
        WorkerProcess(settings, log) as scoring,
        WorkerProcess(settings, log, command="drift") as drifting,
        WorkerProcess(settings, log, command="serve") as serving,
    ):
        serving.wait_until_healthy(WAIT_S)
        ports = {"worker": scoring.port, "drift": drifting.port, "serve": serving.port}
        with prometheus(tmp_path, ports) as ask:
            wait_until(lambda: len(ask("up == 1")) == 3, "all are scraped", WAIT_S)
            produce(brokers, load(settings).topics.sensor_events, sent[: len(sent) // 2])
            predict(serving.port, sent[0].value or b"")
            wait_until(lambda: bool(ask("data_drift_score")), "a window is judged", WAIT_S)
            produce(brokers, load(settings).topics.sensor_events, sent[len(sent) // 2 :])
            predict(serving.port, sent[0].value or b"")
            asked = [query for path in DASHBOARDS for query in queries(path)]
            empty = set(asked)

            def all_have_data() -> bool:
                empty.difference_update(
                    [query for query in empty if ask(query.replace("$__rate_interval", "30s"))]
                )
                return not empty

            with suppress(AssertionError):
                wait_until(all_have_data, "every query has data", 20)
            assert empty == set()
        for process in (scoring, drifting, serving):
            assert process.terminate() == 0


def predict(port: int, reading: bytes) -> None:
    event = {**msgspec.json.decode(reading), "timestamp": None}
    answer = httpx.post(f"http://127.0.0.1:{port}/predict", content=msgspec.json.encode(event))
    assert answer.status_code == 200


@contextmanager
def prometheus(folder: Path, ports: dict[str, int]) -> Iterator[Callable[[str], list[object]]]:
    """A Prometheus that scrapes every second; gives what asks it for the present values."""
    port = free_port()
    jobs = [
        {"job_name": f"driftdetector-{job}", "static_configs": [{"targets": [f"127.0.0.1:{own}"]}]}
        for job, own in ports.items()
    ]
    config = folder / "prometheus.yml"
    # JSON is YAML too.
    config.write_bytes(
        msgspec.json.encode({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs})
    )
    command = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]

    def ask(query: str) -> list[object]:
        try:
            answer = httpx.get(
                f"http://127.0.0.1:{port}/api/v1/query", params={"query": query}
            ).json()
        except httpx.TransportError:
            return []
        assert answer["status"] == "success", answer
        found: list[object] = answer["data"]["result"]
        return found

    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield ask
        finally:
            process.terminate()
            process.wait(30)
