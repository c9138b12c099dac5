"""Logging of the long-running commands: one line an event, as text or JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path

from worker.settings import LogSettings

_FRAMEWORK_LOGGERS = ("faust", "mode", "asyncio", "aiohttp")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the record."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure_logging(settings: LogSettings, file: Path | None = None) -> None:
    """Send the logs of this process to ``file``, or else to stderr, as the settings say."""
    handler = logging.FileHandler(file) if file else logging.StreamHandler(sys.stderr)
    if settings.format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    level = getattr(logging, settings.level.upper())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _FRAMEWORK_LOGGERS:
        # They tell of their own services; what ends them reaches us as an exception too.
        logging.getLogger(name).setLevel(logging.CRITICAL)
