"""Parses multipart uploads of `POST /v1/files` (RFC 7578) as they arrive."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from embedfleet.transport.asgi import ClientGoneError, Request
from embedfleet.vocabulary import BodyTooLargeError, CallerError, MediaTypeError, OverloadedError

PIECE_BYTES = 1 << 18
"""Parsed at once, in a thread."""

MOST_PARTS = 33
"""The fields of a form, each counted as often as it comes, and its file."""

LONGEST_FIELD = 4096
MOST_OVERHEAD = 1 << 16
"""Bytes of a form beside its file."""


FILES_AT_ONCE = 4
RETRY_AFTER_S = 5.0


class UploadsBusyError(OverloadedError):
    """Uploads in progress take the room that there is for them."""


class UploadRoom:
    """The temporary files of all uploads in progress: together at most as large as `FILES_AT_ONCE`
    of the largest files. An upload's part is taken before any of it is read, so that several never
    fill the room with halves.
    """

    def __init__(self, most_bytes: int) -> None:
        """`most_bytes` are those of the largest file."""
        self._largest = most_bytes + MOST_OVERHEAD
        self._left = FILES_AT_ONCE * self._largest

    @contextlib.contextmanager
    def taken(self, request: Request) -> Iterator[None]:
        """Room for an upload of the size that it declares, or of the largest. UploadsBusyError."""
        declared = request.header(b"content-length") or ""
        size = self._largest
        if declared.isdecimal():
            size = min(size, int(declared))
        if size > self._left:
            told = "too many uploads are in progress; try again"
            raise UploadsBusyError(told, retry_after_s=RETRY_AFTER_S)
        self._left -= size
        try:
            yield
        finally:
            self._left += size


@dataclass(slots=True)
class Form:
    """What a form holds."""

    content: IO[bytes]
    """Of its file; to be closed."""
    filename: str | None = None
    """None where no file was sent."""
    fields: dict[str, str] = field(default_factory=dict)


async def read_form(request: Request, most_bytes: int) -> Form:
    """A form of at most one file, of at most so many bytes. CallerError, BodyTooLargeError."""
    kind, options = parse_options_header(request.header(b"content-type") or "")
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data":
        told = "expected multipart/form-data with a boundary"
        raise MediaTypeError(told, code="unsupported_media_type")
    if not boundary:
        raise CallerError("expected multipart/form-data with a boundary")
    with contextlib.ExitStack() as stack:
        form = Form(stack.enter_context(tempfile.TemporaryFile()))
        try:
            await _read(request, form, boundary, most_bytes)
        except FormParserError as error:
            raise CallerError(f"the form can't be read: {error}") from error
        form.content.seek(0)
        stack.pop_all()  # the caller closes the form
        return form


async def _read(request: Request, form: Form, boundary: bytes, most_bytes: int) -> None:
    reader = _Reader(form, most_bytes)
    parser = MultipartParser(boundary, reader.callbacks())  # type: ignore[arg-type]
    size, held, more = 0, bytearray(), True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        held += message.get("body", b"")
        more = message.get("more_body", False)
        if held and (len(held) >= PIECE_BYTES or not more):
            size += len(held)
            if size > most_bytes + MOST_OVERHEAD:
                raise too_large(most_bytes)
            await asyncio.to_thread(parser.write, bytes(held))
            held.clear()
    parser.finalize()
    if not reader.ended:
        raise CallerError("the form ends prematurely")


def too_large(most_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"the file is larger than {most_bytes} bytes (batches.max_file_bytes)",
        param="file",
        code="body_too_large",
    )


class _Reader:
    """What the parser calls."""

    def __init__(self, form: Form, most_bytes: int) -> None:
        self._form = form
        self._left = self._most = most_bytes
        self._parts = 0
        self._headers: dict[bytes, bytes] = {}
        self._name = self._value = b""
        self._into: str | None = None
        """The field whose value comes; None while it is the file's."""
        self.ended = False

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_end,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise CallerError("the form has too many fields")
        self._headers = {}

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        filename = options.get(b"filename")
        if filename is None:
            self._into = name
            self._form.fields[name] = ""
        elif name != "file" or self._form.filename is not None:
            raise CallerError("the form must contain exactly one file, as `file`", param="file")
        else:
            self._into = None
            self._form.filename = filename.decode("utf-8", "replace")[:512]

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._into is None:
            self._left -= end - start
            if self._left < 0:
                raise too_large(self._most)
            self._form.content.write(memoryview(data)[start:end])
            return
        value = self._form.fields[self._into] + data[start:end].decode("utf-8", "replace")
        if len(value) > LONGEST_FIELD:
            raise CallerError(f"the field `{self._into[:64]}` is too long")
        self._form.fields[self._into] = value

    def _end(self) -> None:
        self.ended = True
