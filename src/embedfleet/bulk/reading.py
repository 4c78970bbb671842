"""Reads rows from JSON lines, CSV and text files; `columnar` reads Parquet and Arrow.

An unreadable row becomes a row with an error and does not stop the others.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from lzma import LZMAError
from typing import IO, Any

import orjson

from embedfleet.bulk.columns import ABSENT, Columns, refuse_absent, value_at
from embedfleet.bulk.errors import BulkError
from embedfleet.bulk.fragments import (
    NO_TEXT,
    ROWS_AT_ONCE,
    DictRows,
    Fault,
    RowId,
    Rows,
    id_or_fault,
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
    names = ", ".join(sorted(first.carried.part(0, 1).names()))
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
        with source.opened() as file:
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
        row_id: RowId = number
        if columns.id is not None:
            row_id, without_id = id_or_fault(value_at(value, columns.id), columns.id)
            if without_id is not None:
                block.fail(without_id)
                continue
        text, why = text_or_fault(value_at(value, columns.text))
        if why is not None:
            block.faults[number - first] = why
        fields: Mapping[str, Any] = _NONE
        if columns.carry is None:
            fields = value
        elif columns.carry:
            found = ((name, value_at(value, name, ABSENT)) for name in columns.carry)
            fields = {name: each for name, each in found if each is not ABSENT}
        block.add(text, row_id, fields)
    return block.rows([0 if line is None else len(line) for line in lines])


_NONE: Mapping[str, Any] = {}


def _json_value(line: bytes) -> dict[str, Any] | str | Fault:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return Fault("invalid_json", f"the line is not valid JSON: {error}")
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
                text, why = (
                    None,
                    Fault("invalid_utf8", f"the line is not valid UTF-8: {error.reason}"),
                )
            if why is not None:
                block.faults[number - first] = why
            block.add(text, number, _NONE if columns.carry == () else {columns.text: text})
        yield block.rows([0 if line is None else len(line) for line in lines])
        first += len(lines)


def _csv_rows(file: IO[bytes], columns: Columns, delimiters: str = ",;|\t") -> Iterator[Rows]:
    csv.field_size_limit(LARGEST_FIELD)
    # Bytes that are not UTF-8 become lone surrogates, and the row gets a fault.
    text_file = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
    try:
        read: list[str] = []  # up to the header
        for line in text_file:
            read.append(line)
            if line.strip("\r\n"):
                lines = itertools.chain(read, text_file)
                yield from _csv_fields(lines, columns, _delimiter(line, columns, delimiters))
                return
        # An empty file has no rows, as one of any other format.
    finally:
        text_file.detach()  # the caller closes the file


def _delimiter(header: str, columns: Columns, possible: str) -> str:
    """The first of some delimiters by which a header has the columns of the text and the id;
    spreadsheets write semicolons where the comma is the decimal sign.
    """
    wanted = {columns.text, columns.id} - {None}
    for each in possible:
        if wanted <= set(next(csv.reader([header], delimiter=each))):
            return each
    return possible[0]


def _csv_fields(lines: Iterator[str], columns: Columns, delimiter: str) -> Iterator[Rows]:
    rows = _whole_rows(lines, delimiter)
    names = next(rows)
    _refuse_utf_16(names[0].encode("utf-8", "surrogateescape"))
    if not all(map(_is_valid, names)):
        raise BulkError("the header is not valid UTF-8; convert it: iconv -f CP1252 -t UTF-8")
    refuse_absent(names, columns)
    carried = columns.carried(names)
    first = 0
    while some := _some_rows(rows):
        block = _Block(first)
        for at, values in enumerate(some):
            if any(values[len(names) :]):
                told = f"the row has {len(values)} fields, the header {len(names)}: quotes missing?"
                block.fail(Fault("invalid_csv", told))
                continue
            row = dict(zip(names, values, strict=False))
            row_id: RowId = first + at
            if columns.id is not None:
                row_id, without_id = id_or_fault(_valid(row.get(columns.id)) or "", columns.id)
                if without_id is not None:
                    block.fail(without_id)
                    continue
            text, why = text_or_fault(row.get(columns.text))
            if text is not None and not _is_valid(text):
                text, why = None, Fault("invalid_utf8", "the text is not valid UTF-8")
            if why is not None:
                block.faults[at] = why
            block.add(text, row_id, {name: _valid(row.get(name)) for name in carried})
        yield block.rows([sum(map(len, values)) for values in some])
        first += len(some)


def _whole_rows(lines: Iterator[str], delimiter: str) -> Iterator[list[str]]:
    """The rows that are not blank. BulkError tells the line where one begins that can't be read,
    which for a quote without an end is far from where the file ends.
    """
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    begins = 1
    try:
        for values in reader:
            begins = reader.line_num + 1
            if values:
                yield values
    except csv.Error as error:
        raise BulkError(
            f"it can't be read: {error}, in the row that begins in line {begins}"
        ) from error


def _some_rows(rows: Iterator[list[str]]) -> list[list[str]]:
    """The next rows, about as many bytes as are read of other files at once."""
    some: list[list[str]] = []
    size = 0
    for values in rows:
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
