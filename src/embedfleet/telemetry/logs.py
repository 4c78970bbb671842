"""How log lines look: text for people, JSON for collectors. Never texts of callers."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from embedfleet.settings import LogSettings
from embedfleet.telemetry.repeats import OnceAMinute

NOISY = (
    "uvicorn",
    "uvicorn.error",
    "asyncio",
    "aiohttp",
    "httpx",
    "httpx2",
    "httpcore",
    "filelock",
    "huggingface_hub",
)
"""Loggers of libraries that tell of each request; downloads show their progress by bars."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line; a record's `fields`, if it has any, stand beside its message."""

    def __init__(self, who: str = "") -> None:
        super().__init__()
        self._who = {"process_name": who} if who else {}

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            **self._who,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def configure_logging(settings: LogSettings, who: str = "") -> None:
    """Send everything of this process to standard error in the chosen format.

    `who` tells this process from others that write to the same place, such as the pool and name of
    a replica. A line of the same kind is written once a minute.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(OnceAMinute())
    if settings.format == "json":
        handler.setFormatter(JsonFormatter(who))
    else:
        said = f"{who}: ".replace("%", "%%") if who else ""
        handler.setFormatter(
            logging.Formatter(f"%(asctime)s %(levelname)-7s {said}%(message)s", "%H:%M:%S")
        )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
