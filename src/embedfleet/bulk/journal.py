"""Journal of vectors of incomplete fragments, written as they arrive.

Each fragment in progress has a log, which is appended to and removed when the fragment is complete.
What outlives a fragment lies in SQLite: vectors that other fragments need, and those in the logs of
a run that was killed. Both survive the death of the process at any moment. The journal is a cache:
losing it costs only time.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import sqlite3
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedfleet.bulk.errors import BulkError
from embedfleet.bulk.fragments import HASH_BYTES
from embedfleet.runtime.text_files import reason

log = logging.getLogger(__name__)

AT_ONCE = 500
"""Older versions of SQLite accept at most 999 parameters."""

SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA cache_size = -8192;
CREATE TABLE IF NOT EXISTS vectors (hash BLOB NOT NULL UNIQUE, vector BLOB NOT NULL);
"""

DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
"""Errors of a file that no attempt can read."""

HEAD = struct.Struct("<II")
"""Begins an entry of a log: its number of vectors and a CRC-32 of the hashes and vectors after it.
"""


class FragmentLog:
    """The vectors of one fragment, in the order in which they arrived."""

    def __init__(self, path: Path) -> None:
        """Raises BulkError."""
        self._path = path
        self._lock = threading.Lock()
        try:
            self._file = path.open("xb", buffering=0)
        except OSError as error:
            raise BulkError(f"{path} can't be written: {error}") from error

    def append(self, hashes: Sequence[bytes], vectors: NDArray[Any]) -> None:
        """Add vectors, row by row. Raises BulkError; nothing is added then."""
        content = b"".join([*hashes, np.ascontiguousarray(vectors).data])
        entry = memoryview(HEAD.pack(len(hashes), zlib.crc32(content)) + content)
        with self._lock:
            try:
                begin = self._file.tell()
                try:
                    while entry:
                        entry = entry[self._file.write(entry) :]
                except OSError:
                    self._file.truncate(begin)
                    self._file.seek(begin)
                    raise
            except (OSError, ValueError) as error:  # ValueError: it was closed meanwhile
                raise _said(self._path, error) from error

    def close(self) -> None:
        """Close the file when no thread is writing to it. It stays."""
        with self._lock:
            self._file.close()

    def remove(self) -> None:
        """Close the file and delete it."""
        self.close()
        self._path.unlink(missing_ok=True)


def read_log(path: Path, vector_bytes: int) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """The hashes and vectors of each entry of a log, up to the first that is torn."""
    row = HASH_BYTES + vector_bytes
    with path.open("rb") as file:
        left = path.stat().st_size
        while left >= HEAD.size:
            count, checksum = HEAD.unpack(file.read(HEAD.size))
            left -= HEAD.size + count * row
            if left < 0:
                return
            content = file.read(count * row)
            if zlib.crc32(content) != checksum:
                return
            split = count * HASH_BYTES
            keys = [content[at : at + HASH_BYTES] for at in range(0, split, HASH_BYTES)]
            starts = range(split, len(content), vector_bytes)
            yield keys, [content[at : at + vector_bytes] for at in starts]


class Journal:
    """Vectors by the hashes of their texts; usable by several threads."""

    def __init__(self, path: Path, dtype: np.dtype[Any], columns: int) -> None:
        """`path` is SQLite's file; logs lie beside it. Ignores vectors of another length. A file
        that is damaged is begun anew.

        Raises BulkError.
        """
        self._path = path
        self._dtype = dtype
        self._size = dtype.itemsize * columns
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._logs: set[FragmentLog] = set()
        self._closed = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = self._opened()
            for left in sorted(path.parent.glob(f"{path.stem}-*.log")):
                for hashes, vectors in read_log(left, self._size):
                    self._write(hashes, vectors)
                left.unlink()
            self._empty = not self._run("SELECT 1 FROM vectors LIMIT 1", [])
        except (OSError, sqlite3.Error) as error:
            raise BulkError(f"{path} can't be written: {reason(error)}") from error

    def _opened(self) -> sqlite3.Connection:
        try:
            return _connected(self._path)
        except sqlite3.DatabaseError as error:
            if _primary_code(error) not in DAMAGED:
                raise
            log.warning("%s is damaged and started anew: %s", self._path, error)
            self._remove_files()
            return _connected(self._path)

    def get(self, hashes: Sequence[bytes]) -> dict[bytes, NDArray[Any]]:
        """The vectors that are stored, but for those in logs of this run."""
        found: dict[bytes, NDArray[Any]] = {}
        if self._empty:
            return found
        for start in range(0, len(hashes), AT_ONCE):
            some = hashes[start : start + AT_ONCE]
            marks = ",".join("?" * len(some))
            rows = self._run(
                f"SELECT hash, vector FROM vectors WHERE hash IN ({marks})",  # noqa: S608
                some,
            )
            for key, data in rows:
                if len(data) == self._size:
                    found[key] = np.frombuffer(data, self._dtype)
        return found

    def put(self, hashes: Sequence[bytes], vectors: NDArray[Any]) -> None:
        """Store vectors, row by row; existing ones are not replaced."""
        if len(hashes):
            rows = vectors.astype(self._dtype, copy=False)
            self._write(hashes, [row.tobytes() for row in rows])
            self._empty = False

    def log(self) -> FragmentLog:
        """A log for one more fragment. Raises BulkError."""
        with self._lock:
            if self._closed:
                raise BulkError(f"{self._path} is closed")
            log = FragmentLog(self._path.with_name(f"{self._path.stem}-{next(self._numbers)}.log"))
            self._logs.add(log)
        return log

    def remove_log(self, log: FragmentLog) -> None:
        """Delete the log of a fragment that is complete."""
        log.remove()
        with self._lock:
            self._logs.discard(log)

    def close(self) -> None:
        """Close all files when no thread is using them; one of an interrupted run may be."""
        with self._lock:
            self._closed = True
            for log in self._logs:
                log.close()
            self._connection.close()

    def remove(self) -> None:
        """Close all files and delete them."""
        self.close()
        for log in self._logs:
            log.remove()
        self._remove_files()

    def _remove_files(self) -> None:
        for end in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + end).unlink(missing_ok=True)

    def _write(self, hashes: Sequence[bytes], vectors: Sequence[bytes]) -> None:
        """Insert vectors, in one transaction."""
        with self._lock:
            try:
                self._connection.execute("BEGIN")
                self._connection.executemany(
                    "INSERT OR IGNORE INTO vectors VALUES (?, ?)", zip(hashes, vectors, strict=True)
                )
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                with contextlib.suppress(sqlite3.Error):  # of no transaction, or a closed file
                    self._connection.execute("ROLLBACK")
                raise _said(self._path, error) from error

    def _run(self, statement: str, values: Sequence[bytes]) -> list[Any]:
        with self._lock:
            try:
                return self._connection.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                raise _said(self._path, error) from error


def _connected(path: Path) -> sqlite3.Connection:
    with contextlib.ExitStack() as undo:
        connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        undo.callback(connection.close)
        connection.executescript(SCHEMA)
        connection.execute("SELECT hash, vector FROM vectors LIMIT 1").fetchall()
        undo.pop_all()
    return connection


def _primary_code(error: Exception) -> int | None:
    """SQLite's code of an error, without what extends it."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _said(path: Path, error: Exception) -> BulkError:
    if _primary_code(error) in DAMAGED:
        return BulkError(
            f"{path}: {reason(error)}; remove it and run again: completed work is kept, and what "
            "it holds is computed once more"
        )
    return BulkError(f"{path}: {reason(error)}; completed work is kept; fix this and run again")
