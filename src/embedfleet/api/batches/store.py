"""Stores files and batches in a directory, by owner. Every method may raise OSError."""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import IO, TypeVar

import msgspec

from embedfleet.api.batches.documents import ENDED, Batch, State, StoredFile
from embedfleet.runtime.folders import LocalStore, Parts, Store
from embedfleet.vocabulary import CallerError, RateLimitedError, counted

log = logging.getLogger(__name__)

Document = TypeVar("Document", bound=msgspec.Struct)

PIECE_BYTES = 1 << 18
QUOTA_LOCK = "quota.lock"
RETRY_AFTER_S = 30.0
"""Told to callers whose batches are all waiting."""
ABANDONED_S = 24 * 3600.0
"""Seconds after which a partial file is abandoned."""
NAME = re.compile(r"(file|batch)-[A-Za-z0-9]{24}")
TIMED = re.compile(r"(file|batch)-t([0-9a-f]{9})[0-9a-f]{14}")
"""A name with the second at which it was given, so that a cursor has its place in a list whatever
became of what it named. Earlier releases gave 24 hexadecimal digits, which never begin so.
"""
PART = re.compile(r"[0-9]{6,}(-[0-9a-f]{8})?")
"""Of the first versions they had numbers alone."""
ANSWER = re.compile(rb"([oe]) ([0-9]{1,15}) (\{.*\}\n)", re.DOTALL)
"""A line of a part: whether its request succeeded, its number, and the line of the output."""
COLLECTED = re.compile(rb'\{"id":"batch_req_t?[0-9a-f]{23,24}_([0-9]{1,15})",.*\}\n', re.DOTALL)
"""A line of an output, with the number of its request."""


OUTPUTS = {"o": "output", "e": "error"}
"""What a batch has files of, by the kind of its answers."""


def named_at(kind: str, now: int, end: str) -> str:
    """A name given at this second; `end` has 14 hexadecimal digits."""
    return f"{kind}-t{now:09x}{end}"


def given_at(name: str) -> int | None:
    """The second at which a name was given; None for those of earlier releases."""
    found = TIMED.fullmatch(name)
    return int(found[2], 16) if found else None


def output_id(batch: str, kind: str, now: int) -> str:
    """The id of a batch's output or of its errors, named at this second."""
    return named_at("file", now, _end_of_output(batch, kind))


def place_of(kept: StoredFile | Batch) -> tuple[int, str]:
    """What lists are ordered by."""
    return kept.created_at, kept.id


def place_of_id(name: str) -> tuple[int, str] | None:
    """The place of what has, or had, this name; None for a name of earlier releases."""
    given = given_at(name)
    return None if given is None else (given, name)


def _end_of_output(batch: str, kind: str) -> str:
    """What the names of a batch's output or of its errors end with, in earlier releases too."""
    digest = blake2b(f"{batch}/{OUTPUTS[kind]}".encode(), digest_size=12).hexdigest()
    return digest[-14:]


class NoSuchFileError(CallerError):
    status = 404


def no_such_file(name: str) -> NoSuchFileError:
    """The error of a file that is not there, or another's."""
    return NoSuchFileError(f"there is no file {name[:64]}", param="file_id", code="file_not_found")


@dataclass(frozen=True, slots=True)
class Quota:
    """What one owner may keep."""

    files: int
    bytes: int
    """Of all of them together."""
    batches: int


class BatchStore:
    """What is kept; `store` may be shared by several gateways."""

    def __init__(
        self, store: Store, file_days: int, clock: Callable[[], float] = time.time
    ) -> None:
        self.store = store
        self._file_days = file_days
        self._clock = clock
        self._files: dict[str, StoredFile] = {}
        self._batches: dict[str, Batch] = {}
        """Documents that were read before, by their names in the folder: they never change."""
        self._ended: set[str] = set()
        """Batches that have ended, as far as was read: for good, unless their state is lost."""
        self._alone: set[str] = set()
        """Contents of files without a document, when they were looked for the last time."""
        self._over: set[str] = set()
        """Files and batches whose days were over then."""

    @property
    def now(self) -> int:
        """Seconds since 1970."""
        return int(self._clock())

    @staticmethod
    def name(kind: str, now: int) -> str:
        """An unguessable name."""
        return named_at(kind, now, secrets.token_hex(7))

    def outputs(self, batch: str) -> dict[str, str]:
        """The ids of a batch's output and errors, where their content was written."""
        ends = {_end_of_output(batch, kind) + ".data": kind for kind in OUTPUTS}
        length = len(next(iter(ends)))
        found: dict[str, str] = {}
        for name in self.store.names("files"):
            kind, stem = ends.get(name[-length:]), name.removesuffix(".data")
            if kind is not None and NAME.fullmatch(stem):
                found.setdefault(kind, stem)
        return found

    def add_file(
        self,
        owner: str,
        filename: str,
        purpose: str,
        parts: Parts,
        name: str | None = None,
        *,
        life_s: int | None = None,
        quota: Quota | None = None,
    ) -> StoredFile:
        """Keep a file; a name makes it the same one however often it is added. `life_s` shortens
        the time that files are kept. CallerError, and nothing is kept, if the owner's files
        are more than the quota with it, also where several are added at once.
        """
        now = self.now
        name = name or self.name("file", now)
        written = self.store.write(f"files/{name}.data", parts)
        given = given_at(name)
        file = StoredFile(
            id=name,
            owner=owner,
            bytes=written.bytes,
            created_at=now if given is None else given,
            expires_at=min(self._last(now), now + life_s) if life_s else self._last(now),
            filename=filename,
            purpose=purpose,
        )
        if quota is None:
            self._write(f"files/{name}.json", file)
            return file
        try:
            with self.store.locked(QUOTA_LOCK):
                self.check_quota(owner, file.bytes, quota)
                self._write(f"files/{name}.json", file)
        except (CallerError, OSError):
            self.remove_file(name)
            raise
        return file

    def check_quota(self, owner: str, size: int, quota: Quota) -> None:
        """Raise CallerError unless the owner may keep one more file of so many bytes."""
        files = self.files(owner)
        if len(files) >= quota.files:
            raise CallerError(
                f"{counted(len(files), 'file')} are stored; the limit is {quota.files} "
                "(batches.max_files): delete some",
                code="storage_full",
            )
        held = sum(each.bytes for each in files)
        if held + size > quota.bytes:
            raise CallerError(
                f"{held} bytes of files are stored; the limit is {quota.bytes} "
                "(batches.max_stored_bytes): delete some",
                code="storage_full",
            )

    def file(self, owner: str, name: str) -> StoredFile:
        """A file of this owner. Raises NoSuchFileError for all others."""
        found = self._read(f"files/{name}.json", StoredFile) if NAME.fullmatch(name) else None
        if found is None or found.owner != owner or found.expires_at <= self.now:
            raise no_such_file(name)
        return found

    def files(self, owner: str) -> list[StoredFile]:
        """All of this owner, the latest first."""
        now = self.now
        known = self._all_files()
        mine = [each for each in known if each.owner == owner and each.expires_at > now]
        return sorted(mine, key=place_of, reverse=True)

    def content(self, file: StoredFile) -> IO[bytes]:
        return self.store.open(f"files/{file.id}.data")

    def remove_file(self, name: str) -> None:
        self.store.remove(f"files/{name}.json")
        self.store.remove(f"files/{name}.data")

    def remove_expired(self) -> None:
        """Remove files whose days are over, but for inputs of batches that have not ended; batches
        that ended and whose files are no more; and what was left by processes that were killed.

        Their days must have been over the last time too: a clock that is wrong for a while, as on
        a machine that has just started, deletes nothing. What can't be removed keeps nothing else.
        """
        now = self.now
        self._ended.clear()  # their states are read again, as one may have been damaged
        self.waiting()
        ended = [each for each in self.batches() if each.id in self._ended]
        read = {each.input_file_id for each in self.batches() if each.id not in self._ended}
        files = {file.id for file in self._all_files() if file.expires_at <= now} - read
        batches = {each.id for each in ended if self._last(each.created_at) <= now}
        for name in files & self._over:
            with _passed_over(name):
                self.remove_file(name)
        for batch in ended:
            with _passed_over(batch.id):
                for part in self.parts(batch.id):
                    self.store.remove(part)
                if batch.id in batches & self._over:
                    self._remove_batch(batch.id)
        self._over = files | batches
        self._remove_abandoned()

    def _last(self, created_at: int) -> int:
        """When the days of something are over, in seconds since 1970."""
        return created_at + self._file_days * 86_400

    def _remove_batch(self, name: str) -> None:
        for kept in (f"batches/cancelled/{name}", f"batches/{name}.json"):
            self.store.remove(kept)
        self.store.remove(f"batches/states/{name}.json")  # last: without it, it would run again

    def _remove_abandoned(self) -> None:
        """Remove contents whose document was never written, or is gone, if they were so the last
        time too: one may be written at the moment.
        """
        names = self.store.names("files")
        documents = {each.removesuffix(".json") for each in names if each.endswith(".json")}
        contents = {each.removesuffix(".data") for each in names if each.endswith(".data")}
        alone = contents - documents
        for name in alone & self._alone:
            with _passed_over(name):
                self.store.remove(f"files/{name}.data")
        self._alone = alone
        if isinstance(self.store, LocalStore):
            self.store.remove_temporary(ABANDONED_S)

    def add_batch(self, batch: Batch, most: int) -> None:
        """Keep a batch. Where its owner has `most` already, the first of them that has ended is
        removed for it. RateLimitedError if none has.
        """
        with self.store.locked(QUOTA_LOCK):
            mine = self.batches(batch.owner)
            if len(mine) >= most:
                ended = next((each for each in reversed(mine) if self._has_ended(each.id)), None)
                if ended is None:
                    told = f"{most} batches have not ended, the limit (batches.max_batches)"
                    raise RateLimitedError(told, kind="requests", retry_after_s=RETRY_AFTER_S)
                for part in self.parts(ended.id):
                    self.store.remove(part)
                self._remove_batch(ended.id)
            self._write(f"batches/{batch.id}.json", batch)

    def _has_ended(self, name: str) -> bool:
        return name in self._ended or self.state(name).status in ENDED

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
        self._batches = self._documents("batches", Batch, self._batches)
        mine = [each for each in self._batches.values() if owner in {None, each.owner}]
        return sorted(mine, key=place_of, reverse=True)

    def state(self, name: str) -> State:
        """How far a batch is. One whose state is missing or damaged begins again, also if it had
        ended: its answers are still there (`restore`).
        """
        found = self._read(f"batches/states/{name}.json", State) or State()
        if found.status not in ENDED:
            self._ended.discard(name)
        return found

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
        """Batches that have not ended, the first one first. The state of those that have is read
        only once.
        """
        known = self.batches()
        self._ended &= {each.id for each in known}
        waiting = []
        for batch in reversed(known):
            if batch.id in self._ended:
                continue
            with _passed_over(batch.id):
                if self.state(batch.id).status in ENDED:
                    self._ended.add(batch.id)
                else:
                    waiting.append(batch)
        return waiting

    def add_part(self, batch: str, number: int, parts: Parts) -> None:
        """Keep answers of a batch that runs, in place of no others: two gateways run it where one
        has lost its lease and does not know yet.
        """
        name = f"{number:06d}-{secrets.token_hex(4)}"
        self.store.write(f"batches/parts/{batch}/{name}", parts)

    def parts(self, batch: str) -> list[str]:
        """The names of what is kept of a batch, in the order of its coming."""
        folder = f"batches/parts/{batch}"
        return [f"{folder}/{each}" for each in self.store.names(folder) if PART.fullmatch(each)]

    def restore(self, batch: str) -> None:
        """Keep as answers what lies in the output of a batch whose state was lost after it ended,
        so that nothing is asked again.
        """
        for kind, output in self.outputs(batch).items():
            name = f"files/{output}.data"
            with contextlib.suppress(FileNotFoundError), self.store.open(name) as opened:
                lines = ((COLLECTED.fullmatch(text), text) for text in opened)
                kept = (
                    b"%b %b %b" % (kind.encode(), found[1], text) for found, text in lines if found
                )
                self.add_part(batch, 0, kept)

    def answers(self, batch: str) -> Iterator[tuple[str, int, bytes]]:
        """What is kept of a batch, each request's first answer: `o` for the output or `e` for the
        errors, the request's number, and its line. A line that is damaged, or cut off at the end of
        its part, is passed over: it is asked for again.
        """
        seen = set()
        for part in self.parts(batch):
            with self.store.open(part) as opened:
                for text in opened:
                    found = ANSWER.fullmatch(text)
                    if found is None:
                        log.warning("%s/%s is damaged in part", self.store.address, part)
                    elif (number := int(found[2])) not in seen:
                        seen.add(number)
                        yield found[1].decode(), number, found[3]

    def lines(self, name: str, longest: int | None = None) -> Iterator[bytes]:
        """The lines of what lies under a name, without their ends; a longer one is cut to one byte
        more than `longest`.
        """
        with self.store.open(name) as opened:
            held = bytearray()
            while piece := opened.read(PIECE_BYTES):
                *whole, rest = piece.split(b"\n")
                for text in whole:
                    held += text[: _room(held, longest)]
                    yield bytes(held)
                    held.clear()
                held += rest[: _room(held, longest)]
            if held:
                yield bytes(held)

    def _all_files(self) -> Collection[StoredFile]:
        self._files = self._documents("files", StoredFile, self._files)
        return self._files.values()

    def _documents(
        self, folder: str, kind: type[Document], known: Mapping[str, Document]
    ) -> dict[str, Document]:
        """The documents of a folder by their names in it; those that are `known` aren't read."""
        found = {}
        for name in self.store.names(folder):
            if name.endswith(".json"):
                with _passed_over(f"{folder}/{name}"):
                    document = known.get(name) or self._read(f"{folder}/{name}", kind)
                    if document is not None:
                        found[name] = document
        return found

    def _read(self, name: str, kind: type[Document]) -> Document | None:
        """A document; None where it is missing or damaged: one file must not stop all batches."""
        try:
            return msgspec.json.decode(self.store.read(name), type=kind)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            log.warning("%s/%s is damaged and skipped: %s", self.store.address, name, error)
            return None

    def _write(self, name: str, document: msgspec.Struct) -> None:
        self.store.write(name, [msgspec.json.encode(document)])


@contextlib.contextmanager
def _passed_over(name: str) -> Iterator[None]:
    """Go on without a file that can't be read or removed: it must not stop all batches."""
    try:
        yield
    except OSError as error:
        log.warning("%s is skipped: %s", name, error)


def _room(held: bytearray, longest: int | None) -> int | None:
    return None if longest is None else max(0, longest + 1 - len(held))
