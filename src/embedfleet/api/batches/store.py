"""Stores files and batches in a directory, by owner. Every method may raise OSError."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator
from typing import IO, TypeVar

import msgspec

from embedfleet.api.batches.documents import ENDED, Batch, State, StoredFile
from embedfleet.runtime.folders import Parts, Store
from embedfleet.vocabulary import CallerError

log = logging.getLogger(__name__)

Document = TypeVar("Document", bound=msgspec.Struct)

NAME = re.compile(r"(file|batch)-[A-Za-z0-9]{24}")


class NoSuchFileError(CallerError):
    status = 404


class BatchStore:
    """What is kept; `store` may be shared by several gateways."""

    def __init__(
        self, store: Store, file_days: int, clock: Callable[[], float] = time.time
    ) -> None:
        self.store = store
        self._file_days = file_days
        self._clock = clock
        self._ended: set[str] = set()
        """Batches that have ended, which is for good."""

    @property
    def now(self) -> int:
        """Seconds since 1970."""
        return int(self._clock())

    @staticmethod
    def name(kind: str) -> str:
        """An unguessable name."""
        return f"{kind}-{secrets.token_hex(12)}"

    def add_file(
        self, owner: str, filename: str, purpose: str, parts: Parts, name: str | None = None
    ) -> StoredFile:
        """Keep a file; a name makes it the same one however often it is added."""
        name = name or self.name("file")
        written = self.store.write(f"files/{name}.data", parts)
        now = self.now
        file = StoredFile(
            id=name,
            owner=owner,
            bytes=written.bytes,
            created_at=now,
            expires_at=self._last(now),
            filename=filename,
            purpose=purpose,
        )
        self._write(f"files/{name}.json", file)
        return file

    def file(self, owner: str, name: str) -> StoredFile:
        """A file of this owner. Raises NoSuchFileError for all others."""
        found = self._read(f"files/{name}.json", StoredFile) if NAME.fullmatch(name) else None
        if found is None or found.owner != owner or found.expires_at <= self.now:
            raise NoSuchFileError(
                f"there is no file {name[:64]}", param="file_id", code="file_not_found"
            )
        return found

    def files(self, owner: str) -> list[StoredFile]:
        """All of this owner, the latest first."""
        now = self.now
        known = [self._read(f"files/{name}", StoredFile) for name in self._documents("files")]
        mine = [each for each in known if each and each.owner == owner and each.expires_at > now]
        return sorted(mine, key=lambda each: (each.created_at, each.id), reverse=True)

    def content(self, file: StoredFile) -> IO[bytes]:
        return self.store.open(f"files/{file.id}.data")

    def remove_file(self, name: str) -> None:
        self.store.remove(f"files/{name}.json")
        self.store.remove(f"files/{name}.data")

    def remove_expired(self) -> None:
        """Remove files whose days are over, and batches that ended and whose files are no more."""
        now = self.now
        for document in self._documents("files"):
            file = self._read(f"files/{document}", StoredFile)
            if file is not None and file.expires_at <= now:
                self.remove_file(file.id)
        for batch in self.batches():
            if self._last(batch.created_at) <= now and self.state(batch.id).status in ENDED:
                self._remove_batch(batch.id)

    def _last(self, created_at: int) -> int:
        """When the days of something are over, in seconds since 1970."""
        return created_at + self._file_days * 86_400

    def _remove_batch(self, name: str) -> None:
        for kept in (*self.parts(name), f"batches/cancelled/{name}", f"batches/{name}.json"):
            self.store.remove(kept)
        self.store.remove(f"batches/states/{name}.json")  # last: without it, it would run again

    def add_batch(self, batch: Batch) -> None:
        self._write(f"batches/{batch.id}.json", batch)

    def batch(self, owner: str, name: str) -> Batch:
        """A batch of this owner. Raises NoSuchFileError for all others."""
        found = self._read(f"batches/{name}.json", Batch) if NAME.fullmatch(name) else None
        if found is None or found.owner != owner:
            raise NoSuchFileError(
                f"there is no batch {name[:64]}", param="batch_id", code="batch_not_found"
            )
        return found

    def batches(self, owner: str | None = None) -> list[Batch]:
        """All batches of an owner, or of all owners, the latest first."""
        known = [self._read(f"batches/{name}", Batch) for name in self._documents("batches")]
        mine = [each for each in known if each and owner in {None, each.owner}]
        return sorted(mine, key=lambda each: (each.created_at, each.id), reverse=True)

    def state(self, name: str) -> State:
        return self._read(f"batches/states/{name}.json", State) or State()

    def set_state(self, name: str, state: State) -> None:
        self._write(f"batches/states/{name}.json", state)

    def cancel(self, name: str) -> None:
        """Mark a batch that is to end; the first mark counts."""
        if self.cancelled_at(name) is None:
            self.store.write(f"batches/cancelled/{name}", [str(self.now).encode()])

    def cancelled_at(self, name: str) -> int | None:
        try:
            return int(self.store.read(f"batches/cancelled/{name}"))
        except (FileNotFoundError, ValueError):
            return None

    def waiting(self) -> list[Batch]:
        """Batches that have not ended, the first one first. Those that have are read only once."""
        names = {each.removesuffix(".json") for each in self._documents("batches")}
        self._ended &= names
        found = [self._read(f"batches/{name}.json", Batch) for name in names - self._ended]
        waiting = []
        for batch in filter(None, found):
            if self.state(batch.id).status in ENDED:
                self._ended.add(batch.id)
            else:
                waiting.append(batch)
        return sorted(waiting, key=lambda each: (each.created_at, each.id))

    def add_part(self, batch: str, number: int, parts: Parts) -> None:
        """Keep answers of a batch that runs."""
        self.store.write(f"batches/parts/{batch}/{number:06d}", parts)

    def parts(self, batch: str) -> list[str]:
        """The names of what is kept of a batch, in the order of its coming."""
        folder = f"batches/parts/{batch}"
        return [f"{folder}/{each}" for each in self.store.names(folder)]

    def lines(self, name: str) -> Iterator[bytes]:
        """The lines of what lies under a name."""
        with self.store.open(name) as opened:
            yield from opened

    def _documents(self, folder: str) -> list[str]:
        return [each for each in self.store.names(folder) if each.endswith(".json")]

    def _read(self, name: str, kind: type[Document]) -> Document | None:
        """A document; None where it is missing or damaged: one file must not stop all batches."""
        try:
            return msgspec.json.decode(self.store.read(name), type=kind)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            log.warning("%s/%s is damaged and passed over: %s", self.store.address, name, error)
            return None

    def _write(self, name: str, document: msgspec.Struct) -> None:
        self.store.write(name, [msgspec.json.encode(document)])
