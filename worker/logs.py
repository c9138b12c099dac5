"""Logging of the long-running commands: lines for people on a terminal, JSON for collectors.

Modules log through the standard library and give what a machine may look for as ``extra``
(``partition``, ``offset``, ``machine_id``, ...); structlog lays it out.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from worker.settings import LogSettings

_FRAMEWORK_LOGGERS = ("faust", "mode", "asyncio", "aiohttp", "uvicorn")
_FIRST = ("time", "level", "logger", "message")


def configure_logging(
    settings: LogSettings, file: Path | None = None, also: Sequence[Processor] = ()
) -> None:
    """Send the logs of this process to ``file``, or else to stderr, as the settings say.

    Args:
        file: one that a person is told of, so "auto" is text there.
        also: processors that add fields to each event.
    """
    handler = logging.FileHandler(file) if file else logging.StreamHandler(sys.stderr)
    as_text = settings.format == "text"
    if settings.format == "auto":
        as_text = file is not None or sys.stderr.isatty()
    renderer = _for_people(None if file else sys.stderr) if as_text else _for_collectors()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_logger_name,
                structlog.stdlib.add_log_level,
                structlog.stdlib.ExtraAdder(),
                structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
                *also,
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    level = getattr(logging, settings.level.upper())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _FRAMEWORK_LOGGERS:
        # They tell of their own services; what ends them reaches us as an exception too.
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _for_people(stream: TextIO | None) -> list[Processor]:
    return [
        structlog.dev.ConsoleRenderer(
            colors=stream is not None and stream.isatty(),
            timestamp_key="time",
            pad_event_to=0,
            pad_level=False,
            exception_formatter=structlog.dev.plain_traceback,
        )
    ]


def _for_collectors() -> list[Processor]:
    return [
        structlog.processors.ExceptionRenderer(),
        _name_fields,
        structlog.processors.JSONRenderer(ensure_ascii=False),
    ]


def _name_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The names and order that every line has, then what only some have."""
    event["message"] = event.pop("event")
    if "exception" in event:
        event["traceback"] = event.pop("exception")
    return {**{name: event.pop(name) for name in _FIRST}, **event}
