"""JSON Schemas and examples of every message, generated from the types of the core.

Owns schemas/*.json (JSON Schema 2020-12); the AsyncAPI document beside them comes from
``worker/asyncapi.py``. ``driftdetector schemas write`` writes both, a test compares them.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from worker.core import messages
from worker.core.channels import Channel, ChannelSpec, Derived, SpecFile, WindowSpec
from worker.core.explanation import describe
from worker.core.vocabulary import FeatureGroup

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MAX_SHOWN_DIFFERENCES = 5

Document = dict[str, Any]

_DOCUMENTED: tuple[type[msgspec.Struct], ...] = (
    messages.Acknowledgement,
    messages.Anomaly,
    messages.Cause,
    messages.DeadLetter,
    messages.DriftEvent,
    messages.DriftFeature,
    messages.DriftMachine,
    messages.DriftTest,
    messages.Episode,
    messages.LateEvent,
    messages.MaintenanceNotice,
    messages.Origin,
    messages.Replay,
    messages.RetrainingRequest,
    messages.SensorHealth,
    Channel,
    Derived,
    FeatureGroup,
    SpecFile,
    WindowSpec,
)


class Message(NamedTuple):
    """One kind of message, or file, with its type.

    Attributes:
        name: of its schema file without ``.json``.
        title: for a person.
        example: a JSON value that the schema allows.
    """

    name: str
    title: str
    type: type[msgspec.Struct]
    example: Document


def all_messages(spec: ChannelSpec) -> list[Message]:
    """Every message that enters or leaves DriftDetector, for one channel set."""
    return [
        Message("sensor-event", "Sensor event", messages.event_type(spec), example_event(spec)),
        Message("anomaly", "Anomaly", messages.Anomaly, example_anomaly(spec)),
        Message("episode", "Anomaly episode", messages.Episode, example_episode(spec)),
        Message(
            "sensor-health", "Sensor health", messages.SensorHealth, example_sensor_health(spec)
        ),
        Message("late-event", "Late event", messages.LateEvent, example_late_event(spec)),
        Message("dead-letter", "Dead letter", messages.DeadLetter, example_dead_letter()),
        Message("replay", "Replay", messages.Replay, example_replay()),
        Message("drift-event", "Drift event", messages.DriftEvent, example_drift_event(spec)),
        Message(
            "retraining-request",
            "Retraining request",
            messages.RetrainingRequest,
            example_retraining_request(spec),
        ),
        Message(
            "acknowledgement",
            "Acknowledgement",
            messages.Acknowledgement,
            example_acknowledgement(spec),
        ),
    ]


def schema_documents(spec: ChannelSpec) -> dict[str, Document]:
    """The JSON Schemas by file name."""
    written = json.loads(json.dumps(spec.to_dict()))
    channels_file = Message("channels", "Channel specification", SpecFile, written)
    return {
        f"{message.name}.json": _schema_document(message, spec)
        for message in [*all_messages(spec), channels_file]
    }


def components(spec: ChannelSpec, ref_template: str) -> dict[str, Document]:
    """The schemas of all messages and what they refer to, by type name, described.

    Args:
        ref_template: how schemas refer to each other, with ``{name}``.
    """
    types = [message.type for message in all_messages(spec)]
    _, found = msgspec.json.schema_components(types, ref_template=ref_template)
    return {name: _described(name, schema, spec) for name, schema in found.items()}


def render(document: Document) -> str:
    """A document as the text of its file."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def differences(documents: dict[str, Document], folder: Path) -> list[str]:
    """Compare files with what would be generated.

    Returns:
        One line for each file that is missing, unknown or different, with the first
        JSON pointers that differ; empty when all are equal byte for byte.
    """
    lines = []
    for name, document in documents.items():
        path = folder / name
        if not path.is_file():
            lines.append(f"{name}: missing")
        elif path.read_bytes() != render(document).encode():
            lines.append(f"{name}: {_difference(document, path)}")
    unknown = {path.name for path in folder.glob("*.json")} - documents.keys()
    return lines + [f"{name}: generated from nothing; delete it" for name in sorted(unknown)]


def example_event(spec: ChannelSpec) -> Document:
    """A plausible sensor event: each reading in the middle of its usual range."""
    event: Document = {"machine_id": "mill-07", "timestamp": "2026-03-02T06:15:30.250Z"}
    for channel in spec.channels:
        match channel.kind:
            case "continuous":
                event[channel.name] = _middle(channel)
            case "categorical":
                event[channel.name] = channel.values[0]
            case "event":
                event[channel.name] = "E42"
    return event


def example_anomaly(spec: ChannelSpec) -> Document:
    """An anomaly whose first channel is far above what training saw."""
    channel = spec.continuous[0]
    expected = _middle(channel)
    cause = messages.Cause(channel.name, channel.unit, expected * 3, expected, 8.25, 0.912)
    event = example_event(spec)
    values = {c.name: event[c.name] for c in spec.continuous} | {channel.name: cause.value}
    return _plain(
        messages.Anomaly(
            id="sensor-events-2-48113",
            machine_id=event["machine_id"],
            timestamp="2026-03-02T06:15:30.250000Z",
            is_anomaly=True,
            anomaly_score=-0.71,
            threshold=-0.58,
            confidence=0.9993,
            experience=1.0,
            severity="high",
            episode_id="mill-07@2026-03-02T06:15:30.250000Z",
            reason=describe(cause),
            causes=[cause],
            channels=list(values),
            values=values,
            categories={c.name: event[c.name] for c in (*spec.categorical, *spec.events)},
            model_version=f"{spec.name}/1.0.0",
        )
    )


def example_episode(spec: ChannelSpec) -> Document:
    """The episode of that anomaly, told a quarter of an hour after it was opened."""
    anomaly = example_anomaly(spec)
    opened_at = anomaly["timestamp"]
    return _plain(
        messages.Episode(
            id=f"{anomaly['machine_id']}@{opened_at}",
            machine_id=anomaly["machine_id"],
            status="updated",
            sequence=2,
            opened_at=opened_at,
            began_at=opened_at,
            last_anomalous_at="2026-03-02T06:30:40.250000Z",
            closed_at=None,
            close_reason=None,
            severity="high",
            anomalies=92,
            anomaly_score=anomaly["anomaly_score"],
            worst_at="2026-03-02T06:22:10.250000Z",
            reason=anomaly["reason"],
            causes=msgspec.convert(anomaly["causes"], list[messages.Cause]),
            model_version=anomaly["model_version"],
        )
    )


def example_sensor_health(spec: ChannelSpec) -> Document:
    """A sensor that got stuck in the middle of its usual range."""
    channel = spec.continuous[0]
    middle = _middle(channel)
    opened_at = "2026-03-02T06:15:30.250000Z"
    return _plain(
        messages.SensorHealth(
            id=f"mill-07@{opened_at}/stuck/{channel.name}",
            machine_id="mill-07",
            kind="stuck",
            channel=channel.name,
            status="opened",
            opened_at=opened_at,
            closed_at=None,
            value=middle,
            unit=channel.unit,
            detail=f"{channel.name} is exactly {middle:g} {channel.unit} for 12 readings in a row",
            effect=f"{channel.name} is left out of aggregates and scores until this closes",
        )
    )


def example_late_event(spec: ChannelSpec) -> Document:
    """An event that came twelve and a half minutes after its machine's watermark."""
    watermark_us = 1_772_432_880_250_000
    payload = msgspec.json.encode(example_event(spec))
    origin = messages.Origin("sensor-events", 2, 48_114)
    return _plain(
        messages.late_event("mill-07", watermark_us - 750_000_000, watermark_us, origin, payload)
    )


def example_dead_letter() -> Document:
    """A record whose gateway sent half a JSON document."""
    return _plain(
        messages.dead_letter(
            "malformed-json",
            "Input data was truncated",
            messages.Origin("sensor-events", 0, 9_021),
            1_772_432_130_250,
            b"mill-07",
            b'{"machine_id": "mill-07", "vibra',
        )
    )


def example_replay() -> Document:
    """A dead letter that was published again, for the first time."""
    return _plain(
        messages.Replay(
            letter="dead-letters-0-17",
            origin=messages.Origin("sensor-events", 0, 9_021),
            published=messages.Origin("sensor-events", 0, 31_440),
            attempt=1,
            replayed_at="2026-03-02T07:30:00.000000Z",
        )
    )


def example_drift_event(spec: ChannelSpec) -> Document:
    """The first channel reads more everywhere, all of a sudden."""
    channel = spec.continuous[0]
    low, high = channel.typical or (0.0, 4.0)
    shift = round((high - low) / 8, 6)
    test = messages.DriftTest(
        "location", 6.41, 1.4e-10, shift, channel.unit, 41.2, round(shift / 2, 6), voted=True
    )
    feature = messages.DriftFeature(
        channel.name, channel.unit, 0.52, "up", shift, 7e-10, 41.2, round(shift / 2, 6), [test]
    )
    return _plain(
        messages.DriftEvent(
            id="fleet@2026-03-02T06:20:00.000000Z",
            group="fleet",
            kind="drift",
            status="opened",
            sequence=1,
            began_at="2026-03-02T06:10:00.000000Z",
            opened_at="2026-03-02T06:20:00.000000Z",
            last_at="2026-03-02T06:20:00.000000Z",
            closed_at=None,
            close_reason=None,
            window_s=300.0,
            score=0.52,
            p_value=2.2e-8,
            features=[feature],
            machines=[messages.DriftMachine("mill-07", 0.61)],
            advice="recalibrated-sensor",
            reason=f"{channel.name}: {shift:+g} {channel.unit} since 2026-03-02T06:10:00.000000Z.",
            reference=hashlib.sha256(spec.name.encode()).hexdigest(),
            model_version=f"{spec.name}/1.0.0",
        )
    )


def example_retraining_request(spec: ChannelSpec) -> Document:
    """That drift, six hours later."""
    event = example_drift_event(spec)
    return _plain(
        messages.RetrainingRequest(
            id=f"{event['id']}#retraining@2026-03-02T12:10:00.000000Z",
            group="fleet",
            event_id=event["id"],
            requested_at="2026-03-02T12:10:00.000000Z",
            reason="Drift has lasted 6.0 h, and with it model_score changed.",
            reference=event["reference"],
            model_version=event["model_version"],
        )
    )


def example_acknowledgement(spec: ChannelSpec) -> Document:
    """Somebody looks after the episode of the example."""
    episode = example_episode(spec)
    return _plain(
        messages.Acknowledgement(
            episode_id=episode["id"],
            machine_id=episode["machine_id"],
            acknowledged_at="2026-03-02T06:34:12.000000Z",
            who="K. Brandt",
            note="Bearing replaced on Tuesday; on my way to look at it.",
            token="control-room",  # noqa: S106 - a name
        )
    )


def _plain(message: msgspec.Struct) -> Document:
    document: Document = json.loads(messages.encode(message))
    return document


def _middle(channel: Channel) -> float:
    low, high = channel.typical or (channel.min, channel.max)
    low = 0.0 if low is None else low
    return round((low + (low + 2.0 if high is None else high)) / 2, 6)


def _schema_document(message: Message, spec: ChannelSpec) -> Document:
    schema = msgspec.json.schema(message.type)
    definitions = {
        name: _described(name, definition, spec) for name, definition in schema["$defs"].items()
    }
    body = definitions.pop(message.type.__name__)
    document = {"$schema": DIALECT, **body, "title": message.title}
    if definitions:
        document["$defs"] = definitions
    return {**document, "examples": [message.example]}


def _described(name: str, schema: Document, spec: ChannelSpec) -> Document:
    if name == "SensorEvent":
        summary, fields = _event_docs(spec)
    else:
        summary, fields = _docs_of(next(t for t in _DOCUMENTED if t.__name__ == name))
    properties = {
        key: {**value, "description": fields[key]} if key in fields else value
        for key, value in schema.get("properties", {}).items()
    }
    first = {"title": schema["title"], "description": summary}
    return {**first, **schema, "description": summary, "properties": properties}


def _event_docs(spec: ChannelSpec) -> tuple[str, dict[str, str]]:
    fields = {
        "machine_id": "Which machine; also the Kafka key.",
        "timestamp": "When it was read: RFC 3339 with an offset, or epoch milliseconds or "
        "microseconds. Absent or null: the record's Kafka timestamp.",
    }
    fields["maintenance"] = (
        "Planned maintenance of this machine. With it, an event needs no reading."
    )
    for channel in spec.channels:
        if channel.kind == "categorical":
            fields[channel.name] = "Category of the machine or its work."
            continue
        if channel.kind == "event":
            fields[channel.name] = (
                "The machine's own status or error code. Absent or null: there is none."
            )
            continue
        low = "-infinity" if channel.min is None else f"{channel.min:g}"
        high = "infinity" if channel.max is None else f"{channel.max:g}"
        unit = f"In {channel.unit}. " if channel.unit else ""
        fields[channel.name] = (
            f"{unit}Outside {low} to {high} it is taken for a glitch and masked. "
            "Absent or null: no reading."
        )
    summary = (
        "One set of readings of one machine. Fields that are not listed are ignored, so gateways "
        "may send more."
    )
    return summary, fields


def _docs_of(struct: type[msgspec.Struct]) -> tuple[str, dict[str, str]]:
    """A docstring's summary, and the description of each field below ``Attributes:``."""
    text = inspect.cleandoc(struct.__doc__ or "").replace("``", "")
    summary, _, attributes = text.partition("\n\nAttributes:\n")
    fields: dict[str, str] = {}
    for names, description in re.findall(
        r"^    (\w+(?:, \w+)*): ((?:.+\n?)(?:^        .+\n?)*)", attributes, re.MULTILINE
    ):
        for name in names.split(", "):
            fields[name] = " ".join(description.split())
    return " ".join(summary.split()), fields


def _difference(document: Document, path: Path) -> str:
    try:
        on_disk = json.loads(path.read_text("utf-8"))
    except ValueError:
        return "not JSON"
    pointers = list(_pointers(json.loads(render(document)), on_disk))
    shown = ", ".join(pointers[:MAX_SHOWN_DIFFERENCES])
    more = len(pointers) - MAX_SHOWN_DIFFERENCES
    return f"differs at {shown}{f' and {more} more' if more > 0 else ''}" if pointers else "layout"


def _pointers(left: object, right: object, at: str = "") -> Iterator[str]:
    if isinstance(left, dict) and isinstance(right, dict):
        for key in sorted(left.keys() | right.keys()):
            pointer = f"{at}/{str(key).replace('~', '~0').replace('/', '~1')}"
            if key in left and key in right:
                yield from _pointers(left[key], right[key], pointer)
            else:
                yield pointer
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for i, (a, b) in enumerate(zip(left, right, strict=True)):
            yield from _pointers(a, b, f"{at}/{i}")
    elif left != right:
        yield at or "/"
