"""Reads rows from JSON lines, CSV and text files; `columnar` reads Parquet and Arrow.

An unreadable row becomes a row with an error and does not stop the others.
"""

from __future__ import annotations

import codecs
import csv
import io
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from lzma import LZMAError
from typing import IO, Any

import orjson

from embedfleet.bulk.columns import Columns, fields_of, refuse_absent
from embedfleet.bulk.errors import BulkError
from embedfleet.bulk.fragments import (
    NO_TEXT,
    ROWS_AT_ONCE,
    DictRows,
    Fault,
    RowId,
    Rows,
    text_or_fault,
)
from embedfleet.bulk.sources import Source
from embedfleet.runtime.text_files import reason

BYTES_AT_ONCE = 1 << 18
"""Of a file of lines."""
LARGEST_FIELD = 1 << 28
"""Bytes of a line, and of a field of CSV."""
TOO_LONG = Fault("line_too_long", f"the line is longer than {LARGEST_FIELD >> 20} MiB")


def of_every_row(fault: Fault, columns: Columns, sources: Iterable[Source]) -> str:
    """What an input is told whose rows all have faults, the first of them this one."""
    if fault != NO_TEXT:
        return f"no row can be computed; of the first: {fault.message}"
    whole = replace(columns, carry=None)
    first = next(rows for source in sources for rows in rows_of(source, whole))
    names = ", ".join(sorted(fields_of(first.carried.part(0, 1))))
    return (
        f"no row has a text: is `{columns.text}` the column or field that holds it? "
        f"--text names another; the first row has: {names or 'none'}"
    )


def rows_of(source: Source, columns: Columns) -> Iterator[Rows]:
    """The rows of a file, in order, in blocks. Raises BulkError if it can't be read."""
    try:
        if source.format in {"parquet", "arrow"}:
            from embedfleet.bulk import columnar  # noqa: PLC0415  an extra

            yield from columnar.rows_of(source, columns)
            return
        with source.open() as file:
            yield from _READERS[source.format](file, columns)
    except (OSError, EOFError, zlib.error, LZMAError, csv.Error, UnicodeError) as error:
        raise BulkError(f"{source.address} can't be read: {reason(error)}") from error
    except BulkError as error:
        raise BulkError(f"{source.address}: {error}") from error


class _Block:
    """Some rows, as they are read."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.texts: list[str | None] = []
        self.ids: list[RowId] = []
        self.fields: list[Mapping[str, Any]] = []
        self.faults: dict[int, Fault] = {}

    def add(self, text: str | None, row_id: RowId, fields: Mapping[str, Any]) -> None:
        """A row with a text, or with a fault."""
        self.texts.append(text)
        self.ids.append(row_id)
        self.fields.append(fields)

    def fail(self, fault: Fault) -> None:
        """A row that is nothing but a fault."""
        at = len(self.texts)
        self.faults[at] = fault
        self.add(None, self.first + at, {})

    def rows(self, sizes: Sequence[int]) -> Rows:
        return Rows(self.first, self.texts, self.ids, DictRows(self.fields), sizes, self.faults)


def _blocks_of_lines(file: IO[bytes]) -> Iterator[list[bytes | None]]:
    """The lines of a file without their ends, in blocks; None for one that is too long."""
    held, size = [b""], 0
    mark = b"\xef\xbb\xbf"  # of byte order, before the first line
    while data := file.read(BYTES_AT_ONCE):
        first, newline, rest = data.partition(b"\n")
        size += len(first)
        if size > LARGEST_FIELD:
            held = [b""]
        else:
            held.append(first)
        if newline:
            *lines, last = rest.split(b"\n")
            yield [_line(held, size, mark), *(line.rstrip(b"\r") for line in lines)]
            held, size, mark = [last], len(last), b""
    line = _line(held, size, mark)
    if line is None or line:
        yield [line]


def _refuse_utf_16(start: bytes) -> None:
    """Raise BulkError if a file begins as UTF-16 does, which Windows programs write."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise BulkError("the file is UTF-16; convert it: iconv -f UTF-16 -t UTF-8")


def _line(parts: list[bytes], size: int, mark: bytes) -> bytes | None:
    whole = b"".join(parts)
    if mark:
        _refuse_utf_16(whole)
    return None if size > LARGEST_FIELD else whole.removeprefix(mark).rstrip(b"\r")


def _json_lines(file: IO[bytes], columns: Columns) -> Iterator[Rows]:
    first = 0
    for lines in _blocks_of_lines(file):
        full = [line for line in lines if line is None or (line and not line.isspace())]
        if full:
            yield _json_block(full, first, columns)
            first += len(full)


def _json_block(lines: list[bytes | None], first: int, columns: Columns) -> Rows:
    block = _Block(first)
    for number, line in enumerate(lines, first):
        value = TOO_LONG if line is None else _json_value(line)
        if isinstance(value, str):
            value = {columns.text: value}
        if isinstance(value, Fault):
            block.fail(value)
            continue
        row_id: Any = number if columns.id is None else value.get(columns.id)
        if not isinstance(row_id, int | str) or isinstance(row_id, bool):
            told = f"`{columns.id}` is no string and no whole number"
            block.fail(Fault("missing_id", told))
            continue
        text, why = text_or_fault(value.get(columns.text))
        if why is not None:
            block.faults[number - first] = why
        fields: Mapping[str, Any] = _NONE
        if columns.carry is None:
            fields = value
        elif columns.carry:
            fields = {name: value[name] for name in columns.carry if name in value}
        block.add(text, row_id, fields)
    return block.rows([0 if line is None else len(line) for line in lines])


_NONE: Mapping[str, Any] = {}


def _json_value(line: bytes) -> dict[str, Any] | str | Fault:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return Fault("invalid_json", f"the line is no JSON: {error}")
    if isinstance(value, dict | str):
        return value
    return Fault("invalid_type", "the line is neither an object nor a string")


def _text_lines(file: IO[bytes], columns: Columns) -> Iterator[Rows]:
    first = 0
    for lines in _blocks_of_lines(file):
        block = _Block(first)
        for number, line in enumerate(lines, first):
            if line is None:
                block.fail(TOO_LONG)
                continue
            try:
                text, why = text_or_fault(line.decode())
            except UnicodeDecodeError as error:
                text, why = None, Fault("invalid_utf8", f"the line is no UTF-8: {error.reason}")
            if why is not None:
                block.faults[number - first] = why
            block.add(text, number, _NONE if columns.carry == () else {columns.text: text})
        yield block.rows([0 if line is None else len(line) for line in lines])
        first += len(lines)


def _csv_rows(file: IO[bytes], columns: Columns, delimiter: str = ",") -> Iterator[Rows]:
    csv.field_size_limit(LARGEST_FIELD)
    # Bytes that are not UTF-8 become lone surrogates, and the row gets a fault.
    text_file = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
    try:
        yield from _csv_fields(csv.reader(text_file, delimiter=delimiter, strict=True), columns)
    finally:
        text_file.detach()  # the caller closes the file


def _csv_fields(reader: Iterator[list[str]], columns: Columns) -> Iterator[Rows]:
    names = next(filter(None, reader), None)
    if names is None:  # an empty file has no rows, as one of any other format
        return
    _refuse_utf_16(names[0].encode("utf-8", "surrogateescape"))
    refuse_absent(names, columns)
    carried = columns.carried(names)
    first = 0
    while some := _some_rows(reader):
        block = _Block(first)
        for at, values in enumerate(some):
            row = dict(zip(names, values, strict=False))
            text, why = text_or_fault(row.get(columns.text))
            if text is not None and not _is_valid(text):
                text, why = None, Fault("invalid_utf8", "the text is no UTF-8")
            if why is not None:
                block.faults[at] = why
            row_id = first + at if columns.id is None else _valid(row.get(columns.id)) or ""
            fields = {name: _valid(row.get(name)) for name in carried}
            block.add(text, row_id, fields)
        yield block.rows([sum(map(len, values)) for values in some])
        first += len(some)


def _some_rows(reader: Iterator[list[str]]) -> list[list[str]]:
    """The next rows that are not blank, about as many bytes as are read of other files at once."""
    some: list[list[str]] = []
    size = 0
    for values in reader:
        if values:
            some.append(values)
            size += sum(map(len, values))
            if size >= BYTES_AT_ONCE or len(some) == ROWS_AT_ONCE:
                break
    return some


def _is_valid(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _valid(value: str | None) -> str | None:
    """The field, with bytes that are not UTF-8 replaced."""
    if value is None or value.isascii():
        return value
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _tsv_rows(file: IO[bytes], columns: Columns) -> Iterator[Rows]:
    return _csv_rows(file, columns, "\t")


_READERS = {"jsonl": _json_lines, "text": _text_lines, "csv": _csv_rows, "tsv": _tsv_rows}
