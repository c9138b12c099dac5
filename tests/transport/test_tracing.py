"""Traces from a gateway's event to what is published because of it, on a real Kafka."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from confluent_kafka import Producer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from load.records import QUIET, iterate_topic
from tests.support.kafka import unique
from tests.transport.conftest import Job
from worker.core.errors import ConfigError
from worker.settings import Settings
from worker.tracing import Untraced, create_tracing

WAIT_S = 60.0
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


@contextmanager
def collector() -> Iterator[tuple[str, list[Span]]]:
    """A collector that takes OTLP over HTTP, and the spans that it was sent."""
    spans: list[Span] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", spans
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_what_an_event_causes_goes_on_with_its_trace(job: Job) -> None:
    settings = job.settings(unique("traced"))
    brokers, dead_letters = settings["kafka.brokers"], settings["topics.dead_letters"]
    gateway = Producer({"bootstrap.servers": brokers}, logger=QUIET)
    for headers in ([("traceparent", TRACEPARENT)], [("traceparent", "garbage")], None):
        gateway.produce(job.source, b"no event", b"m", partition=0, headers=headers)
    assert gateway.flush(WAIT_S) == 0
    with collector() as (address, spans):
        with job.worker({**settings, "tracing.endpoint": address}) as worker:
            worker.wait_for_events(3, WAIT_S)
            assert worker.terminate() == 0
        letters = list(iterate_topic(brokers, dead_letters))

    first, second, third = sorted(
        letters, key=lambda one: json.loads(one.value)["origin"]["offset"]
    )
    ((name, value),) = first.headers
    version, trace, span, flags = value.decode().split("-")
    assert (name, version, trace, flags) == ("traceparent", "00", TRACE, "01")
    assert second.headers == (("traceparent", b"garbage"),)
    assert third.headers == ()
    (published,) = [one for one in spans if one.span_id.hex() == span]
    assert (published.trace_id.hex(), published.parent_span_id.hex()) == (TRACE, PARENT)
    assert published.name == f"{dead_letters} publish"
    steps = {one.span_id: one for one in spans if one.name == "step"}
    (link,) = published.links
    found = {one.key: one.value for one in steps[link.span_id].attributes}
    assert found["messaging.destination.name"].string_value == job.source
    assert found["messaging.batch.message_count"].int_value >= 1
    assert any(one.name == "commit" for one in spans)


def test_without_an_address_nothing_is_traced() -> None:
    tracing = create_tracing(Settings(), "driftdetector-scoring")
    assert isinstance(tracing, Untraced)
    assert not tracing.reads_headers


def test_an_address_without_the_packages_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.tracing.find_spec", lambda _: None)
    settings = Settings.model_validate({"tracing": {"endpoint": "http://collector:4318"}})
    with pytest.raises(ConfigError, match=r"tracing\.endpoint: .*driftdetector\[tracing\]"):
        create_tracing(settings, "driftdetector-scoring")
