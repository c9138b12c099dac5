"""Routes of the fleet on a real socket, acknowledgements on a real Kafka, and the page's files."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from urllib.parse import quote

import httpx
import pytest

from load.local_kafka import LocalKafka
from tests.api.conftest import running
from tests.support.fleet import AT_MS, drift, episode, health, known
from tests.support.kafka import create_topics, read_topic, unique
from worker.api.app import create_api
from worker.api.audit import Auditor
from worker.api.fleet import Fleet
from worker.api.live import Gatherer, Introduction
from worker.api.routes import acknowledging_route, page_routes, read_routes
from worker.api.service import Service
from worker.models.bundle import Bundle
from worker.online.memory import MemoryStore
from worker.settings import Settings

STRANGE = 'press/7 <b>"%2F'


def told() -> Fleet:
    fleet = Fleet(("torque", "speed"))
    fleet.put([known("m-1"), known(STRANGE)])
    fleet.apply(episode(STRANGE, severity="high"), AT_MS)
    fleet.apply(health("m-1"), AT_MS)
    fleet.apply(drift(), AT_MS)
    return fleet


@pytest.fixture(scope="module")
def settings(kafka: LocalKafka) -> Settings:
    brokers, audit = kafka.bootstrap_servers, unique("audit")
    create_topics(brokers, audit)
    return Settings(kafka={"brokers": brokers}, topics={"audit": audit}, serve={"port": 0})


@pytest.fixture(scope="module")
def client(settings: Settings, bundle: Bundle) -> Iterator[httpx.Client]:
    gatherer, auditor = Gatherer(settings, None, told()), Auditor(settings)
    introduction = Introduction.of(bundle.spec, bundle.model_version, bundle.framework)
    routers = (
        read_routes(gatherer, introduction),
        acknowledging_route(gatherer, auditor),
        page_routes(),
    )
    app = create_api(settings, bundle, None, routers, gatherer.checks())
    with running(app, settings) as url, httpx.Client(base_url=url) as client:
        yield client
        gatherer.end_streams()
    auditor.close()


def test_every_route_answers_what_it_says(client: httpx.Client) -> None:
    page = client.get("/machines", params={"state": ["high", "sensor"], "limit": 1}).json()
    assert (page["total"], page["machines"][0]["machine_id"]) == (2, STRANGE)
    assert client.get("/machines", params={"text": "PRESS"}).json()["total"] == 1
    view = client.get("/machines/m-1").json()
    assert (view["state"], view["health"][0]["kind"]) == ("sensor", "stuck")
    assert view["latest"]["age_s"] > 0
    assert client.get("/episodes").json()["total"] == 1
    assert client.get("/episodes", params={"machine": "m-1"}).json()["total"] == 0
    assert client.get("/drift").json()["drifts"][0]["group"] == "fleet"
    assert client.get("/drift/latest").json()["latest"]["group"] == "fleet"
    models = client.get("/models").json()
    assert models["in_use"] == "machine-health/1.0.0"
    assert models["bundles"] == [{"name": "machine-health", "versions": ["1.0.0"]}]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/machines/none", 404),
        ("/machines?state=well", 422),
        ("/machines?limit=0", 422),
        ("/episodes?offset=-1", 422),
        ("/episodes?status=new", 422),
        ("/live?machine=" + "m" * 300, 422),
        ("/static/page/none.js", 404),
        ("/static/page/../../settings.py", 404),
    ],
)
def test_what_is_not_there_or_not_allowed_is_a_problem(
    client: httpx.Client, path: str, status: int
) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_names_may_have_any_characters(client: httpx.Client) -> None:
    answer = client.get(f"/machines/{quote(STRANGE, safe='')}")
    assert answer.json()["machine_id"] == STRANGE


def test_an_acknowledgement_reaches_kafka_once(client: httpx.Client, settings: Settings) -> None:
    url = f"/episodes/{quote(episode(STRANGE).id, safe='')}/acknowledgement"
    for _ in range(2):
        answer = client.post(url, json={"who": "K. Brandt", "note": "on my way"})
        assert answer.status_code == 200, answer.text
    assert [told["who"] for told in answer.json()["acknowledgements"]] == ["K. Brandt"]
    records = read_topic(settings.kafka.brokers, settings.topics.audit)
    (record,) = records
    assert record.value is not None
    written = json.loads(record.value)
    assert (written["note"], written["token"]) == ("on my way", None)
    assert record.key == written["episode_id"].encode()
    (row,) = client.get("/machines", params={"state": "high"}).json()["machines"]
    assert row["acknowledged"] is True
    assert client.post("/episodes/none/acknowledgement", json={"who": "x"}).status_code == 404
    assert client.post(url, json={"who": ""}).status_code == 422


def test_the_stream_begins_with_a_snapshot(client: httpx.Client) -> None:
    with client.stream("GET", "/live", params={"machine": "m-1"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        lines = answer.iter_lines()
        assert next(lines) == "event: snapshot"
        data = json.loads(next(lines).removeprefix("data: "))
    assert data["machine"]["machine_id"] == "m-1"
    assert len(data["tiles"]) == 2


def test_the_page_and_its_files_are_there_and_allow_only_themselves(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    names = [part.split('"')[0] for part in page.text.split('="static/')[1:]]
    assert len(names) == 4
    scripts = ("look", "stream", "grid", "lists", "machine")
    for name in [*names, *(f"page/{script}.js" for script in scripts)]:
        assert client.get(f"/static/{name}").status_code == 200, name


def test_the_service_stops_at_once_although_pages_are_open(bundle: Bundle) -> None:
    settings = Settings(kafka={"brokers": "127.0.0.1:1"}, serve={"port": 0})
    address: Future[str] = Future()
    opened = threading.Event()

    async def run() -> float:
        service = Service(settings, bundle, MemoryStore())
        await service.start()
        address.set_result(service.url)
        await asyncio.to_thread(opened.wait, 20)
        begun_s = asyncio.get_running_loop().time()
        await service.stop()
        return asyncio.get_running_loop().time() - begun_s

    stopped: Future[float] = Future()
    thread = threading.Thread(target=lambda: stopped.set_result(asyncio.run(run())))
    thread.start()
    with httpx.stream("GET", f"{address.result(20)}/live", timeout=20) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: snapshot"
        opened.set()
        list(lines)  # until the service ends it
    thread.join(20)
    # Uvicorn itself would wait for five seconds; asking an absent Kafka takes up to three.
    assert stopped.result(1) < 5
