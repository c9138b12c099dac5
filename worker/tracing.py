"""What became of a gateway's event, as OpenTelemetry traces; off unless an address is set.

A worker's steps and commits are spans of its own. What it publishes because of an event that
carries a W3C ``traceparent`` header is a span of that event's trace, linked to the step, and
carries the header on.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from worker.core.errors import ConfigError
from worker.core.events import Chunk
from worker.settings import Settings

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor

TRACEPARENT = "traceparent"
"""The header's name, https://www.w3.org/TR/trace-context/."""


class Tracing(Protocol):
    """What a process tells of its work; each call is cheap.

    Attributes:
        reads_headers: whether records' headers are to be looked at.
    """

    reads_headers: bool

    def step(self, chunk: Chunk) -> AbstractContextManager[object]:
        """A span around the step over a chunk."""

    def commit(self, partitions: Sequence[int]) -> AbstractContextManager[object]:
        """A span around a commit."""

    def published(self, topic: str, caused_by: bytes) -> bytes:
        """A span for a record that is published, within the step that gave it.

        Args:
            caused_by: ``traceparent`` of the event.

        Returns:
            The ``traceparent`` that the record carries.
        """


class Untraced:
    """Does nothing."""

    reads_headers = False

    def step(self, chunk: Chunk) -> AbstractContextManager[object]:
        """Nothing."""
        return nullcontext()

    def commit(self, partitions: Sequence[int]) -> AbstractContextManager[object]:
        """Nothing."""
        return nullcontext()

    def published(self, topic: str, caused_by: bytes) -> bytes:
        """The header as it came."""
        return caused_by


class OpenTelemetry:
    """Sends spans to a collector, by OTLP over HTTP, from a thread of its own.

    Sampling and further options are OpenTelemetry's own environment variables.

    Args:
        endpoint: the collector's address; spans go to its ``/v1/traces``.
        service: ``service.name`` of the spans.
        instance: ``service.instance.id``.
    """

    reads_headers = True

    def __init__(self, endpoint: str, service: str, instance: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create({"service.name": service, "service.instance.id": instance})
        provider = TracerProvider(resource=resource)
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = provider.get_tracer("driftdetector")
        self._propagator = TraceContextTextMapPropagator()

    def step(self, chunk: Chunk) -> AbstractContextManager[object]:
        """A span with the chunk's place in Kafka."""
        return self._tracer.start_as_current_span(
            "step",
            attributes={
                "messaging.system": "kafka",
                "messaging.destination.name": chunk.topic,
                "messaging.destination.partition.id": str(chunk.partition),
                "messaging.kafka.offset": int(chunk.offsets[0]),
                "messaging.batch.message_count": len(chunk),
            },
        )

    def commit(self, partitions: Sequence[int]) -> AbstractContextManager[object]:
        """A span with the partitions that are committed."""
        return self._tracer.start_as_current_span(
            "commit", attributes={"driftdetector.partitions": list(partitions)}
        )

    def published(self, topic: str, caused_by: bytes) -> bytes:
        """A span of the event's trace; a header that is none is carried on as it came."""
        from opentelemetry import trace

        text = caused_by.decode("ascii", "replace")
        context = self._propagator.extract({TRACEPARENT: text})
        if not trace.get_current_span(context).get_span_context().is_valid:
            return caused_by
        step = trace.get_current_span().get_span_context()
        span = self._tracer.start_span(
            f"{topic} publish",
            context,
            kind=trace.SpanKind.PRODUCER,
            attributes={"messaging.system": "kafka", "messaging.destination.name": topic},
            links=[trace.Link(step)],
        )
        span.end()
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, trace.set_span_in_context(span))
        return carrier[TRACEPARENT].encode()


def create_tracing(settings: Settings, service: str) -> Tracing:
    """What the settings ask for.

    Args:
        service: such as ``driftdetector-scoring``.

    Raises:
        ConfigError: the packages are not installed.
    """
    if settings.tracing.endpoint is None:
        return Untraced()
    _check_installed()
    return OpenTelemetry(settings.tracing.endpoint, service, settings.worker.instance_id)


def log_fields(settings: Settings) -> list[Processor]:
    """What adds its trace to what is logged, as the settings ask for.

    Raises:
        ConfigError: the packages are not installed.
    """
    if settings.tracing.endpoint is None:
        return []
    _check_installed()
    return [_add_trace]


def _check_installed() -> None:
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None:
        raise ConfigError(
            "tracing.endpoint: traces need further packages; install them with "
            "pip install 'driftdetector[tracing]', or remove the key."
        )


def _add_trace(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Give what is logged within a span its ``trace_id`` and ``span_id``."""
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
        event["span_id"] = trace.format_span_id(context.span_id)
    return event
