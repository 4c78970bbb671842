"""Files and batches as OpenAI's JSON objects, and as they are stored. Pure.

`Batch` is immutable and written on creation. `State`, its progress, is written by its runner,
and a cancellation request is a marker file beside both: each document has one writer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from embedfleet.vocabulary import CallerError, counted

Status: TypeAlias = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
ENDED = frozenset({"failed", "completed", "expired", "cancelled"})

WINDOW = "24h"
WINDOW_S = 24 * 3600
PURPOSES = frozenset({"batch", "assistants", "fine-tune", "vision", "user_data", "evals"})
"""OpenAI's; files of all of them are kept, and only those for `batch` are read."""

MOST_METADATA = 16
MOST_FAULTS = 100
"""Invalid lines that are reported for a failed batch."""

LONGEST_LINE = 64 << 20
SHORTEST_LIFE_S, LONGEST_LIFE_S = 3600, 30 * 24 * 3600
"""Bounds of `expires_after` in seconds: OpenAI's."""
MARK = b"\xef\xbb\xbf"
"""Of byte order, which some editors begin files with."""


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file, without what is in it."""

    id: str
    owner: str
    """The id of the key that it belongs to; empty where no keys are required."""
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str

    def shown(self) -> dict[str, Any]:
        """As OpenAI shows it."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
        }


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done."""

    id: str
    owner: str
    endpoint: str
    input_file_id: str
    created_at: int
    expires_at: int
    metadata: dict[str, str] = {}
    output_life_s: int | None = None
    """Seconds until its output is removed; None is the service's own number of days."""


class LineFault(msgspec.Struct, frozen=True):
    """A line of an input that is no request."""

    code: str
    line: int
    """From 1."""
    message: str
    param: str | None = None


class State(msgspec.Struct, frozen=True, kw_only=True):
    """How far it is."""

    status: Status = "validating"
    total: int = 0
    completed: int = 0
    failed: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    faults: list[LineFault] = []
    at: dict[str, int] = {}
    """When it came to each status, in seconds since 1970."""


def shown(batch: Batch, state: State, *, cancelled_at: int | None) -> dict[str, Any]:
    """A batch as OpenAI shows it; `cancelled_at` is when cancellation was requested."""
    status: str = state.status
    at = dict(state.at)
    if cancelled_at is not None:
        at["cancelling"] = cancelled_at
        if status not in ENDED:
            status = "cancelling"
    faults = [msgspec.to_builtins(each) for each in state.faults]
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": {"object": "list", "data": faults} if faults else None,
        "input_file_id": batch.input_file_id,
        "completion_window": WINDOW,
        "status": status,
        "output_file_id": state.output_file_id,
        "error_file_id": state.error_file_id,
        "created_at": batch.created_at,
        "in_progress_at": at.get("in_progress"),
        "expires_at": batch.expires_at,
        "finalizing_at": at.get("finalizing"),
        "completed_at": at.get("completed"),
        "failed_at": at.get("failed"),
        "expired_at": at.get("expired"),
        "cancelling_at": at.get("cancelling"),
        "cancelled_at": at.get("cancelled"),
        "request_counts": {
            "total": state.total,
            "completed": state.completed,
            "failed": state.failed,
        },
        "metadata": batch.metadata or None,
    }


class _Life(msgspec.Struct):
    anchor: Literal["created_at"]
    seconds: int


class Wanted(msgspec.Struct):
    """A request to create a batch."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: _Life | None = None


def wanted(body: bytes, endpoints: Mapping[str, Any]) -> Wanted:
    """The batch that a body describes. Raises CallerError."""
    try:
        found = msgspec.json.decode(body, type=Wanted)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CallerError(
            f"the body does not describe a batch: {error}", code="invalid_value"
        ) from error
    if found.endpoint not in endpoints:
        known = ", ".join(endpoints)
        raise CallerError(
            f"`endpoint` must be one of {known}", param="endpoint", code="invalid_value"
        )
    if found.completion_window != WINDOW:
        raise CallerError(
            f"`completion_window` must be {WINDOW}", param="completion_window", code="invalid_value"
        )
    metadata = found.metadata or {}
    if len(metadata) > MOST_METADATA or any(
        len(name) > 64 or len(value) > 512 for name, value in metadata.items()
    ):
        raise CallerError(
            "`metadata` takes 16 pairs, of at most 64 and 512 characters",
            param="metadata",
            code="invalid_value",
        )
    if found.output_expires_after is not None:
        check_life(found.output_expires_after.seconds, "output_expires_after")
    return found


def check_life(seconds: int, param: str) -> None:
    """Raise CallerError unless a file may live for so long."""
    if not SHORTEST_LIFE_S <= seconds <= LONGEST_LIFE_S:
        raise CallerError(
            f"`{param}.seconds` must be from {SHORTEST_LIFE_S:,} to {LONGEST_LIFE_S:,}",
            param=param,
            code="invalid_value",
        )


def life_of(fields: Mapping[str, str]) -> int | None:
    """Seconds for which a form's file is to be kept; None where it does not say. CallerError."""
    anchor = fields.get("expires_after[anchor]")
    seconds = fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    whole = seconds is not None and seconds.isascii() and seconds.isdecimal() and len(seconds) < 10
    if anchor != "created_at" or not whole:
        raise CallerError(
            "`expires_after` takes the anchor `created_at` and a whole number of seconds",
            param="expires_after",
            code="invalid_value",
        )
    found = int(seconds or "")
    check_life(found, "expires_after")
    return found


class Line(msgspec.Struct, frozen=True):
    """A request of a batch."""

    number: int
    """From 1."""
    custom_id: str
    body: bytes
    """As the endpoint takes it."""


class _Request(msgspec.Struct):
    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


_REQUEST = msgspec.json.Decoder(_Request)


def line_of(number: int, text: bytes, endpoint: str) -> Line | LineFault:
    """One line of an input."""
    try:
        found = _REQUEST.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return LineFault("invalid_json_line", number, f"the line is not a valid request: {error}")
    if found.method != "POST":
        return LineFault("invalid_method", number, "`method` must be POST", "method")
    if found.url != endpoint:
        return LineFault("mismatched_url", number, f"`url` must be {endpoint}", "url")
    body = bytes(found.body)
    if not body.lstrip().startswith(b"{"):
        return LineFault("invalid_type", number, "`body` must be an object", "body")
    return Line(number, found.custom_id, body)


def lines_of(texts: Iterator[bytes], endpoint: str) -> Iterator[Line | LineFault]:
    """All lines of an input that are not empty. The caller checks for duplicate ids."""
    for number, line in enumerate(texts, 1):
        text = line.removeprefix(MARK) if number == 1 else line
        if len(text) > LONGEST_LINE:
            yield LineFault("line_too_long", number, "the line is longer than 64 MiB")
        elif text.strip():
            yield line_of(number, text, endpoint)


def answered(name: str, line: Line, status: int, request_id: str, body: bytes) -> bytes:
    """A line of an output: what the endpoint answered, as it did."""
    head = msgspec.json.encode(
        {"id": name, "custom_id": line.custom_id, "response": {"status_code": status}}
    )
    return b'%b,"request_id":%b,"body":%b},"error":null}\n' % (
        head[:-2],
        msgspec.json.encode(request_id),
        body.replace(b"\n", b" "),  # JSON has line breaks only between tokens
    )


def unanswered(name: str, line: Line, code: str, message: str) -> bytes:
    """A line of the errors: a request that was never answered."""
    document = {
        "id": name,
        "custom_id": line.custom_id,
        "response": None,
        "error": {"code": code, "message": message},
    }
    return msgspec.json.encode(document) + b"\n"


def too_many(most: int) -> LineFault:
    """Said of a batch as a whole."""
    told = f"the file holds more than {counted(most, 'request')}, the most that a batch takes"
    return LineFault("too_many_tasks", most + 1, told)


INPUT_DELETED = LineFault("input_file_deleted", 0, "the input file was deleted")
