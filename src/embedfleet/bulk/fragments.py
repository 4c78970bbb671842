"""Cuts the rows of a file into fragments. Pure.

A fragment is a run of consecutive rows of one file. Its boundaries depend on the rows alone, so a
second run cuts the same input alike; its hash tells whether it has changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
import orjson
import pybase64

RowId: TypeAlias = int | str

HASH_BYTES = 16
NO_HASH = bytes(HASH_BYTES)
"""In place of the hash of a row without a text."""

MOST_ROWS = 8192
MOST_TEXT_BYTES = 8 << 20
MOST_VECTOR_BYTES = 16 << 20
"""Bounds memory: a fragment is held several times over, and two are in progress at once."""


class Carried(Protocol):
    """Columns of some rows that are copied to the output."""

    def __len__(self) -> int: ...

    def names(self) -> set[str]:
        """The names of the columns that any of these rows has."""
        ...

    def part(self, start: int, stop: int) -> Self:
        """A range of rows."""
        ...

    def kept(self, places: Sequence[int]) -> Self:
        """Only these rows."""
        ...

    def joined(self, others: Sequence[Self]) -> Self:
        """These rows, then the others."""
        ...

    def digest(self) -> bytes:
        """A hash of their content."""
        ...

    def plain(self) -> Sequence[Mapping[str, Any]]:
        """What JSON can hold of them, row by row."""
        ...


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a row has no text, or no vector."""

    code: str
    """As in OpenAI's `error.code`, for instance `empty_string`."""
    message: str


NO_TEXT = Fault("missing_text", "the row has no text")
EMPTY = Fault("empty_string", "the text is empty")
LONGEST_ID = 8192
"""Characters; NumPy gives all ids of a file the room of the longest."""


def text_of(value: Any) -> str:
    """A value of a type that JSON does not have, such as a decimal number; bytes are Base64."""
    return pybase64.b64encode_as_string(value) if isinstance(value, bytes) else str(value)


def text_or_fault(value: Any) -> tuple[str | None, Fault | None]:
    """The text of a field, or why it has none."""
    if isinstance(value, str):
        return (value, None) if value else (None, EMPTY)
    if value is None:
        return None, NO_TEXT
    return None, Fault("invalid_type", f"the text is not a string but {type(value).__name__}")


def id_or_fault(value: Any, name: str) -> tuple[RowId, Fault | None]:
    """The id of a row from its field of this name; an empty one where it is not possible as one."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return "", Fault("missing_id", f"`{name}` is neither a string nor a whole number")
    if isinstance(value, str) and len(value) > LONGEST_ID:
        return "", Fault("invalid_id", f"`{name}` is longer than {LONGEST_ID:,} characters")
    return value, None


ROWS_AT_ONCE = 1024
"""Rows that are read at once, at the most."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Consecutive rows of a file, column by column."""

    first: int
    """The number of the first one in its file, from 0."""
    texts: Sequence[str | None]
    """None in rows without a text."""
    ids: Sequence[RowId]
    carried: Carried
    sizes: Sequence[int]
    """Approximate bytes of each row."""
    faults: Mapping[int, Fault] = field(default_factory=dict)
    """Why a text is None, by its place in these rows."""

    def __len__(self) -> int:
        return len(self.texts)

    def part(self, start: int, stop: int) -> Rows:
        """A range of these rows."""
        faults = {at - start: why for at, why in self.faults.items() if start <= at < stop}
        return Rows(
            self.first + start,
            self.texts[start:stop],
            self.ids[start:stop],
            self.carried.part(start, stop),
            self.sizes[start:stop],
            faults,
        )

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """The rows of all parts, at least one, in order."""
        if len(parts) == 1:
            return parts[0]
        faults: dict[int, Fault] = {}
        first = 0
        for part in parts:
            faults |= {first + at: why for at, why in part.faults.items()}
            first += len(part)
        return cls(
            parts[0].first,
            [text for part in parts for text in part.texts],
            [row_id for part in parts for row_id in part.ids],
            parts[0].carried.joined([part.carried for part in parts[1:]]),
            [size for part in parts for size in part.sizes],
            faults,
        )


@dataclass(frozen=True, slots=True)
class Fragment:
    """Consecutive rows of one file, and the name of their output."""

    name: str
    source: str
    """The name of their file in the output."""
    rows: Rows
    hashes: Sequence[bytes]
    """Of the texts, in order; `NO_HASH` where there is none."""

    @classmethod
    def of(cls, name: str, source: str, rows: Rows) -> Fragment:
        """With the hashes of its texts, which are computed once."""
        return cls(name, source, rows, hashes_of(rows.texts))

    @property
    def digest(self) -> str:
        """A hash of everything that its output depends on except the vectors, in hexadecimal."""
        rows, found = self.rows, hashlib.blake2b(digest_size=HASH_BYTES)
        faults = {str(at): (why.code, why.message) for at, why in rows.faults.items()}
        told = [self.source, rows.first, list(rows.ids), faults]
        found.update(orjson.dumps(told, default=str))
        for key in self.hashes:
            found.update(b"\0" if key == NO_HASH else key)
        found.update(rows.carried.digest())
        return found.hexdigest()


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest fragment; a single larger row is a fragment of its own."""

    rows: int = MOST_ROWS
    text_bytes: int = MOST_TEXT_BYTES

    @classmethod
    def of(cls, row_bytes: int, rows: int | None = None) -> Limits:
        """The limits for vectors of `row_bytes`; `rows` overrides the number of rows."""
        return cls(rows or max(64, min(MOST_ROWS, MOST_VECTOR_BYTES // max(1, row_bytes))))


def hash_of(text: str) -> bytes:
    """The hash that identifies equal texts; also of a text with a lone surrogate."""
    data = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=HASH_BYTES).digest()


def hashes_of(texts: Iterable[str | None]) -> list[bytes]:
    """Of each text; `NO_HASH` of None."""
    return [NO_HASH if text is None else hash_of(text) for text in texts]


def cut(source: str, stem: str, found: Iterable[Rows], limits: Limits) -> Iterator[Fragment]:
    """Cut the rows of a file, in order; `stem` begins the names of its fragments."""
    number, held, count, size = 0, list[Rows](), 0, 0
    for rows in found:
        sizes, start = np.cumsum([0, *rows.sizes]), 0
        while start < len(rows):
            most = sizes[start] + limits.text_bytes - size
            stop = int(np.searchsorted(sizes, most, "right")) - 1
            stop = max(stop, start + (not count))  # a larger row is a fragment of its own
            stop = min(stop, start + limits.rows - count)
            if stop > start:
                held.append(rows.part(start, stop))
                count, size = count + stop - start, size + int(sizes[stop] - sizes[start])
            if stop < len(rows):
                yield Fragment.of(f"{stem}-{number:05d}", source, Rows.joined(held))
                number, held, count, size = number + 1, [], 0, 0
            start = stop
    if held:
        yield Fragment.of(f"{stem}-{number:05d}", source, Rows.joined(held))


@dataclass(frozen=True, slots=True)
class DictRows:
    """Carried columns of rows that are read one by one."""

    rows: Sequence[Mapping[str, Any]]

    def __len__(self) -> int:
        return len(self.rows)

    def names(self) -> set[str]:
        return set().union(*self.rows)

    def part(self, start: int, stop: int) -> DictRows:
        return DictRows(self.rows[start:stop])

    def kept(self, places: Sequence[int]) -> DictRows:
        return DictRows([self.rows[at] for at in places])

    def joined(self, others: Sequence[DictRows]) -> DictRows:
        return DictRows([row for each in (self, *others) for row in each.rows])

    def plain(self) -> Sequence[Mapping[str, Any]]:
        return self.rows

    def digest(self) -> bytes:
        found = hashlib.blake2b(digest_size=HASH_BYTES)
        for row in self.rows:
            found.update(orjson.dumps(row, default=str))
        return found.digest()


def without(rows: Rows, places: Mapping[int, Any]) -> Rows:
    """The rows except those at `places`."""
    left = [at for at in range(len(rows)) if at not in places]
    return replace(
        rows,
        texts=[rows.texts[at] for at in left],
        ids=[rows.ids[at] for at in left],
        carried=rows.carried.kept(left),
        sizes=[rows.sizes[at] for at in left],
        faults={},
    )
