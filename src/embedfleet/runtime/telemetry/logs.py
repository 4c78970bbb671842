"""Log formats: text for people, JSON for collectors. Clients' texts are never logged."""

from __future__ import annotations

import io
import json
import logging
import os
import queue
import select
import sys
import threading
from datetime import UTC, datetime

from embedfleet.runtime.settings import LogSettings
from embedfleet.runtime.telemetry.log_rate_limit import OnceAMinute

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

OF_FORMS = "python_multipart"
"""Warns of each error in a form; its sender gets an error response."""


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
        return json.dumps(entry, ensure_ascii=False).translate(IN_JSON)


CONTROLS = {n: ascii(chr(n))[1:-1] for n in (*range(32), *range(127, 160), 0x2028, 0x2029)}
"""Characters that end a line or move a terminal's cursor, and their escapes."""

IN_JSON = {n: f"\\u{n:04x}" for n in CONTROLS if n >= 127}
"""The escapes of those that JSON lets stand in a string."""


class TextFormatter(logging.Formatter):
    """One line for people, its control characters escaped; lines of a traceback begin with a tab.

    So nothing that came from elsewhere can look like a line of this process.
    """

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        record.asctime = self.formatTime(record, self.datefmt)
        lines = [self.formatMessage(record)]
        if record.exc_info:
            lines += self.formatException(record.exc_info).split("\n")
        return "\n\t".join(line.translate(CONTROLS) for line in lines)


MOST_LINES = 10_000
"""Most lines that wait to be written, some MB; more are dropped."""

END_OF_LINE = ord("\n")

CLOSING_S = 1.0
"""How long the end of a process waits for its last lines to be read."""


class QueuedHandler(logging.Handler):
    """Writes lines in a thread, so that logging never waits for the reader of standard error.

    Where that one stalls, or its disk is full, lines are dropped and counted, and said so once they
    can be written again. A line of which only a part was written has an end of its own.
    """

    def __init__(self, descriptor: int = 2, most_lines: int = MOST_LINES) -> None:
        super().__init__()
        self.dropped = 0
        """Lines dropped since the start."""
        self._descriptor = descriptor
        self._lines: queue.Queue[str | None] = queue.Queue(most_lines)
        self._told = 0
        self._cut = False
        """Whether what was written last lacks the end of its line."""
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self.dropped += 1
        except Exception:  # noqa: BLE001  as handlers of the library do
            self.handleError(record)

    def close(self) -> None:
        """Wait a moment until what was said is written."""
        try:
            self._lines.put(None, timeout=CLOSING_S)
            self._thread.join(CLOSING_S)
        except queue.Full:
            pass  # the reader is gone
        super().close()

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            if not self._say(line):
                self.dropped += 1  # a full disk, a reader that is gone: the process continues
                continue
            missing = self.dropped - self._told
            if missing and self._lines.qsize() < self._lines.maxsize // 2:
                message = f"{missing} log lines dropped: standard error did not take them in time"
                record = logging.LogRecord(__name__, logging.WARNING, "", 0, message, None, None)
                if self._say(self.format(record)):
                    self._told += missing

    def _say(self, line: str) -> bool:
        """Write a line; whether all of it was."""
        begin = "\n" if self._cut else ""
        whole = f"{begin}{line}\n".encode(errors="backslashreplace")
        written = write(self._descriptor, whole)
        if written:
            self._cut = whole[written - 1] != END_OF_LINE
        return written == len(whole)


def write(descriptor: int, content: bytes) -> int:
    """Write to a file, pipe or terminal, and wait for room in it. How many bytes it took: less than
    all where its disk is full or its reader gone.
    """
    rest = memoryview(content)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # a process that shares it made it non-blocking
            room = select.poll()
            room.register(descriptor, select.POLLOUT)
            room.poll()
        except OSError:
            break
    return len(content) - len(rest)


def say(text: str) -> None:
    """Print from a server. Whoever does not read, as behind a full pipe or a terminal halted by
    Ctrl-S, neither holds it up nor keeps it from ending.
    """
    content = text.encode(sys.stdout.encoding, "backslashreplace")
    threading.Thread(target=write, args=(1, content), name="stdout", daemon=True).start()


def dropped_lines() -> int:
    """Lines of this process dropped since the start."""
    handlers = logging.getLogger().handlers
    return sum(each.dropped for each in handlers if isinstance(each, QueuedHandler))


def open_standard_streams() -> None:
    """Make standard output and error fit to write to, whatever this was started with.

    /dev/null takes the place of streams that were closed: else the next file or socket takes their
    number, and what is written to them goes there. Python has None in the place of each.
    Characters that the locale's encoding lacks, and names of files that are no text, are escaped.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        mode = "w" if number else "r"
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_WRONLY if number else os.O_RDONLY)  # the lowest is taken
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # standard error escapes already
        sys.stdout.reconfigure(errors="backslashreplace")


def configure_logging(settings: LogSettings, who: str = "") -> None:
    """Send everything of this process to standard error in the chosen format.

    `who` tells this process from others that write to the same place, such as the pool and name of
    a replica. Lines that repeat are written once a minute.
    """
    handler = QueuedHandler()
    handler.addFilter(OnceAMinute())
    if settings.format == "json":
        handler.setFormatter(JsonFormatter(who))
    else:
        said = f"{who}: ".replace("%", "%%") if who else ""
        handler.setFormatter(
            TextFormatter(f"%(asctime)s %(levelname)-7s {said}%(message)s", "%H:%M:%S")
        )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger(OF_FORMS).setLevel(logging.ERROR)
