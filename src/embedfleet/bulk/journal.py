"""Journal of vectors of incomplete fragments, written to SQLite as they arrive.

It survives the death of the process at any moment. It is a cache: losing it costs only time.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedfleet.bulk.errors import BulkError

AT_ONCE = 500
"""Older versions of SQLite accept at most 999 parameters."""

SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA secure_delete = OFF;
PRAGMA cache_size = -8192;
CREATE TABLE IF NOT EXISTS vectors (hash BLOB NOT NULL UNIQUE, vector BLOB NOT NULL);
"""


class Journal:
    """Vectors by the hashes of their texts; usable by several threads."""

    def __init__(self, path: Path, dtype: np.dtype[Any], columns: int) -> None:
        """Ignores vectors of another length. Raises BulkError."""
        self._path = path
        self._dtype = dtype
        self._size = dtype.itemsize * columns
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._connection.executescript(SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise BulkError(f"{path} can't be written: {error}") from error

    def get(self, hashes: Sequence[bytes]) -> dict[bytes, NDArray[Any]]:
        """The vectors that are stored."""
        found: dict[bytes, NDArray[Any]] = {}
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
        rows = [
            (key, row.tobytes())
            for key, row in zip(hashes, vectors.astype(self._dtype, copy=False), strict=True)
        ]
        self._write("INSERT OR IGNORE INTO vectors VALUES (?, ?)", rows)

    def forget(self, hashes: Sequence[bytes]) -> None:
        """Delete vectors that are no longer needed."""
        self._write("DELETE FROM vectors WHERE hash = ?", [(key,) for key in hashes])

    def close(self) -> None:
        """Close the file when no thread is using it; one of an interrupted run may be."""
        with self._lock:
            self._connection.close()

    def remove(self) -> None:
        """Close the file and delete it."""
        self.close()
        for end in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + end).unlink(missing_ok=True)

    def _write(self, statement: str, rows: Sequence[tuple[bytes, ...]]) -> None:
        """Run a statement for each row, in one transaction."""
        with self._lock:
            try:
                self._connection.execute("BEGIN")
                self._connection.executemany(statement, rows)
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                with contextlib.suppress(sqlite3.Error):  # of no transaction, or a closed file
                    self._connection.execute("ROLLBACK")
                raise self._said(error) from error

    def _run(self, statement: str, values: Sequence[bytes]) -> list[Any]:
        with self._lock:
            try:
                return self._connection.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                raise self._said(error) from error

    def _said(self, error: sqlite3.Error) -> BulkError:
        return BulkError(f"{self._path}: {error}; completed work is kept; fix this and run again")
