"""The output folder of a run and its ledger: what is there, what is added, what is complete."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import orjson
from numpy.typing import NDArray

from embedfleet.bulk import ledger
from embedfleet.bulk.columns import Names, Types
from embedfleet.bulk.computing import Computed
from embedfleet.bulk.duplicates import Duplicates
from embedfleet.bulk.errors import BulkError
from embedfleet.bulk.fragments import HASH_BYTES, Fragment, hash_of, without
from embedfleet.bulk.journal import Journal
from embedfleet.bulk.ledger import Output, Planned, Record, RowError, Run, Work
from embedfleet.bulk.writing import files_of, vectors_in
from embedfleet.runtime.folders import LocalStore, Store

if TYPE_CHECKING:
    from embedfleet.bulk.lance_dataset import LanceOutput

OF_NOBODY = {ledger.FOLDER, "lost+found"}
"""Folders of an output that was not begun: our own, and that of a file system."""
OF_A_FRAGMENT = re.compile(r"-\d{5,}\.(ids\.npy|npy|jsonl|parquet|hashes|json)$")
"""Files of fragments; those that belong to no record are removed at the end."""


class OutputFolder:
    """The output folder and its ledger."""

    def __init__(
        self, store: Store, run_: Run, scratch: Path, dataset: LanceOutput | None = None
    ) -> None:
        """`dataset` is what the output is as well, where its format is that of one."""
        self._store = store
        self._run = run_
        self._form = run_.form
        self._scratch = scratch
        self._dataset = dataset
        self._journal: Journal | None = None
        self.records: dict[str, Record] = {}

    @property
    def journal(self) -> Journal:
        """The journal; available after `begin`."""
        if self._journal is None:
            space = self._run.space
            # Named by the stored probe: later answers may differ in their last bits.
            key = hash_of(msgspec.json.encode((space, self._run.probe)).decode()).hex()
            path = self._scratch / f"journal-{key[:12]}.sqlite"
            self._journal = Journal(path, space.numbers, space.columns)
        return self._journal

    def close(self) -> None:
        """Close the journal."""
        if self._journal is not None:
            self._journal.close()

    def begin(
        self,
        planned: Sequence[Planned],
        duplicates: Duplicates,
        *,
        update: bool,
        retry_errors: bool,
    ) -> Work:
        """Compare output and input. Raises BulkError if the output has other settings."""
        store = self._store
        begun = begun_run(store)
        if isinstance(store, LocalStore):
            store.remove_temporary()
        if begun is None:
            store.write(ledger.RUN, [ledger.encoded(self._run)])
        else:
            ledger.refuse_another(begun, self._run, store.address)
            self._run = begun
        self.records = self._recorded()
        sizes = {
            one.name: store.size(one.name)
            for record in self.records.values()
            for one in record.outputs
        }
        work = ledger.work_of(planned, self.records, sizes, retry_errors=retry_errors)
        if not update:
            ledger.refuse_changes(work, store.address)
        if work.stale or work.gone:
            if self._dataset is not None:
                self._dataset.refuse_tags(store)
            store.remove(ledger.MANIFEST)  # the output is no longer complete
            for name, record in sorted(self.records.items()):
                replaced = name in work.stale or name in work.gone
                self._recall(record, None if replaced else duplicates)
        return work

    def publish(self, fragment: Fragment, computed: Computed, types: Types) -> Record:
        """Write the files of a fragment, then the record that marks them as complete."""
        rows, faults = fragment.rows, computed.faults
        left = [at for at in range(len(rows)) if at not in faults]
        names = Names(self._form.id, self._form.vector)
        outputs = []
        kept = without(rows, faults) if faults else rows
        vectors = computed.vectors[left] if faults else computed.vectors
        files = (
            files_of(fragment.name, self._form.format, kept, vectors, names, types)
            if self._dataset is None
            else self._dataset.files_of(fragment.name, kept, vectors)
        )
        for name, parts in files:
            written = self._store.write(name, parts)
            outputs.append(Output(name, written.bytes, written.sha256))
        self._store.write(ledger.hashes_name(fragment.name), [b"".join(fragment.hashes)])
        record = Record(
            fragment=fragment.name,
            source=fragment.source,
            first=rows.first,
            rows=len(rows),
            digest=ledger.digest_of(fragment.digest, types),
            outputs=outputs,
            types=dict(types),
            errors=[
                RowError(rows.first + at, rows.ids[at], why.code, why.message)
                for at, why in sorted(faults.items())
            ],
        )
        self._store.write(ledger.record_name(fragment.name), [ledger.encoded(record)])
        self.records[fragment.name] = record
        return record

    def finish(self, planned: Sequence[Planned], work: Work) -> None:
        """Write the manifest, and remove files that belong to no fragment."""
        store, records = self._store, [self.records[each.name] for each in planned]
        lines = (
            orjson.dumps({"source": record.source, **msgspec.to_builtins(error)}) + b"\n"
            for record in records
            for error in record.errors
        )
        if any(record.errors for record in records):
            store.write(ledger.ERRORS, lines)
        else:
            store.remove(ledger.ERRORS)
        for name in sorted(work.gone):
            del self.records[name]
        kept = {one.name for record in records for one in record.outputs}
        kept |= {ledger.hashes_name(record.fragment) for record in records}
        kept |= {ledger.record_name(record.fragment) for record in records}
        names = [
            *store.names(),
            *(f"{ledger.FOLDER}/{each}" for each in store.names(ledger.FOLDER)),
        ]
        for name in names:
            if OF_A_FRAGMENT.search(name) and name not in kept:
                store.remove(name)
        manifest = ledger.encoded(ledger.manifest_of(self._run, records))
        if self._dataset is not None and _read(store, ledger.MANIFEST) != manifest:
            self._dataset.commit(store, records)
        store.write(ledger.MANIFEST, [manifest])
        self.journal.remove()

    def _recorded(self) -> dict[str, Record]:
        found = {}
        for name in self._store.names(ledger.FOLDER):
            if not name.endswith(".json") or f"{ledger.FOLDER}/{name}" == ledger.RUN:
                continue
            try:
                data = self._store.read(f"{ledger.FOLDER}/{name}")
                record = msgspec.json.decode(data, type=Record)
            except msgspec.MsgspecError as error:
                raise BulkError(
                    f"{self._store.address}/{ledger.FOLDER}/{name} can't be read ({error}); remove "
                    "it, and its fragment is computed again"
                ) from error
            found[record.fragment] = record
        return found

    def _recall(self, record: Record, duplicates: Duplicates | None) -> None:
        """Copy vectors of a fragment into the journal: all, if it will be replaced, else those of
        duplicate texts, which other fragments may need.
        """
        if duplicates is not None:
            hashes = _repeated(read_hashes(self._store, record), duplicates)
            if len(self.journal.get(hashes)) == len(set(hashes)):
                return
        read = read_fragment(self._store, record, self._run, self._scratch)
        if read is None:
            return
        hashes, vectors = read
        if duplicates is not None:
            wanted = [at for at, again in enumerate(duplicates.among(hashes)) if again]
            hashes, vectors = [hashes[at] for at in wanted], vectors[wanted]
        self.journal.put(hashes, vectors)


def begun_run(store: Store) -> Run | None:
    """The run that an output was started by; None if it has not been. Raises BulkError where it
    can't be read, or the folder is no output: nothing there is touched.
    """
    try:
        return msgspec.json.decode(store.read(ledger.RUN), type=Run)
    except FileNotFoundError:
        pass
    except ValueError as error:
        raise BulkError(f"{store.address}/{ledger.RUN} can't be read: {error}") from error
    folders = [f"{each}/" for each in store.folders() if each not in OF_NOBODY and each[0] != "."]
    others = [*store.names(), *folders]
    if others:
        some = ", ".join(others[:3]) + ", …" * (len(others) > 3)
        raise BulkError(
            f"{store.address} is not empty and is not an output of this command: it holds {some}. "
            "Choose another folder"
        )
    return None


def read_fragment(
    store: Store, record: Record, run_: Run, scratch: Path
) -> tuple[list[bytes], NDArray[Any]] | None:
    """The hashes and vectors of the rows of a fragment that have one; None where its files are not
    what was written.
    """
    space = run_.space
    try:
        data = {each.name: store.read(each.name) for each in record.outputs}
    except FileNotFoundError:
        return None
    if any(hashlib.sha256(data[each.name]).hexdigest() != each.sha256 for each in record.outputs):
        return None
    hashes = read_hashes(store, record)
    vectors = vectors_in(
        run_.form.format, data, run_.form.vector, space.numbers, space.columns, scratch
    )
    return (hashes, vectors) if len(hashes) == len(vectors) else None


def _read(store: Store, name: str) -> bytes | None:
    try:
        return store.read(name)
    except FileNotFoundError:
        return None


def read_hashes(store: Store, record: Record) -> list[bytes]:
    """The hashes of the texts of a fragment that have a vector, in order; none where they are
    lost.
    """
    try:
        packed = store.read(ledger.hashes_name(record.fragment))
    except FileNotFoundError:
        return []
    failed = {error.row - record.first for error in record.errors}
    places = [at for at in range(record.rows) if at not in failed]
    return [packed[at * HASH_BYTES : (at + 1) * HASH_BYTES] for at in places]


def _repeated(hashes: Sequence[bytes], duplicates: Duplicates) -> list[bytes]:
    return [key for key, again in zip(hashes, duplicates.among(hashes), strict=True) if again]
