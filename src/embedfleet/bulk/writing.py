"""Writes the files of a fragment: rows and vectors as NumPy, JSON lines, Parquet or Lance."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from embedfleet.bulk.errors import BulkError
from embedfleet.bulk.fragments import Carried, DictRows, Fragment, RowId, Rows
from embedfleet.runtime.extras import how_to_add
from embedfleet.runtime.folders import Parts

FORMATS = ("npy", "jsonl", "parquet", "lance")
TYPED = {"parquet", "lance"}
"""Formats whose columns have types."""


@dataclass(frozen=True, slots=True)
class Names:
    """Column names of an output."""

    id: str | None
    vector: str


Types: TypeAlias = Mapping[str, str]
"""Arrow types of columns read from JSON; `json` is a string that holds JSON."""

LARGEST_INT = 1 << 63


@dataclass(slots=True)
class ColumnTypes:
    """The types of an input's columns, inferred over all rows, so that all files of an output have
    the same schema.
    """

    id: str | None
    """The column of ids; None if rows are numbered."""
    seen: dict[str, set[str]] = field(default_factory=dict)
    carried: list[tuple[str, Carried]] = field(default_factory=list)
    """Columns without rows, with the name of the file, of the files that differ in them."""
    _ids: set[str] = field(default_factory=set)

    def observe(self, fragment: Fragment) -> None:
        """Observe some rows; Arrow's columns have types already."""
        rows, carried = fragment.rows, fragment.rows.carried
        if not rows.first:
            columns = carried.kept([])
            if all(columns != other for _, other in self.carried):
                self.carried.append((fragment.source, columns))
        if self.id is not None:
            self._ids.update(map(_kind, rows.ids))
        if isinstance(carried, DictRows):
            for row in carried.rows:
                for name, value in row.items():
                    self.seen.setdefault(name, set()).add(_kind(value))

    def types(self) -> Types:
        """The type of each column; of ids where they are not all whole numbers of 64 bits."""
        found = {name: _unified(kinds - {"null"}) for name, kinds in self.seen.items()}
        if self.id is not None and not self._ids <= {"int64"}:
            found.setdefault(self.id, "string")
        return found


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int():
            return "int64" if -LARGEST_INT <= value < LARGEST_INT else "json"
        case float():
            return "double"
        case str():
            return "string"
        case _:
            return "json"


def _unified(kinds: set[str]) -> str:
    if not kinds:
        return "string"
    if len(kinds) == 1:
        return next(iter(kinds))
    return "double" if kinds == {"int64", "double"} else "json"


def refuse_absent_extra(format_: str) -> None:
    """Raise BulkError if a format takes an extra that is not installed."""
    if format_ == "lance" and importlib.util.find_spec("lance") is None:
        raise BulkError(
            f"Lance takes the extra `lance` (pylance, 217 MB beside pyarrow): {how_to_add('lance')}"
        )
    if format_ in TYPED:
        from embedfleet.bulk import columnar  # noqa: F401, PLC0415  an extra


def files_of(
    fragment: str,
    format_: str,
    rows: Rows,
    vectors: NDArray[Any],
    names: Names,
    types: Types,
) -> Iterator[tuple[str, Parts]]:
    """The files of a fragment by name; row i of the vectors belongs to row i. Those of Lance are
    `LanceOutput`'s.
    """
    if format_ == "npy":
        yield f"{fragment}.ids.npy", _npy(_ids(rows.ids))
        yield f"{fragment}.npy", _npy(vectors)
    elif format_ == "jsonl":
        yield f"{fragment}.jsonl", _json_lines(rows, vectors, names)
    else:
        from embedfleet.bulk import columnar  # noqa: PLC0415  an extra

        yield f"{fragment}.parquet", columnar.parquet(rows, vectors, names, types)


def vectors_in(
    format_: str,
    data: Mapping[str, bytes],
    vector: str,
    dtype: np.dtype[Any],
    columns: int,
    scratch: Path,
) -> NDArray[Any]:
    """Read the vectors of a fragment from its files. Raises BulkError. `scratch` is a folder on
    this machine for what can be read from a file alone.
    """
    try:
        if format_ == "npy":
            (name,) = (each for each in data if not each.endswith(".ids.npy"))
            found: NDArray[Any] = np.load(io.BytesIO(data[name]), allow_pickle=False)
        elif format_ == "jsonl":
            (text,) = data.values()
            lines = [orjson.loads(line)[vector] for line in text.splitlines()]
            found = np.array(lines, dtype).reshape(len(lines), columns)
        elif format_ == "lance":
            from embedfleet.bulk import lance_dataset  # noqa: PLC0415  an extra

            found = np.empty((0, columns), dtype)
            for content in data.values():  # none where no row has a vector
                found = lance_dataset.vectors_of(content, vector, scratch)
        else:
            from embedfleet.bulk import columnar  # noqa: PLC0415  an extra

            (content,) = data.values()
            found = columnar.vectors_of(content, vector)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise BulkError(f"{', '.join(data)} can't be read: {error}") from error
    if found.shape[1:] != (columns,):
        raise BulkError(f"{', '.join(data)} holds vectors of another length than {columns}")
    return found.astype(dtype, copy=False)


def plain_rows(carried: Carried) -> list[Mapping[str, Any]]:
    """Carried columns, row by row."""
    if isinstance(carried, DictRows):
        return list(carried.rows)
    from embedfleet.bulk import columnar  # noqa: PLC0415  an extra

    return columnar.plain_rows(carried)


def _ids(ids: Any) -> NDArray[Any]:
    if all(isinstance(each, int) for each in ids):
        try:
            return np.array(ids, np.int64)
        except OverflowError:
            pass
    return np.array([str(each) for each in ids], np.str_)


def _npy(array: NDArray[Any]) -> Parts:
    whole = np.ascontiguousarray(array)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(whole))
    yield head.getvalue()
    if whole.size:
        yield whole.data.cast("B")


def _json_lines(rows: Rows, vectors: NDArray[Any], names: Names) -> Parts:
    fields = plain_rows(rows.carried)
    numbers = np.ascontiguousarray(vectors, np.float32 if vectors.dtype.kind == "f" else None)
    for at, row_id in enumerate(rows.ids):
        yield _json_line(row_id, fields[at], numbers[at], names)


def _json_line(
    row_id: RowId, fields: Mapping[str, Any], vector: NDArray[Any], names: Names
) -> bytes:
    told = {names.id or "row": row_id, **fields, names.vector: vector}
    return orjson.dumps(
        told, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE, default=str
    )


def fields_of(carried: Carried) -> set[str]:
    """The names of the columns that any of some rows has."""
    return {name for row in plain_rows(carried) for name in row}


def refuse_names(vector: str, id_: str | None, carried: Carried) -> None:
    """Raise BulkError if a column of the input has the name of a column of the output."""
    taken = fields_of(carried)
    if vector in taken:
        raise BulkError(
            f"the input has a column {vector} already; --vector-column names another for vectors"
        )
    if id_ is None and "row" in taken:
        raise BulkError(
            "the input has a column row already, and rows are numbered in one of this name; --id "
            "names a column to take instead, --carry the others to carry along"
        )
