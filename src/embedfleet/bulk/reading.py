"""Reads rows from JSON lines, CSV and text files; `columnar` reads Parquet and Arrow.

An unreadable row becomes a row with an error and does not stop the others.
"""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from lzma import LZMAError
from typing import IO, Any

import orjson

from embedfleet.bulk.errors import BulkError
from embedfleet.bulk.fragments import DictRows, Fault, RowId, Rows
from embedfleet.bulk.sources import Source
from embedfleet.runtime.text_files import reason

ROWS_AT_ONCE = 1024
LARGEST_FIELD = 1 << 30
NO_TEXT = Fault("missing_text", "the row has no text")
EMPTY = Fault("empty_string", "the text is empty")


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns hold the text, the id, and what is copied."""

    text: str = "text"
    id: str | None = None
    """None: rows are numbered from 0 in each file."""
    carry: tuple[str, ...] | None = ()
    """Other columns to copy to the output; None is all."""

    def carried(self, names: list[str]) -> list[str]:
        """The columns of a file to copy. BulkError if one is absent."""
        if self.carry is None:
            return names
        for name in self.carry:
            if name not in names:
                raise BulkError(f"there is no column {name}; there are: {', '.join(names)}")
        return list(self.carry)


@dataclass(frozen=True, slots=True)
class _Row:
    text: str | None
    id: RowId
    fields: Mapping[str, Any]
    size: int
    fault: Fault | None = None


def rows_of(source: Source, columns: Columns) -> Iterator[Rows]:
    """The rows of a file, in order, in blocks. Raises BulkError if it can't be read."""
    try:
        if source.format in {"parquet", "arrow"}:
            from embedfleet.bulk import columnar  # noqa: PLC0415  an extra

            yield from columnar.rows_of(source, columns)
            return
        with source.open() as file:
            yield from _blocks(_READERS[source.format](file, columns))
    except (OSError, EOFError, zlib.error, LZMAError, csv.Error, UnicodeError) as error:
        raise BulkError(f"{source.address} can't be read: {reason(error)}") from error
    except BulkError as error:
        raise BulkError(f"{source.address}: {error}") from error


def text_or_fault(value: Any) -> tuple[str | None, Fault | None]:
    """The text of a field, or why it has none."""
    if isinstance(value, str):
        return (value, None) if value else (None, EMPTY)
    if value is None:
        return None, NO_TEXT
    return None, Fault("invalid_type", f"the text is no string but {type(value).__name__}")


def _blocks(rows: Iterator[_Row]) -> Iterator[Rows]:
    held: list[_Row] = []
    first = 0
    for row in rows:
        held.append(row)
        if len(held) == ROWS_AT_ONCE:
            yield _together(first, held)
            first, held = first + len(held), []
    if held:
        yield _together(first, held)


def _together(first: int, rows: list[_Row]) -> Rows:
    return Rows(
        first,
        [row.text for row in rows],
        [row.id for row in rows],
        DictRows([row.fields for row in rows]),
        [row.size for row in rows],
        {at: row.fault for at, row in enumerate(rows) if row.fault is not None},
    )


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    for number, line in enumerate(file):
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
        yield text.rstrip(b"\r\n")


def _json_lines(file: IO[bytes], columns: Columns) -> Iterator[_Row]:
    number = 0
    for line in _lines(file):
        if not line.strip():
            continue
        yield _json_row(line, number, columns)
        number += 1


def _json_row(line: bytes, number: int, columns: Columns) -> _Row:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        fault = Fault("invalid_json", f"the line is no JSON: {error}")
        return _Row(None, number, {}, len(line), fault)
    if isinstance(value, str):
        value = {columns.text: value}
    if not isinstance(value, dict):
        fault = Fault("invalid_type", "the line is neither an object nor a string")
        return _Row(None, number, {}, len(line), fault)
    text, why = text_or_fault(value.get(columns.text))
    row_id: Any = number if columns.id is None else value.get(columns.id)
    if not isinstance(row_id, int | str) or isinstance(row_id, bool):
        fault = Fault("missing_id", f"`{columns.id}` is no string and no whole number")
        return _Row(None, number, {}, len(line), fault)
    if columns.carry is None:
        fields = value
    else:
        fields = {name: value[name] for name in columns.carry if name in value}
    return _Row(text, row_id, fields, len(line), why)


def _text_lines(file: IO[bytes], columns: Columns) -> Iterator[_Row]:
    for number, line in enumerate(_lines(file)):
        try:
            text, why = text_or_fault(line.decode())
        except UnicodeDecodeError as error:
            text, why = None, Fault("invalid_utf8", f"the line is no UTF-8: {error.reason}")
        fields = {} if columns.carry == () else {columns.text: text}
        yield _Row(text, number, fields, len(line), why)


def _csv_rows(file: IO[bytes], columns: Columns, delimiter: str = ",") -> Iterator[_Row]:
    csv.field_size_limit(LARGEST_FIELD)
    # Bytes that are not UTF-8 become lone surrogates, and the row gets a fault.
    text_file = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
    try:
        yield from _csv_fields(csv.DictReader(text_file, delimiter=delimiter, strict=True), columns)
    finally:
        text_file.detach()  # the caller closes the file


def _csv_fields(reader: csv.DictReader[str], columns: Columns) -> Iterator[_Row]:
    names = list(reader.fieldnames or [])
    for wanted in (columns.text, columns.id):
        if wanted is not None and wanted not in names:
            raise BulkError(f"there is no column {wanted}; there are: {', '.join(names) or 'none'}")
    carried = columns.carried(names)
    for number, row in enumerate(reader):
        text, why = text_or_fault(row[columns.text])
        row_id: RowId = number if columns.id is None else row[columns.id] or ""
        fields = {name: _valid(row[name]) for name in carried}
        size = sum(len(value) for value in row.values() if isinstance(value, str))
        if text is not None and not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                text, why = None, Fault("invalid_utf8", "the text is no UTF-8")
        yield _Row(text, row_id, fields, size, why)


def _valid(value: str | None) -> str | None:
    """The field, with bytes that are not UTF-8 replaced."""
    if value is None or value.isascii():
        return value
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _tsv_rows(file: IO[bytes], columns: Columns) -> Iterator[_Row]:
    return _csv_rows(file, columns, "\t")


_READERS = {"jsonl": _json_lines, "text": _text_lines, "csv": _csv_rows, "tsv": _tsv_rows}
