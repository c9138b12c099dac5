from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import jsonschema
import msgspec
import pytest

from worker.assets import asset_dir
from worker.asyncapi import FILE_NAME, asyncapi_document
from worker.cli.channels import default_channels, read_spec
from worker.contracts import (
    DIALECT,
    all_messages,
    differences,
    example_event,
    render,
    schema_documents,
)
from worker.core.channels import (
    Channel,
    ChannelSpec,
    Derived,
    WindowSpec,
    parse_spec,
    spec_from_dict,
)
from worker.core.messages import DEAD_LETTER_REASONS, DeadLetterReason, event_type
from worker.core.vocabulary import FEATURE_KINDS, FeatureGroup
from worker.topics import load_declarations

DOCS = Path(__file__).parents[1] / "docs"
PUMP = Path(__file__).parent / "data" / "pump.toml"


def default_spec() -> ChannelSpec:
    return read_spec(default_channels())


def generated(spec: ChannelSpec) -> dict[str, dict[str, Any]]:
    documents = schema_documents(spec)
    return {**documents, FILE_NAME: asyncapi_document(spec, load_declarations())}


def specs() -> list[ChannelSpec]:
    return [default_spec(), read_spec(PUMP)]


def validator(document: dict[str, Any]) -> jsonschema.Draft202012Validator:
    formats = jsonschema.Draft202012Validator.FORMAT_CHECKER
    return jsonschema.Draft202012Validator(document, format_checker=formats)


def test_the_files_are_what_the_code_generates() -> None:
    assert differences(generated(default_spec()), asset_dir("schemas")) == []


def test_there_is_a_schema_for_each_message_and_for_the_channel_specification() -> None:
    names = {
        "sensor-event",
        "anomaly",
        "episode",
        "sensor-health",
        "late-event",
        "dead-letter",
        "replay",
        "drift-event",
        "retraining-request",
        "acknowledgement",
        "channels",
    }
    assert schema_documents(default_spec()).keys() == {f"{name}.json" for name in names}


@pytest.mark.parametrize("spec", specs(), ids=lambda spec: spec.name)
def test_every_schema_is_valid_and_allows_its_examples(spec: ChannelSpec) -> None:
    for document in schema_documents(spec).values():
        jsonschema.Draft202012Validator.check_schema(document)
        assert document["$schema"] == DIALECT
        assert document["title"]
        assert document["description"]
        for example in document["examples"]:
            validator(document).validate(example)


@pytest.mark.parametrize("spec", specs(), ids=lambda spec: spec.name)
def test_examples_decode_into_their_types(spec: ChannelSpec) -> None:
    for message in all_messages(spec):
        msgspec.convert(message.example, message.type, strict=True)


def test_the_schema_of_events_agrees_with_the_decoder() -> None:
    default = default_spec().to_dict()
    spec = spec_from_dict(
        default | {"channel": [*default["channel"], {"name": "alarm", "kind": "event"}]}
    )
    check = validator(schema_documents(spec)["sensor-event.json"])
    decode = msgspec.json.Decoder(event_type(spec)).decode
    good = example_event(spec)
    changes: list[tuple[dict[str, Any], bool]] = [
        ({}, True),
        ({"timestamp": None}, True),
        ({"timestamp": 1_772_432_130_250}, True),
        ({"vibration": None, "site": "Graz"}, True),
        ({"machine_type": "M"}, True),
        ({"machine_id": ""}, False),
        ({"machine_id": 7}, False),
        ({"machine_id": "x" * 257}, False),
        ({"timestamp": -1}, False),
        ({"vibration": "2.5"}, False),
        ({"vibration": True}, False),
        ({"machine_type": "X"}, False),
        ({"alarm": "E42"}, True),
        ({"alarm": ""}, True),
        ({"alarm": -17}, True),
        ({"alarm": None}, True),
        ({"alarm": "x" * 65}, False),
        ({"alarm": 1.5}, False),
        ({"alarm": 10**30}, False),
        ({"alarm": ["E42"]}, False),
    ]
    for change, allowed in changes:
        event = good | change
        assert check.is_valid(event) is allowed, change
        if allowed:
            decode(json.dumps(event))
        else:
            with pytest.raises(msgspec.ValidationError):
                decode(json.dumps(event))


def test_fields_are_described_from_the_docstrings() -> None:
    anomaly = schema_documents(default_spec())["anomaly.json"]
    assert (
        anomaly["description"] == "One reading that is abnormal for its machine; key: machine_id."
    )
    assert "lower is worse" in anomaly["properties"]["anomaly_score"]["description"]
    cause = anomaly["$defs"]["Cause"]["properties"]
    assert cause["expected"]["description"] == "in unit; null for codes."
    channels = schema_documents(default_spec())["channels.json"]
    low = channels["$defs"]["Channel"]["properties"]["min"]["description"]
    assert low.endswith("a reading outside is a glitch and is masked, not scored as an anomaly.")


def test_channels_are_described_with_unit_and_physical_range() -> None:
    event = schema_documents(default_spec())["sensor-event.json"]["properties"]
    assert event["vibration"]["description"].startswith("In mm/s. Outside 0 to 200 ")
    bare = parse_spec('name = "bare"\n[[channel]]\nname = "x"\n')
    described = schema_documents(bare)["sensor-event.json"]["properties"]["x"]["description"]
    assert described.startswith("Outside -infinity to infinity ")


def test_differences_name_the_file_and_the_place(tmp_path: Path) -> None:
    documents = {"a.json": {"x": {"y/z": [1, 2], "w": 1}}, "b.json": {}, "c.json": {}, "d.json": {}}
    (tmp_path / "a.json").write_text('{"x": {"y/z": [1, 3], "v": 1}}')
    (tmp_path / "b.json").write_text("{}")
    (tmp_path / "c.json").write_text("nothing")
    (tmp_path / "e.json").write_text("{}")
    assert differences(documents, tmp_path) == [
        "a.json: differs at /x/v, /x/w, /x/y~1z/1",
        "b.json: layout",
        "c.json: not JSON",
        "d.json: missing",
        "e.json: generated from nothing; delete it",
    ]


def test_many_differences_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    lines = differences({"a.json": {str(i): i for i in range(9)}}, tmp_path)
    assert lines == ["a.json: differs at /0, /1, /2, /3, /4 and 4 more"]


def test_equal_documents_give_equal_bytes() -> None:
    assert render({"b": 1, "a": "\u00b0C"}) == '{\n  "b": 1,\n  "a": "°C"\n}\n'


def test_the_documented_examples_are_the_generated_ones() -> None:
    text = (DOCS / "messages.md").read_text("utf-8")
    found = re.findall(r"<!-- example: ([a-z-]+) -->\n```json\n(.*?)\n```", text, re.DOTALL)
    shown = {name: json.loads(block) for name, block in found}
    assert shown == {message.name: message.example for message in all_messages(default_spec())}


def test_every_reason_of_a_dead_letter_is_documented() -> None:
    text = (DOCS / "messages.md").read_text("utf-8")
    assert DEAD_LETTER_REASONS.keys() == set(get_args(DeadLetterReason))
    for reason, meaning in DEAD_LETTER_REASONS.items():
        assert f"| `{reason}` | {meaning} |" in text


def test_every_key_of_a_channel_specification_is_documented_with_its_default() -> None:
    text = (DOCS / "channels.md").read_text("utf-8")
    sections = (
        ("window", WindowSpec),
        ("channel", Channel),
        ("derived", Derived),
        ("feature", FeatureGroup),
    )
    for section, struct in sections:
        for field in msgspec.structs.fields(struct):
            assert f"| `{section}.{field.name}` | " in text
    for field in msgspec.structs.fields(WindowSpec):
        assert f'| `window.{field.name}` | `"{field.default}"` |' in text
    for kind in FEATURE_KINDS:
        assert f"`{kind}`" in text.partition("| Kind |")[2]


def test_the_documented_channel_specification_is_valid() -> None:
    block = (DOCS / "channels.md").read_text("utf-8").split("```toml\n")[1].split("```")[0]
    spec = parse_spec(block)
    assert spec.panes == 24
    schema = schema_documents(spec)["channels.json"]
    validator(schema).validate(tomllib.loads(block))
