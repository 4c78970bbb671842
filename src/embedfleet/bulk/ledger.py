"""The ledger of a run: its parameters, what is done, what follows. Pure.

It lies beside the output, in `_ledger/`: `run.json` has the parameters of the run, and each
fragment whose output is complete has a record. `_manifest.json` is written last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from embedfleet.bulk import dtypes
from embedfleet.bulk.errors import BulkError

VERSION = 1
FOLDER = "_ledger"
RUN = f"{FOLDER}/run.json"
MANIFEST = "_manifest.json"
ERRORS = "_errors.jsonl"
LEAST_COSINE = 0.97
"""Between two vectors of one text by the same model, at any precision."""


class Space(msgspec.Struct, frozen=True, kw_only=True):
    """What makes vectors comparable; an output holds vectors of one space."""

    model: str
    dimensions: int
    dtype: str
    input_type: str | None = None
    instruction: str | None = None
    truncate: bool = False
    fingerprint: str | None = None
    """The service's name of the space; None if it does not tell."""
    scale: float | None = None
    """The scale of integers; None for floats and bits."""

    @property
    def numbers(self) -> np.dtype[Any]:
        """The type of a number of a row."""
        return dtypes.DTYPES[self.dtype]

    @property
    def columns(self) -> int:
        """Numbers in a row."""
        return dtypes.columns(self.dtype, self.dimensions)


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """The format of the output."""

    format: str
    text: str
    id: str | None
    carry: tuple[str, ...] | None
    vector: str
    fragment_rows: int


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a run, the same for all fragments."""

    space: Space
    form: Form
    probe: list[float]
    """The vector of a fixed text, from when the output was started: reveals another model."""
    version: int = VERSION


class RowError(msgspec.Struct, frozen=True):
    """A row without a vector."""

    row: int
    """Its number in its file."""
    id: int | str
    code: str
    message: str


class Output(msgspec.Struct, frozen=True):
    """A file of a fragment."""

    name: str
    bytes: int
    sha256: str


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a fragment; written when its files are complete."""

    fragment: str
    source: str
    first: int
    rows: int
    digest: str
    outputs: list[Output]
    types: dict[str, str] = {}
    """Types of carried columns, for columnar outputs of untyped inputs."""
    errors: list[RowError] = []


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A fragment in the manifest."""

    fragment: str
    source: str
    first: int
    rows: int
    vectors: int
    digest: str
    outputs: list[Output]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a complete output, in the order of the input."""

    space: Space
    form: Form
    rows: int
    vectors: int
    errors: int
    fragments: list[Entry]
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Planned:
    """A fragment of the current input."""

    name: str
    digest: str
    rows: int


@dataclass(frozen=True, slots=True)
class Work:
    """The work of a run."""

    stale: frozenset[str]
    """Fragments to compute, new or again."""
    changed: frozenset[str]
    """Those of them that were complete for other rows."""
    gone: frozenset[str]
    """Fragments whose rows are no longer in the input."""


def digest_of(rows: str, types: Mapping[str, str]) -> str:
    """A hash of what a fragment's output depends on: its rows and the types of its columns."""
    if not types:
        return rows
    told = msgspec.json.encode((rows, sorted(types.items())))
    return hashlib.blake2b(told, digest_size=16).hexdigest()


def record_name(fragment: str) -> str:
    return f"{FOLDER}/{fragment}.json"


def hashes_name(fragment: str) -> str:
    """The file of the hashes of a fragment's texts, 16 bytes a row."""
    return f"{FOLDER}/{fragment}.hashes"


def work_of(
    planned: Iterable[Planned],
    records: Mapping[str, Record],
    sizes: Mapping[str, int | None],
    *,
    retry_errors: bool,
) -> Work:
    """Compare the input with the records; `sizes` are those of the output's files."""
    stale, changed, names = set(), set(), set()
    for each in planned:
        names.add(each.name)
        record = records.get(each.name)
        if record is None:
            stale.add(each.name)
        elif record.digest != each.digest:
            stale.add(each.name)
            changed.add(each.name)
        elif (retry_errors and record.errors) or any(
            sizes.get(one.name) != one.bytes for one in record.outputs
        ):
            stale.add(each.name)
    return Work(frozenset(stale), frozenset(changed), frozenset(records.keys() - names))


def refuse_another(begun: Run, wanted: Run, where: str) -> None:
    """Raise BulkError if the output was started with other options or another model."""
    differing = [
        f"{name} is {_shown(old)}, now {_shown(new)}"
        for part in ("space", "form")
        for name, old, new in _differing(getattr(begun, part), getattr(wanted, part))
        if name != "fingerprint" or None not in {old, new}  # a service may not know it yet
    ]
    if begun.version != VERSION:
        differing.append(f"its version is {begun.version}, now {VERSION}")
    if differing:
        raise BulkError(
            f"{where} was started with different settings: {'; '.join(differing)}. One output "
            "can't hold both: choose another one, or remove this"
        )
    cosine = sum(a * b for a, b in zip(begun.probe, wanted.probe, strict=True))
    if not cosine >= LEAST_COSINE:
        raise BulkError(
            f"{where} was begun with another model of the same name: the vector of a fixed text "
            f"has a cosine of {cosine:.3f} to the one before. Choose another output, or remove this"
        )


def refuse_changes(work: Work, where: str) -> None:
    """Raise BulkError if rows changed that were computed before."""
    if work.changed or work.gone:
        some = ", ".join(sorted(work.changed | work.gone)[:3])
        raise BulkError(
            f"the input is not what {where} was begun with: {len(work.changed)} of its fragments "
            f"changed and {len(work.gone)} are gone ({some}, …). --update computes what is new"
        )


def manifest_of(run: Run, records: Iterable[Record]) -> Manifest:
    """The manifest of a complete output."""
    entries = [
        Entry(
            fragment=each.fragment,
            source=each.source,
            first=each.first,
            rows=each.rows,
            vectors=each.rows - len(each.errors),
            digest=each.digest,
            outputs=each.outputs,
        )
        for each in records
    ]
    return Manifest(
        space=run.space,
        form=run.form,
        rows=sum(each.rows for each in entries),
        vectors=sum(each.vectors for each in entries),
        errors=sum(each.rows - each.vectors for each in entries),
        fragments=entries,
    )


def encoded(document: msgspec.Struct) -> bytes:
    """The bytes of a document in the ledger, the same for the same content."""
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def _differing(old: msgspec.Struct, new: msgspec.Struct) -> Iterable[tuple[str, Any, Any]]:
    for name in old.__struct_fields__:
        before, now = getattr(old, name), getattr(new, name)
        if before != now:
            yield name, before, now


def _shown(value: Any) -> str:
    return "none" if value is None else repr(value)
