"""Predictions over HTTP: what the core says, with the machine's past or without."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import numpy as np
import pytest

from tests.api.conftest import Serve
from worker.api.predicting import MAX_BATCH
from worker.contracts import example_event
from worker.core import windows
from worker.core.errors import OnlineStoreError
from worker.core.events import Chunk
from worker.core.messages import format_time_us
from worker.core.outgoing import Scored
from worker.core.state import PartitionState
from worker.models.bundle import Bundle
from worker.online.machine import OnlineMachine, WindowStats
from worker.online.memory import MemoryStore
from worker.simulator import Simulator

US_PER_S = 1_000_000


class Broken:
    """A store that cannot be reached."""

    async def get(self, machine_ids: Sequence[str]) -> list[OnlineMachine | None]:
        raise OnlineStoreError("the online store is down.")

    async def changed(self, since_ms: int) -> list[str]:
        raise OnlineStoreError("the online store is down.")

    async def close(self) -> None:
        pass


class Slow(Broken):
    """A store that answers too late."""

    async def get(self, machine_ids: Sequence[str]) -> list[OnlineMachine | None]:
        await asyncio.sleep(30.0)
        raise AssertionError("nobody waits for so long")


@pytest.fixture(scope="module")
def alone(serve: Serve) -> Iterator[httpx.Client]:
    with serve() as url, httpx.Client(base_url=url) as client:
        yield client


def event(bundle: Bundle, **more: object) -> dict[str, Any]:
    return {**example_event(bundle.spec), "timestamp": None, **more}


def post(client: httpx.Client, path: str, body: object) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(path, content=content)


def test_a_reading_alone_says_so(alone: httpx.Client, bundle: Bundle) -> None:
    answer = post(alone, "/predict", event(bundle, machine_id="m-1")).json()
    assert (answer["machine_id"], answer["features_source"]) == ("m-1", "request")
    assert answer["features_note"] == "no online store is set"
    assert answer["model_version"] == bundle.model_version
    assert answer["is_anomaly"] is (answer["anomaly_score"] < answer["threshold"])
    assert answer["timestamp"].endswith("Z")


def test_an_impossible_combination_is_an_anomaly_with_its_reason(
    alone: httpx.Client, bundle: Bundle
) -> None:
    answer = post(alone, "/predict", event(bundle, torque=900.0)).json()
    assert answer["is_anomaly"] is True
    assert answer["causes"][0]["channel"] == "torque"
    assert "torque 900.0 N*m" in answer["reason"]
    assert answer["severity"] in ("low", "medium", "high")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"),
        (b"{", "malformed-json"),
        (b"\xff", "not-utf8"),
        (b"[]", "invalid-field"),
        (b"{}", "invalid-field"),
        (b'{"machine_id":"m","vibration":"x"}', "invalid-field"),
        (b'{"machine_id":"m","vibration":NaN}', "malformed-json"),
        (b'{"machine_id":"m","vibration":1e6}', "no-usable-channel"),
        (b'{"machine_id":"m"}', "no-usable-channel"),
        (b'{"machine_id":"m","vibration":1,"timestamp":0}', "timestamp-out-of-range"),
        (b'{"machine_id":"m","vibration":1,"timestamp":4000000000000}', "timestamp-in-future"),
        (b"[" * 200, "malformed-json"),
    ],
)
def test_what_the_stream_would_refuse_is_refused_with_the_same_reason(
    alone: httpx.Client, body: bytes, reason: str
) -> None:
    answer = post(alone, "/predict", body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["reason"] == reason
    assert answer.json()["status"] == 422


def test_a_batch_is_answered_in_order_whatever_some_readings_are(
    alone: httpx.Client, bundle: Bundle
) -> None:
    readings = [
        event(bundle, machine_id=f"m-{i}", torque=900.0 if i == 2 else 40) for i in range(9)
    ]
    readings[5] = {"machine_id": "m-5", "vibration": "x"}
    found = post(alone, "/predict/batch", {"readings": readings}).json()
    assert [one.get("machine_id") for one in found["results"]] == [
        None if i == 5 else f"m-{i}" for i in range(9)
    ]
    assert found["results"][5]["error"] == "invalid-field"
    assert found["summary"] == {
        "total": 9,
        "scored": 8,
        "anomalies": sum(one.get("is_anomaly", False) for one in found["results"]),
        "refused": 1,
        "online": 0,
    }
    assert found["results"][2]["is_anomaly"] is True


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"{}", b'{"readings":[]}', b'{"readings":3}', b"\xff\xfe"],
)
def test_what_is_no_batch_is_refused(alone: httpx.Client, body: bytes) -> None:
    answer = post(alone, "/predict/batch", body)
    assert answer.status_code == 422
    assert f"1 to {MAX_BATCH} events" in answer.json()["detail"]


def test_a_batch_of_too_many_is_refused(alone: httpx.Client, bundle: Bundle) -> None:
    most = post(alone, "/predict/batch", {"readings": [event(bundle)] * MAX_BATCH})
    more = post(alone, "/predict/batch", {"readings": [event(bundle)] * (MAX_BATCH + 1)})
    assert (most.status_code, more.status_code) == (200, 422)


@pytest.mark.parametrize("store", [Broken(), Slow()])
def test_a_store_that_does_not_answer_leaves_the_reading_alone(
    serve: Serve, bundle: Bundle, store: Broken
) -> None:
    with serve(store) as url, httpx.Client(base_url=url) as client:
        answer = post(client, "/predict", event(bundle)).json()
        metrics = client.get("/metrics").text
    assert answer["features_source"] == "request"
    assert answer["features_note"] == "the online store did not answer in time"
    assert "online_read_failures_total 1.0" in metrics
    assert 'inference_requests_total{endpoint="/predict",status="200"} 1.0' in metrics


def test_with_its_past_a_reading_is_scored_as_the_stream_scores_it(
    serve: Serve, bundle: Bundle
) -> None:
    # Begun on the minute, so that the last two readings fall into one pane.
    start_us = time.time_ns() // 60_000_000_000 * 60 * US_PER_S - 7_200 * US_PER_S
    simulator = Simulator(bundle.spec, start_us=start_us, machines=1, interval_s=15.0, seed=4)
    *sent, (key, last) = simulator.advance(start_us + 7_000 * US_PER_S)
    pipeline, state = bundle.pipeline(), PartitionState(bundle.spec)
    before = pipeline.step(state, chunk_of(sent, 0)).scored_events[-1]
    rows = dict(state.take_changes())
    store = MemoryStore()
    store.write([document(bundle, before, rows[key + b"|m"] or b"")])
    with serve(store) as url, httpx.Client(base_url=url) as client:
        answer = post(client, "/predict", last).json()
        other = post(client, "/predict", {**json.loads(last), "machine_id": "other"}).json()
    (after,) = pipeline.step(state, chunk_of([(key, last)], len(sent))).scored_events
    assert (answer["features_source"], answer["features_note"]) == ("online", "")
    assert answer["anomaly_score"] == pytest.approx(after.scores.anomaly_score[0], abs=1e-3)
    assert answer["experience"] == pytest.approx(after.scores.experience[0])
    assert (other["features_source"], other["experience"]) == ("request", 0.0)
    assert other["features_note"] == "the machine is not in the store"


def chunk_of(sent: Sequence[tuple[bytes, bytes]], first: int) -> Chunk:
    return Chunk(
        "sensor-events",
        0,
        np.arange(first, first + len(sent)),
        np.full(len(sent), time.time_ns() // 1_000_000),
        [key for key, _ in sent],
        [value for _, value in sent],
    )


def document(bundle: Bundle, scored: Scored, row: bytes) -> OnlineMachine:
    """The last event of a machine as the online store has it."""
    spec, scores, time_us = bundle.spec, scored.scores, int(scored.readings.times_us[-1])
    columns = (windows.COUNT, windows.MEAN, windows.STD, windows.MIN, windows.MAX)
    stats = scored.aggregates[-1][:, columns].tolist()
    return OnlineMachine(
        machine_id=scored.readings.machine_ids[-1].decode(),
        timestamp=format_time_us(time_us),
        written_at=format_time_us(time_us),
        model_version=bundle.model_version,
        anomaly_score=float(scores.anomaly_score[-1]),
        threshold=float(scores.threshold[-1]),
        confidence=float(scores.confidence[-1]),
        experience=float(scores.experience[-1]),
        is_anomaly=False,
        under_maintenance=False,
        values={},
        features={},
        windows={
            channel.name: WindowStats(int(count), *rest)
            for channel, (count, *rest) in zip(spec.continuous, stats, strict=True)
        },
        state=row,
    )
