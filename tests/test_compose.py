"""The container files, checked without a Docker engine: schema, hardening, real commands."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from load.local_kafka import CHECKOUT, LocalKafka, free_port
from tests.support.kafka import read_topic, wait_until

BIN = Path(sys.executable).parent
COMPOSE = CHECKOUT / "docker-compose.yml"
DOCKERFILE = CHECKOUT / "Dockerfile"
IN_COMPOSE = "kafka:9092"
SERVICES: dict[str, dict[str, Any]] = YAML(typ="safe").load(COMPOSE)["services"]
OURS = [name for name in SERVICES if name != "kafka"]
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0


def test_the_compose_file_follows_the_compose_specification() -> None:
    _check("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE))


def test_the_dockerfile_passes_hadolint() -> None:
    _check("hadolint", str(DOCKERFILE))


@pytest.mark.parametrize("name", OURS)
def test_our_services_run_without_root_privileges_or_a_writable_disk(name: str) -> None:
    service = SERVICES[name]
    user = int(service["user"].split(":")[0])
    assert user > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert [mount.split(":")[0] for mount in service["tmpfs"]] == ["/tmp"]
    assert "privileged" not in service
    assert "volumes" not in service


def test_kafka_runs_without_privileges_and_keeps_its_topics() -> None:
    service = SERVICES["kafka"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["volumes"] == [f"kafka-data:{service['environment']['KAFKA_LOG_DIRS']}"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_restarts_by_itself(name: str) -> None:
    assert SERVICES[name]["restart"] in ("unless-stopped", "on-failure:5")


def test_services_start_in_order() -> None:
    waits_for = {name: _waits_for(service) for name, service in SERVICES.items()}
    assert waits_for == {
        "kafka": {},
        "topics": {"kafka": "service_healthy"},
        "gateway": {"topics": "service_completed_successfully"},
        "worker": {"topics": "service_completed_successfully"},
        "drift": {"topics": "service_completed_successfully"},
    }


def test_the_files_hold_no_secret_and_open_no_port() -> None:
    for service in SERVICES.values():
        assert "ports" not in service
        assert not [key for key in service.get("environment", {}) if "TOKEN" in key]
    assert SERVICES["worker"]["env_file"] == [{"path": "worker.env", "required": False}]
    ignored = subprocess.run(
        ["git", "check-ignore", "--quiet", "worker.env"], cwd=CHECKOUT, timeout=30, check=False
    )
    assert ignored.returncode == 0


def test_the_image_is_not_root_and_checks_its_health() -> None:
    last_stage = DOCKERFILE.read_text().split("\nFROM ")[-1]
    user = re.search(r"^USER (\d+):(\d+)$", last_stage, re.MULTILINE)
    assert user is not None
    assert f"{user[1]}:{user[2]}" == SERVICES["worker"]["user"]
    assert 'CMD ["driftdetector", "health"]' in last_stage


def test_compose_and_the_tests_run_the_same_kafka() -> None:
    pom = (CHECKOUT / "load" / "kafka" / "pom.xml").read_text()
    server = re.search(r"<artifactId>kafka_2.13</artifactId>\s*<version>([^<]+)<", pom)
    assert server is not None
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{server[1]}"


@pytest.mark.kafka
def test_the_services_work_together_as_plain_processes(tmp_path: Path) -> None:
    with LocalKafka(tmp_path / "kafka") as kafka:
        address = kafka.bootstrap_servers
        http_port = str(free_port())

        def run(name: str, *command: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
            return _service(name, address, http_port, tmp_path, list(command))

        with run("topics") as topics:
            assert _exit_status(topics) == 0, _log_of(tmp_path, "topics")
        with run("gateway") as gateway, run("worker") as worker:

            def healthy() -> bool:
                assert gateway.poll() is None, _log_of(tmp_path, "gateway")
                assert worker.poll() is None, _log_of(tmp_path, "worker")
                with run("worker", *SERVICES["worker"]["healthcheck"]["test"][2:]) as health:
                    return _exit_status(health) == 0

            wait_until(healthy, "the worker is healthy", START_TIMEOUT_S)
            # Committed rows of the table: the gateway's events went through the worker.
            changelog = "driftdetector-machine-state-changelog"
            wait_until(lambda: bool(read_topic(address, changelog)), "state is committed")
            for name, process in (("gateway", gateway), ("worker", worker)):
                process.send_signal(signal.SIGTERM)
                assert _exit_status(process) == 0, _log_of(tmp_path, name)
        assert read_topic(address, "sensor-events")
        assert not read_topic(address, "dead-letters")


@contextmanager
def _service(
    name: str, address: str, http_port: str, folder: Path, command: list[str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a service's own command and environment, with the local broker for compose's."""
    service = SERVICES[name]
    # Nothing else of this process's environment: the compose file has to name all it needs.
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    environment |= {
        key: value.replace(IN_COMPOSE, address)
        for key, value in service.get("environment", {}).items()
    }
    environment["DRIFTDETECTOR_HTTP__PORT"] = http_port
    arguments = [part.replace(IN_COMPOSE, address) for part in command or service["command"]]
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [*_entrypoint(), *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait(30)


def _exit_status(process: subprocess.Popen[bytes]) -> int | str:
    try:
        return process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"still running after {STOP_TIMEOUT_S} s"


def _entrypoint() -> list[str]:
    found = re.search(r"^ENTRYPOINT (\[.*\])$", DOCKERFILE.read_text(), re.MULTILINE)
    assert found is not None
    program, *arguments = json.loads(found[1])
    return [str(BIN / program), *arguments]


def _log_of(folder: Path, name: str) -> str:
    text = (folder / f"{name}.log").read_text(errors="replace")
    return f"the log of {name} ends with:\n{text[-3000:]}"


def _waits_for(service: dict[str, Any]) -> dict[str, str]:
    return {name: wait["condition"] for name, wait in service.get("depends_on", {}).items()}


def _check(program: str, *arguments: str) -> None:
    done = subprocess.run(
        [BIN / program, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
