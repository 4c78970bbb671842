"""The columns of inputs and outputs: which are read and copied, their names and their types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from embedfleet.bulk.errors import BulkError
from embedfleet.bulk.fragments import Carried, DictRows, Fragment


def value_at(fields: Mapping[str, Any], name: str, absent: Any = None) -> Any:
    """The field of this very name, or else the one that `a.b` leads to."""
    if name in fields:
        return fields[name]
    head, dot, rest = name.partition(".")
    below = fields.get(head) if dot else None
    return value_at(below, rest, absent) if isinstance(below, Mapping) else absent


ABSENT = object()


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns hold the text, the id, and what is copied; `a.b` is the field b of a."""

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


def refuse_absent(names: Sequence[str], columns: Columns) -> None:
    """Raise BulkError if a file has no column of the text or the id, or any column twice."""
    for wanted in (columns.text, columns.id):
        if wanted is not None and wanted not in names:
            raise BulkError(f"there is no column {wanted}; there are: {', '.join(names)}")
    wanted_names = names if columns.carry is None else (columns.text, columns.id, *columns.carry)
    twice = next((name for name in wanted_names if name and names.count(name) > 1), None)
    if twice is not None:
        raise BulkError(
            f"there are {names.count(twice)} columns {twice}: rename one, or choose with --carry"
        )


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


def refuse_names(vector: str, id_: str | None, carried: Carried) -> None:
    """Raise BulkError if a column of the input has the name of a column of the output."""
    taken = carried.names()
    if vector in taken:
        raise BulkError(
            f"the input has a column {vector} already; --vector-column names another for vectors"
        )
    if id_ is None and "row" in taken:
        raise BulkError(
            "the input has a column row already, and rows are numbered in one of this name; --id "
            "names a column to take instead, --carry the others to carry along"
        )
