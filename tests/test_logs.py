"""Logging as operators and log collectors get it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

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


def test_text_is_one_line_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings())
    logging.getLogger("worker.app").info("ready: %s", "v1")
    line = capsys.readouterr().err.rstrip("\n")
    assert line.endswith("INFO    worker.app: ready: v1")
    assert "\n" not in line


def test_json_carries_time_level_logger_message_and_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging(LogSettings(format="json"))
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("worker.app").exception("it failed\nbadly")
    (line,) = capsys.readouterr().err.splitlines()
    record = json.loads(line)
    assert (record["level"], record["logger"]) == ("error", "worker.app")
    assert record["message"] == "it failed\nbadly"
    assert "ValueError: no" in record["traceback"]
    assert record["time"].endswith("+00:00")


def test_the_level_decides_what_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(level="warning"))
    logging.getLogger("worker.app").info("quiet")
    logging.getLogger("worker.app").warning("loud")
    logging.getLogger("faust.worker").error("the framework's own")
    assert [line[-4:] for line in capsys.readouterr().err.splitlines()] == ["loud"]
