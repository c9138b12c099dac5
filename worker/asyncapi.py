"""The AsyncAPI 3.0 document: channels, operations and messages with their Kafka bindings.

Built from the message types (``worker/contracts.py``) and the declarations in topics/*.toml.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker import __version__
from worker.contracts import Document, Message, all_messages, components
from worker.core.channels import ChannelSpec
from worker.settings import Settings
from worker.topics import INPUT, Declaration

FILE_NAME = "asyncapi.json"
KAFKA_BINDING = "0.5.0"


def asyncapi_document(spec: ChannelSpec, declarations: Mapping[str, Declaration]) -> Document:
    """Describe what the scoring worker receives and sends.

    Args:
        spec: the channels of the sensor events.
        declarations: by default topic name; those without a schema are internal and left out.
    """
    public = {name: topic for name, topic in declarations.items() if topic.schema}
    by_schema = {f"{message.name}.json": message for message in all_messages(spec)}
    used = {name: by_schema[str(topic.schema)] for name, topic in public.items()}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "DriftDetector",
            "version": __version__,
            "description": (
                "Scores machine telemetry from Kafka. Topic names are the defaults; the section "
                "[topics] of the settings may give others."
            ),
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
            "tags": [{"name": "kafka"}, {"name": "telemetry"}, {"name": "anomaly-detection"}],
        },
        "defaultContentType": "application/json",
        "servers": {
            "local": {
                "host": Settings().kafka.brokers,
                "protocol": "kafka",
                "description": "The broker of the defaults; see kafka.brokers in the settings.",
            }
        },
        "channels": {name: _channel(topic, used[name]) for name, topic in public.items()},
        "operations": {
            ("receive" if name == INPUT else "send") + _pascal(name): _operation(name, used[name])
            for name in public
        },
        "components": {
            "messages": {_pascal(m.name): _message(m, public[name]) for name, m in used.items()},
            "schemas": components(spec, "#/components/schemas/{name}"),
        },
    }


def _channel(topic: Declaration, message: Message) -> Document:
    name = _pascal(message.name)
    return {
        "address": topic.name,
        "title": topic.name,
        "description": topic.description,
        "servers": [{"$ref": "#/servers/local"}],
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "topicConfiguration": {
                    key: _config_value(key, value) for key, value in topic.config.items()
                },
                "bindingVersion": KAFKA_BINDING,
            }
        },
    }


def _operation(topic: str, message: Message) -> Document:
    receives = topic == INPUT
    operation: Document = {
        "action": "receive" if receives else "send",
        "channel": {"$ref": f"#/channels/{topic}"},
        "summary": "Score readings." if receives else f"Publish to {topic}, transactionally.",
        "messages": [{"$ref": f"#/channels/{topic}/messages/{_pascal(message.name)}"}],
    }
    if receives:
        group = {"type": "string", "enum": [Settings().worker.app_id]}
        operation["bindings"] = {"kafka": {"groupId": group, "bindingVersion": KAFKA_BINDING}}
    return operation


def _message(message: Message, topic: Declaration) -> Document:
    return {
        "name": message.name,
        "title": message.title,
        "contentType": "application/json",
        "payload": {"$ref": f"#/components/schemas/{message.type.__name__}"},
        "examples": [{"name": message.name, "payload": message.example}],
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": topic.key},
                "bindingVersion": KAFKA_BINDING,
            }
        },
    }


def _config_value(key: str, value: str) -> Any:
    if key == "cleanup.policy":
        return value.split(",")
    return int(value) if value.isdigit() else value


def _pascal(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("-"))
