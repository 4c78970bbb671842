"""Parquet and Arrow, in and out. The one module that loads pyarrow, which is an extra."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from embedfleet.bulk.columns import Columns, Names, Types, refuse_absent
from embedfleet.bulk.embedding import Embedder
from embedfleet.bulk.errors import BulkError
from embedfleet.bulk.fragments import (
    HASH_BYTES,
    NO_TEXT,
    ROWS_AT_ONCE,
    Carried,
    DictRows,
    Fault,
    RowId,
    Rows,
    id_or_fault,
    text_of,
    text_or_fault,
)
from embedfleet.bulk.sources import Source
from embedfleet.runtime.extras import how_to_add
from embedfleet.runtime.folders import Parts

try:
    import pyarrow as pa
    import pyarrow.compute
    import pyarrow.ipc
    import pyarrow.parquet
except ImportError as error:
    raise BulkError(
        f"Parquet and Arrow take the extra `bulk` (pyarrow, 55 MB): {how_to_add('bulk')}"
    ) from error


@dataclass(frozen=True, slots=True)
class ArrowRows:
    """Carried columns as an Arrow table."""

    table: Any

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def names(self) -> set[str]:
        return set(self.table.schema.names)

    def part(self, start: int, stop: int) -> ArrowRows:
        return ArrowRows(self.table.slice(start, stop - start))

    def kept(self, places: Sequence[int]) -> ArrowRows:
        try:
            return ArrowRows(self.table.take(pa.array(places, pa.int64())))
        except pa.ArrowNotImplementedError as error:
            kinds = ", ".join(f"{each.name} ({each.type})" for each in self.table.schema)
            raise BulkError(
                f"a column can't be carried along: {error}; columns are {kinds}, and --carry "
                "chooses some"
            ) from error

    def joined(self, others: Sequence[ArrowRows]) -> ArrowRows:
        return ArrowRows(pa.concat_tables([self.table, *(each.table for each in others)]))

    def plain(self) -> Sequence[Mapping[str, Any]]:
        names = self.table.schema.names
        columns = [_values_for_json(self.table, name) for name in names]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

    def digest(self) -> bytes:
        # Copied, so that the hash does not depend on offsets into the original buffers.
        whole = self.kept(range(len(self))).table.combine_chunks()
        found = hashlib.blake2b(str(whole.schema).encode(), digest_size=HASH_BYTES)
        for batch in _decoded(whole).to_batches():
            found.update(batch.serialize())
        return found.digest()


def rows_of(source: Source, columns: Columns) -> Iterator[Rows]:
    """The rows of a Parquet or Arrow file. Raises BulkError if it can't be read."""
    try:
        with source.opened() as file:
            read = _parquet_batches if source.format == "parquet" else _arrow_batches
            yield from _rows(read(file, columns), columns)
    except pa.ArrowException as error:
        raise BulkError(f"it can't be read: {error}") from error


def table_of(rows: Rows, vectors: NDArray[Any], names: Names, types: Types) -> Any:
    """A table of the id, carried columns, and vectors as lists of a fixed size."""
    numbers = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    own = names.id or "row"
    found: dict[str, Any] = {own: _ids(rows.ids, types.get(own))}
    found |= _carried(rows.carried, types, own)
    found[names.vector] = pa.FixedSizeListArray.from_arrays(numbers, vectors.shape[1])
    return pa.table(found)


def parquet(rows: Rows, vectors: NDArray[Any], names: Names, types: Types) -> Parts:
    """A Parquet file of a fragment."""
    sink = pa.BufferOutputStream()
    table = table_of(rows, vectors, names, types)
    # Vectors are incompressible.
    compression = {name: "NONE" if name == names.vector else "ZSTD" for name in table.schema.names}
    pyarrow.parquet.write_table(
        table,
        sink,
        row_group_size=max(1, len(table)),
        compression={**compression, f"{names.vector}.list.element": "NONE"},
        use_dictionary=False,
    )
    yield memoryview(sink.getvalue())
    pa.default_memory_pool().release_unused()  # it would keep its peak


def vectors_of(data: bytes, vector: str) -> NDArray[Any]:
    """The matrix of vectors of a Parquet file."""
    try:
        column = pyarrow.parquet.read_table(pa.BufferReader(data), columns=[vector])[vector]
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error
    return matrix_of(column)


def matrix_of(column: Any) -> NDArray[Any]:
    """The matrix of a column of lists of a fixed size."""
    whole = column.combine_chunks()
    flat: NDArray[Any] = whole.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(whole), whole.type.list_size)


def embedded(rows: Any, embed: Embedder, *, of_a_fixed_size: bool = True) -> Any:
    """A table of these rows (a table or a batch) with their vectors, null where there is none, and
    errors.
    """
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows])
    wanted = embed.wanted
    found = embed(table.column(wanted.text).to_pylist())
    missing = np.zeros(len(table), bool)
    missing[list(found.faults)] = True
    flat = pa.array(np.ascontiguousarray(found.vectors).reshape(-1))
    size = wanted.columns
    if of_a_fixed_size:
        lists = pa.FixedSizeListArray.from_arrays(flat, size, mask=pa.array(missing))
    else:
        offsets = pa.array(np.arange(len(table) + 1, dtype=np.int32) * size)
        lists = pa.ListArray.from_arrays(offsets, flat, mask=pa.array(missing))
    told = {at: f"{why.code}: {why.message}" for at, why in found.faults.items()}
    errors = pa.array([told.get(at) for at in range(len(table))], pa.string())
    return table.append_column(wanted.vector, lists).append_column(wanted.error, errors)


def _parquet_batches(file: Any, columns: Columns) -> Iterator[Any]:
    opened = pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=1 << 16)
    wanted = _wanted(opened.schema_arrow, columns)
    yield from opened.iter_batches(ROWS_AT_ONCE, columns=wanted, use_threads=False)


def _arrow_batches(file: Any, columns: Columns) -> Iterator[Any]:
    if file.seekable() and file.read(6) == b"ARROW1":
        file.seek(0)
        opened = pa.ipc.open_file(file)
        batches = (opened.get_batch(at) for at in range(opened.num_record_batches))
    else:
        if file.seekable():
            file.seek(0)
        opened = pa.ipc.open_stream(file)
        batches = iter(opened)
    wanted = _wanted(opened.schema, columns)
    for batch in batches:
        for start in range(0, batch.num_rows, ROWS_AT_ONCE):
            yield batch.slice(start, ROWS_AT_ONCE).select(wanted)


def _wanted(schema: Any, columns: Columns) -> list[str]:
    """The columns of a file to read: of a field `a.b` that is no column, `a`."""
    names = list(schema.names)
    asked = [each for each in (columns.text, columns.id, *(columns.carry or ())) if each]
    below = [
        each
        for each in dict.fromkeys(asked)
        if each not in names and _leads_to_a_field(schema, each)
    ]
    refuse_absent([*names, *below], columns)
    carried = names if columns.carry is None else columns.carried([*names, *below])
    kept = {*carried, *asked, *(each.partition(".")[0] for each in below)}
    return [name for name in names if name in kept]


def _leads_to_a_field(schema: Any, name: str) -> bool:
    """Whether `name` is the path of a field in structs."""
    head, *rest = name.split(".")
    if head not in schema.names:
        return False
    kind = schema.field(head).type
    for each in rest:
        if not pa.types.is_struct(kind) or kind.get_field_index(each) < 0:
            return False
        kind = kind.field(each).type
    return True


def _field(batch: Any, name: str) -> Any:
    """A column of a batch, or the field that `a.b` leads to."""
    if name in batch.schema.names:
        return batch.column(name)
    head, *rest = name.split(".")
    return pyarrow.compute.struct_field(batch.column(head), rest)


def _decoded(table: Any) -> Any:
    """With the values of dictionaries, at any depth, in place of their numbers, which alone do not
    tell what a row holds.
    """
    fields = [each.with_type(_throughout(each.type, _of_dictionary)) for each in table.schema]
    schema = pa.schema(fields)
    return table if schema.types == table.schema.types else table.cast(schema)


def _of_dictionary(kind: Any) -> Any:
    return _throughout(kind.value_type, _of_dictionary) if pa.types.is_dictionary(kind) else kind


def _values_for_json(table: Any, name: str) -> list[Any]:
    """Of a column of a table. Raises BulkError where JSON can't hold them."""
    column = table.column(name)
    try:
        for_json = _throughout(column.type, _for_json)
        if for_json != column.type:
            column = column.cast(for_json)
        found: list[Any] = column.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException) as error:
        raise BulkError(
            f"column {name} ({table.schema.field(name).type}) can't be written as JSON: {error}; "
            "--carry chooses others, --format parquet can hold it"
        ) from error
    return found


def _for_json(kind: Any) -> Any:
    """Times in nanoseconds, which Python's types can't hold, become text, durations numbers."""
    of = pa.types
    if of.is_temporal(kind) and getattr(kind, "unit", None) == "ns":
        return pa.int64() if of.is_duration(kind) else pa.string()
    return kind


def _throughout(kind: Any, change: Callable[[Any], Any]) -> Any:
    """A type with all types in it changed that are not made of others."""
    of = pa.types

    def inner(each: Any) -> Any:
        return each.with_type(_throughout(each.type, change))

    if of.is_struct(kind):
        return pa.struct([inner(each) for each in kind])
    if of.is_map(kind):
        return pa.map_(inner(kind.key_field), inner(kind.item_field), kind.keys_sorted)
    if of.is_fixed_size_list(kind):
        return pa.list_(inner(kind.value_field), kind.list_size)
    if of.is_list(kind):
        return pa.list_(inner(kind.value_field))
    if of.is_large_list(kind):
        return pa.large_list(inner(kind.value_field))
    return change(kind)


def _texts(column: Any) -> list[tuple[str | None, Fault | None]]:
    """Each text of a column, or why there is none."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    of = pa.types
    if not (of.is_string(column.type) or of.is_large_string(column.type)):
        why = Fault("invalid_type", f"the text is not a string but {column.type}")
        return [(None, why if each else NO_TEXT) for each in column.is_valid().to_pylist()]
    try:
        return [text_or_fault(each) for each in column.to_pylist()]
    except UnicodeDecodeError:
        binary = pa.large_binary() if of.is_large_string(column.type) else pa.binary()
        return [_text_of(each) for each in column.cast(binary).to_pylist()]


def _text_of(data: bytes | None) -> tuple[str | None, Fault | None]:
    try:
        return text_or_fault(None if data is None else data.decode())
    except UnicodeDecodeError:
        return None, Fault("invalid_utf8", "the text is not valid UTF-8")


def _ids_of(column: Any, name: str) -> list[tuple[RowId, Fault | None]]:
    """Each id of a column, or why there is none; those of other types than strings and whole
    numbers become strings.
    """
    kind = column.type
    values: Any = (text for text, _ in _texts(column)) if _holds_text(kind) else None
    if values is None:
        values = _values_for_json(pa.table({name: column}), name)
        if not (pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
            values = [None if each is None else text_of(each) for each in values]
    return [id_or_fault(each, name) for each in values]


def _holds_text(kind: Any) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _without_views(batch: Any) -> Any:
    """Arrow can't take rows of views yet."""
    kinds = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    if not any(each.type in kinds for each in batch.schema):
        return batch
    fields = [each.with_type(kinds.get(each.type, each.type)) for each in batch.schema]
    return batch.cast(pa.schema(fields, batch.schema.metadata))


def _rows(batches: Iterator[Any], columns: Columns) -> Iterator[Rows]:
    first = 0
    for batch in map(_without_views, batches):
        texts: list[str | None] = []
        faults: dict[int, Fault] = {}
        for at, (text, why) in enumerate(_texts(_field(batch, columns.text))):
            texts.append(text)
            if why is not None:
                faults[at] = why
        ids: list[RowId] = list(range(first, first + len(texts)))
        if columns.id is not None:
            for at, (row_id, why) in enumerate(_ids_of(_field(batch, columns.id), columns.id)):
                if why is None:
                    ids[at] = row_id
                else:
                    texts[at], faults[at] = None, why
        names = batch.schema.names if columns.carry is None else list(columns.carry)
        carried: Carried = DictRows([{}] * len(texts))
        if names:
            carried = ArrowRows(pa.table({name: _field(batch, name) for name in names}))
        each_size = max(1, batch.nbytes // max(1, len(texts)))
        yield Rows(first, texts, ids, carried, [each_size] * len(texts), faults)
        first += len(texts)


def _ids(ids: Sequence[RowId], kind: str | None) -> Any:
    if kind is None and all(isinstance(each, int) for each in ids):
        return pa.array(ids, pa.int64())
    return pa.array([str(each) for each in ids], pa.string())


def _carried(carried: Carried, types: Types, id_: str) -> dict[str, Any]:
    if isinstance(carried, ArrowRows):
        return {name: carried.table.column(name) for name in carried.table.schema.names}
    assert isinstance(carried, DictRows)  # noqa: S101  there are two kinds
    return {
        name: _column([row.get(name) for row in carried.rows], kind)
        for name, kind in types.items()
        if name != id_ or all(name in row for row in carried.rows)  # ids may not be carried along
    }


def _column(values: list[Any], kind: str) -> Any:
    """Values of JSON as one Arrow column."""
    if kind == "json":
        texts = [None if each is None else orjson.dumps(each).decode() for each in values]
        return pa.array(texts, pa.string())
    if kind == "double":
        values = [None if each is None else float(each) for each in values]
    return pa.array(values, pa.type_for_alias(kind))
