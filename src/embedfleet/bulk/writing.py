"""Writes the files of a fragment: rows and vectors as NumPy, JSON lines, Parquet or Lance."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from embedfleet.bulk.columns import Names, Types
from embedfleet.bulk.errors import BulkError
from embedfleet.bulk.fragments import RowId, Rows, text_of
from embedfleet.runtime.folders import Parts

FORMATS = ("npy", "jsonl", "parquet", "lance")
TYPED = {"parquet", "lance"}
"""Formats whose columns have types."""


def refuse_absent_extra(format_: str) -> None:
    """Raise BulkError if a format takes an extra that is not installed."""
    if format_ == "lance":
        from embedfleet.bulk import lance_dataset  # noqa: F401, PLC0415  an extra
    elif format_ == "parquet":
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
    fields = rows.carried.plain()
    numbers = np.ascontiguousarray(vectors, np.float32 if vectors.dtype.kind == "f" else None)
    for at, row_id in enumerate(rows.ids):
        yield _json_line(row_id, fields[at], numbers[at], names)


def _json_line(
    row_id: RowId, fields: Mapping[str, Any], vector: NDArray[Any], names: Names
) -> bytes:
    told = {names.id or "row": row_id, **fields, names.vector: vector}
    return orjson.dumps(
        told, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE, default=text_of
    )
