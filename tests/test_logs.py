"""Logging as operators and log collectors get it."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.logs import configure_logging
from worker.settings import LogSettings


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


def test_text_is_one_line_an_event_with_what_it_is_about(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging(LogSettings(format="text"))
    logging.getLogger("worker.app").info("ready: %s", "v1", extra={"partition": 3})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("[info] ready: v1 [worker.app] partition=3")


def test_json_carries_time_level_logger_message_fields_and_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging(LogSettings(format="json"))
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("worker.app").exception("it failed\nbadly", extra={"machine_id": "ü"})
    (line,) = capsys.readouterr().err.splitlines()
    record = json.loads(line)
    assert list(record) == ["time", "level", "logger", "message", "machine_id", "traceback"]
    assert (record["level"], record["logger"]) == ("error", "worker.app")
    assert (record["message"], record["machine_id"]) == ("it failed\nbadly", "ü")
    assert "ValueError: no" in record["traceback"]
    assert record["time"].endswith("Z")


def test_left_alone_it_is_json_but_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    configure_logging(LogSettings())
    logging.getLogger("worker.app").info("to a collector")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    configure_logging(LogSettings())
    logging.getLogger("worker.app").info("to a person")
    collected, told = capsys.readouterr().err.splitlines()
    assert json.loads(collected)["message"] == "to a collector"
    assert "to a person" in told
    assert "\x1b[" in told
    configure_logging(LogSettings(), tmp_path / "demo.log")
    logging.getLogger("worker.app").info("to a file that a person is told of")
    assert (tmp_path / "demo.log").read_text().endswith("told of [worker.app]\n")


def test_the_level_decides_what_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(level="warning", format="text"))
    logging.getLogger("worker.app").info("quiet")
    logging.getLogger("worker.app").warning("loud")
    logging.getLogger("faust.worker").error("the framework's own")
    (line,) = capsys.readouterr().err.splitlines()
    assert "loud" in line
