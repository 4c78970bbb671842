"""Lance, out: data files named by their content, and the version of a dataset that lists them.

The one module that loads pylance, which is an extra. Lance names data files at random and writes to
addresses by drivers of its own; here it writes in a folder of this machine, and what it wrote is
published like any other file of an output: whole or not at all, at any address of fsspec.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedfleet.bulk import columnar
from embedfleet.bulk.columns import Names, Types
from embedfleet.bulk.errors import BulkError
from embedfleet.bulk.fragments import Carried, Rows
from embedfleet.bulk.ledger import Form, Record, Space
from embedfleet.runtime.extras import how_to_add
from embedfleet.runtime.folders import Parts, Store

try:
    import lance
    import pyarrow as pa
    from lance.file import LanceFileReader
    from lance.fragment import write_fragments
except ImportError as error:
    raise BulkError(
        f"Lance takes the extra `lance` (pylance, 217 MB beside pyarrow): {how_to_add('lance')}"
    ) from error

FILE_VERSION = "2.2"
"""Of data files. Fixed, so that another release of pylance goes on with the same."""
DATA, VERSIONS, TRANSACTIONS = "data", "_versions", "_transactions"
TAGS = ("_refs/tags", "_refs/branches")
VERSION = re.compile(r"\d{20}\.manifest")
"""A version of a dataset; the name of a later one sorts first."""
DATA_FILE = re.compile(r"-\d{5,}-[0-9a-f]{16}\.lance")
UNLIMITED = 1 << 31
BYTES_AT_ONCE = 1 << 20
NAMED_BYTES = 8
"""Of the hash of a data file in its name."""


@dataclass(frozen=True, slots=True)
class LanceOutput:
    """The dataset that an output is."""

    schema: Any
    """An Arrow schema, the same in all data files."""
    names: Names
    types: Types
    scratch: Path
    """A folder on this machine that is this object's own."""

    def files_of(
        self, fragment: str, rows: Rows, vectors: NDArray[Any]
    ) -> Iterator[tuple[str, Parts]]:
        """The data file of a fragment, by a name that no other content has: a reader of an older
        version finds what that version lists. None where there is no row.
        """
        if not len(rows):
            return
        table = columnar.table_of(rows, vectors, self.names, self.types)
        self._write(table.select(self.schema.names).cast(_reproducible(self.schema)))
        (path,) = (self.scratch / DATA).iterdir()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        del table
        pa.default_memory_pool().release_unused()  # it would keep its peak
        yield f"{DATA}/{fragment}-{digest[: 2 * NAMED_BYTES]}.lance", _parts(path)
        shutil.rmtree(self.scratch)

    def refuse_columns(self) -> None:
        """Raise BulkError if Lance can't hold the columns."""
        try:
            self._write(_one_row(_reproducible(self.schema)))
        except (OSError, ValueError, pa.ArrowException) as error:
            told = str(error).partition(", /")[0]  # without the place in Lance's source
            raise BulkError(
                f"Lance can't hold the columns of the input: {told}; --carry chooses some"
            ) from error
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def refuse_tags(self, store: Store) -> None:
        """Raise BulkError if a version that a run would replace has been given a name."""
        named = [each.partition(".")[0] for folder in TAGS for each in store.names(folder)]
        if named:
            raise BulkError(
                f"{store.address} has tags or branches of Lance ({', '.join(named)}), and this run "
                "would remove the data of their versions: delete them, or choose another output"
            )

    def commit(self, store: Store, records: Sequence[Record]) -> None:
        """Make the data files of these records, in order, the latest version of the dataset, unless
        they are already; then remove older versions and files of none. Raises OSError.
        """
        (template,) = self._write(_one_row(_reproducible(self.schema)))
        files = [
            replace(
                template,
                files=[_data_file(template.files[0], one.name.removeprefix(f"{DATA}/"), one.bytes)],
                physical_rows=record.rows - len(record.errors),
            )
            for record in records
            for one in record.outputs
        ]
        known = sorted(each for each in store.names(VERSIONS) if VERSION.fullmatch(each))[:1]
        folder = self._emptied()
        for name in known:
            (folder / VERSIONS).mkdir()
            (folder / VERSIONS / name).write_bytes(store.read(f"{VERSIONS}/{name}"))
        latest = lance.dataset(str(folder)) if known else None
        kept = {f"{VERSIONS}/{name}" for name in known}
        if latest is None or not _holds(latest, self.schema, files):
            operation = lance.LanceOperation.Overwrite(self.schema, files)
            version = None if latest is None else latest.version
            lance.LanceDataset.commit(str(folder), operation, read_version=version)
            made = {each.relative_to(folder).as_posix() for each in folder.rglob("*.*")} - kept
            for name in sorted(made):  # of a transaction, then of the version that names it
                store.write(name, [(folder / name).read_bytes()])
            kept = made
        else:
            of_latest = f"{latest.version - 1}-"  # the version that it was made from
            kept |= {
                f"{TRANSACTIONS}/{each}"
                for each in store.names(TRANSACTIONS)
                if each.startswith(of_latest)
            }
        shutil.rmtree(self.scratch)
        kept |= {one.name for record in records for one in record.outputs}
        self._remove_others(store, kept)

    def _remove_others(self, store: Store, kept: set[str]) -> None:
        for folder, kind in (
            (VERSIONS, VERSION),
            (TRANSACTIONS, re.compile(r".*\.txn")),
            (DATA, DATA_FILE),
        ):
            for each in store.names(folder):
                if kind.search(each) and f"{folder}/{each}" not in kept:
                    store.remove(f"{folder}/{each}")

    def _write(self, table: Any) -> Any:
        """The fragments of a new dataset in the scratch folder, which is one."""
        return write_fragments(
            table,
            str(self._emptied()),
            mode="create",
            data_storage_version=FILE_VERSION,
            max_rows_per_file=UNLIMITED,
            max_bytes_per_file=UNLIMITED << 8,
        )

    def _emptied(self) -> Path:
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)
        return self.scratch


def output_of(
    carried: Sequence[tuple[str, Carried]], types: Types, form: Form, space: Space, scratch: Path
) -> LanceOutput:
    """The dataset of an input; `carried` has no rows, but the columns of each of its files that has
    others than those before. Raises BulkError if they differ, or Lance can't hold them.
    """
    names = Names(form.id, form.vector)
    empty = np.empty((0, space.columns), space.numbers)
    schema = None
    for source, each in carried:
        table = columnar.table_of(Rows(0, [], [], each, []), empty, names, types)
        if schema is None:
            first, schema = source, table.schema
        _refuse_differences((first, schema), (source, table.schema))
    if schema is None:
        raise BulkError("the input has no rows, and a dataset of Lance needs columns")
    found = LanceOutput(schema, names, types, scratch)
    found.refuse_columns()
    return found


def vectors_of(data: bytes, vector: str, scratch: Path) -> NDArray[Any]:
    """The matrix of vectors of a data file. Raises ValueError."""
    scratch.mkdir(parents=True, exist_ok=True)
    path = scratch / "read.lance"
    try:
        path.write_bytes(data)
        return columnar.matrix_of(
            LanceFileReader(str(path), columns=[vector]).read_all().to_table()[vector]
        )
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error
    finally:
        path.unlink(missing_ok=True)


def _reproducible(schema: Any) -> Any:
    """Asks for a compression of strings that gives the same bytes each time; by default it is one
    that samples at random.
    """
    return pa.schema([_compressed(each) for each in schema])


def _compressed(field: Any) -> Any:
    kind = field.type
    if pa.types.is_struct(kind):
        inner = [_compressed(kind.field(at)) for at in range(kind.num_fields)]
        return field.with_type(pa.struct(inner))
    if pa.types.is_map(kind):
        return field.with_type(pa.map_(_compressed(kind.key_field), _compressed(kind.item_field)))
    if pa.types.is_list(kind):
        return field.with_type(pa.list_(_compressed(kind.value_field)))
    if pa.types.is_large_list(kind):
        return field.with_type(pa.large_list(_compressed(kind.value_field)))
    if pa.types.is_fixed_size_list(kind):
        return field.with_type(pa.list_(_compressed(kind.value_field), kind.list_size))
    return field.with_metadata({"lance-encoding:compression": "zstd"})


def _one_row(schema: Any) -> Any:
    """A row of nulls."""
    return pa.table([pa.nulls(1, each.type) for each in schema], schema)


def _refuse_differences(one: tuple[str, Any], other: tuple[str, Any]) -> None:
    kinds = [{each.name: str(each.type) for each in schema} for _, schema in (one, other)]
    for name in sorted(kinds[0].keys() | kinds[1].keys()):
        told = [each.get(name, "absent") for each in kinds]
        if told[0] != told[1]:
            raise BulkError(
                f"the files of a dataset of Lance have the same columns: {name} is {told[0]} in "
                f"{one[0]}, {told[1]} in {other[0]}; --carry chooses columns"
            )


def _data_file(template: Any, path: str, size: int) -> Any:
    return lance.fragment.DataFile(
        path,
        template.fields,
        template.column_indices,
        template.file_major_version,
        template.file_minor_version,
        size,
    )


def _holds(dataset: Any, schema: Any, files: Sequence[Any]) -> bool:
    """Whether the dataset consists of these files, and nothing was deleted from them."""
    found = [each.metadata for each in dataset.get_fragments()]
    return dataset.schema.equals(schema) and [
        ([one.path for one in each.files], each.num_rows) for each in found
    ] == [([one.path for one in each.files], each.physical_rows) for each in files]


def _parts(path: Path) -> Parts:
    with path.open("rb") as file:
        while part := file.read(BYTES_AT_ONCE):
            yield part
