from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest

from worker import __version__
from worker.asyncapi import asyncapi_document
from worker.cli.channels import default_channels, read_spec
from worker.contracts import render
from worker.core.channels import ChannelSpec
from worker.topics import load_declarations

TESTS = Path(__file__).parent
CHECKER = TESTS / "asyncapi" / "check.mjs"
PARSER = TESTS / "asyncapi" / "node_modules" / "@asyncapi" / "parser"


def default_spec() -> ChannelSpec:
    return read_spec(default_channels())


def need_the_parser() -> None:
    if shutil.which("node") and PARSER.is_dir():
        return
    missing = (
        "AsyncAPI's parser is not installed: install nodejs and npm, then make asyncapi-parser"
    )
    if os.environ.get("CI") == "true":
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


def findings(path: Path) -> tuple[int, str]:
    run = subprocess.run(
        ["node", str(CHECKER), str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert not run.stderr
    return run.returncode, run.stdout


@pytest.mark.parametrize("channels", ["default", "pump"])
def test_asyncapis_own_parser_finds_no_fault(tmp_path: Path, channels: str) -> None:
    need_the_parser()
    spec = default_spec() if channels == "default" else read_spec(TESTS / "data" / "pump.toml")
    path = tmp_path / "asyncapi.json"
    path.write_text(render(asyncapi_document(spec, load_declarations())), "utf-8")
    status, printed = findings(path)
    assert status == 0, printed


def test_the_parser_would_find_a_fault(tmp_path: Path) -> None:
    need_the_parser()
    document = asyncapi_document(default_spec(), load_declarations())
    document["operations"]["sendAnomalies"]["channel"] = {"$ref": "#/channels/none"}
    path = tmp_path / "asyncapi.json"
    path.write_text(render(document), "utf-8")
    assert findings(path)[0] == 1


@pytest.fixture
def spec() -> ChannelSpec:
    return default_spec()


def test_every_topic_with_a_schema_is_a_channel_with_one_operation(spec: ChannelSpec) -> None:
    declarations = load_declarations()
    document = asyncapi_document(spec, declarations)
    public = {name for name, declaration in declarations.items() if declaration.schema}
    assert document["channels"].keys() == public
    actions = {
        operation["channel"]["$ref"].removeprefix("#/channels/"): operation["action"]
        for operation in document["operations"].values()
    }
    assert actions == {name: "receive" if name == "sensor-events" else "send" for name in public}


def test_the_internal_changelog_is_left_out(spec: ChannelSpec) -> None:
    assert "changelog" not in json.dumps(asyncapi_document(spec, load_declarations()))


def test_bindings_carry_what_the_topics_declare(spec: ChannelSpec) -> None:
    declarations = load_declarations()
    document = asyncapi_document(spec, declarations)
    binding = document["channels"]["sensor-events"]["bindings"]["kafka"]
    assert binding["partitions"] == declarations["sensor-events"].partitions
    assert binding["topicConfiguration"]["retention.ms"] == 604_800_000
    assert binding["topicConfiguration"]["cleanup.policy"] == ["delete"]
    key = document["components"]["messages"]["Anomaly"]["bindings"]["kafka"]["key"]
    assert key["description"] == declarations["anomalies"].key


def test_examples_fit_the_payloads_in_the_document(spec: ChannelSpec) -> None:
    document = asyncapi_document(spec, load_declarations())
    for message in document["components"]["messages"].values():
        schema = {**message["payload"], "components": document["components"]}
        for example in message["examples"]:
            jsonschema.Draft7Validator(schema).validate(example["payload"])


def test_the_document_has_the_programs_version(spec: ChannelSpec) -> None:
    assert asyncapi_document(spec, load_declarations())["info"]["version"] == __version__
