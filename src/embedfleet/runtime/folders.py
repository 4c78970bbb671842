"""Atomic folders of files, local or at any address of fsspec."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import re
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias

from embedfleet.runtime.text_files import reason
from embedfleet.vocabulary import SetupError

Parts: TypeAlias = Iterable[bytes | memoryview]

READ_AT_ONCE = 1 << 18
"""Bytes of a remote file; its driver reads ahead as it sees fit."""
TEMPORARY = ".tmp"
OF_A_WRITER = re.compile(r"\..+\.[0-9a-f]{8}\.tmp", re.DOTALL)
"""The name of a file that is being written; others' files that end so are not touched."""


class StoreError(SetupError):
    """A folder can't be written, or another process writes there."""


def is_remote(address: str) -> bool:
    """Whether it is an address such as `s3://bucket/key` and no path."""
    return "://" in address and not address.startswith("file://")


@contextlib.contextmanager
def of_a_driver() -> Iterator[None]:
    """Around calls of a driver of fsspec, which each raise what the library beneath them does
    (botocore's, aiohttp's, google.auth's): it becomes OSError, in one line.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise OSError(told) from error


class _Driven(io.RawIOBase):
    """A file of a driver, whose errors are OSError."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def readinto(self, buffer: Any) -> int:
        with of_a_driver():
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with of_a_driver():
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            with contextlib.closing(self._file), contextlib.suppress(OSError):
                super().close()


def opened_remotely(address: str) -> IO[bytes]:
    """A file at an address of fsspec, for reading. Raises OSError, as reading it does."""
    import fsspec  # noqa: PLC0415

    with of_a_driver():
        system, path = fsspec.url_to_fs(address)
        return io.BufferedReader(_Driven(system.open(path, "rb")), READ_AT_ONCE)


@dataclass(frozen=True, slots=True)
class Written:
    """What a file holds."""

    bytes: int
    sha256: str


class Store(Protocol):
    """A folder of files; names may hold slashes. Every method raises OSError."""

    address: str

    def write(self, name: str, parts: Parts) -> Written:
        """Create or replace a file atomically: readers see the old one or the whole new one."""
        ...

    def read(self, name: str) -> bytes:
        """All of a file. FileNotFoundError where there is none."""
        ...

    def open(self, name: str) -> IO[bytes]:
        """A file to be read in parts. FileNotFoundError where there is none."""
        ...

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        ...

    def names(self, folder: str = "") -> list[str]:
        """The files in a folder, not those below, in order."""
        ...

    def folders(self) -> list[str]:
        """The folders in it, in order."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...

    def locked(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Wait until no other process holds this lock, and acquire it."""
        ...

    def close(self) -> None:
        """Let others write here."""
        ...


def store_at(address: str, *, alone: bool = True) -> Store:
    """The folder at an address. Raises StoreError. With `alone` it is made where there is none, and
    no other process may write there meanwhile, as far as that can be ensured.
    """
    if is_remote(address):
        return RemoteStore(address)
    return LocalStore(local_path(address), alone=alone)


def local_path(address: str) -> Path:
    """The path of an address on this machine."""
    return Path(address.removeprefix("file://"))


class LocalStore:
    """A folder of this machine."""

    def __init__(self, path: Path, *, alone: bool = True) -> None:
        """Raises StoreError where it can't be made, or another process writes there."""
        self.path = path
        self.address = str(path)
        self._lock: int | None = None
        self._made: list[Path] = []
        """Folders that were made for this one, itself first."""
        if path.exists() and not path.is_dir():
            raise StoreError(f"{path} is a file; it must be a directory, or nothing")
        if alone:
            self._take()

    def _take(self) -> None:
        path = self.path
        try:
            absent = [each for each in (path, *path.parents) if not each.exists()]
            path.mkdir(parents=True, exist_ok=True)
            self._made = absent
            self._lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise StoreError(f"{path}: another process is writing there") from None
        except OSError as error:
            raise StoreError(f"{path} can't be written: {reason(error)}") from error

    def write(self, name: str, parts: Parts) -> Written:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}{TEMPORARY}")
        try:
            with temporary.open("wb") as file:
                written = _copied(file, parts)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        _sync(target.parent)
        return written

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def open(self, name: str) -> IO[bytes]:
        return (self.path / name).open("rb")

    def size(self, name: str) -> int | None:
        try:
            return (self.path / name).stat().st_size
        except FileNotFoundError:
            return None

    def names(self, folder: str = "") -> list[str]:
        try:
            # Tells files from folders without a call for each, of which there may be thousands.
            with os.scandir(self.path / folder) as found:
                return sorted(each.name for each in found if each.name[0] != "." and _is_file(each))
        except FileNotFoundError:
            return []

    def folders(self) -> list[str]:
        return sorted(each.name for each in self.path.iterdir() if each.is_dir())

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def remove_temporary(self, older_than_s: float = 0) -> None:
        """Remove what writers left that were killed so long ago."""
        before = time.time() - older_than_s
        for left in self.path.rglob(f".*{TEMPORARY}"):
            with contextlib.suppress(FileNotFoundError):
                if OF_A_WRITER.fullmatch(left.name) and (
                    not older_than_s or left.stat().st_mtime < before
                ):
                    left.unlink()

    def lock(self, name: str) -> int | None:
        """A lock that this process holds until it closes what is returned, or ends; None while
        another holds it.
        """
        held = self._opened(name)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(held)
            return None
        return held

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Among all processes that share the folder."""
        held = self._opened(name)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield
        finally:
            os.close(held)

    def _opened(self, name: str) -> int:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def close(self) -> None:
        """A folder that was made for it and is still empty is removed."""
        with contextlib.suppress(OSError):
            for each in self._made:
                each.rmdir()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class RemoteStore:
    """A folder at an address of fsspec. Object stores make a file whole when it is closed; nothing
    keeps two runs apart there.
    """

    def __init__(self, address: str) -> None:
        """Raises StoreError where no file system knows the address."""
        import fsspec  # noqa: PLC0415

        self.address = address.rstrip("/")
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        try:
            self._system: Any
            with of_a_driver():
                self._system, self._root = fsspec.url_to_fs(self.address)
                self._system.makedirs(self._root, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{address} can't be written: {reason(error)}") from error

    def write(self, name: str, parts: Parts) -> Written:
        path = self._path(name)
        # It is put in its place at the end, where a file system would show it while it is written;
        # not by a transaction, which all threads of a process would share.
        with of_a_driver():
            self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
            file = self._system.open(path, "wb", autocommit=False)
        with contextlib.suppress(ValueError):
            self._system.transaction.files.remove(file)
        whole = False
        try:
            with _closed_by_its_driver(file):
                written = _copied(file, parts)
            if hasattr(file, "commit"):  # others are there once they are closed
                with of_a_driver():
                    file.commit()
            whole = True
        finally:
            if not whole and hasattr(file, "discard"):
                with contextlib.suppress(OSError), of_a_driver():
                    file.discard()
        return written

    @of_a_driver()
    def read(self, name: str) -> bytes:
        data: bytes = self._system.cat_file(self._path(name))
        return data

    @of_a_driver()
    def open(self, name: str) -> IO[bytes]:
        return io.BufferedReader(_Driven(self._system.open(self._path(name), "rb")), READ_AT_ONCE)

    @of_a_driver()
    def size(self, name: str) -> int | None:
        try:
            found: int = self._system.info(self._path(name))["size"]
        except FileNotFoundError:
            return None
        return found

    @of_a_driver()
    def names(self, folder: str = "") -> list[str]:
        self._system.invalidate_cache()
        try:
            found = self._system.ls(self._path(folder).rstrip("/"), detail=True)
        except FileNotFoundError:
            return []
        files = [each["name"].rpartition("/")[2] for each in found if each["type"] == "file"]
        return sorted(files)

    @of_a_driver()
    def remove(self, name: str) -> None:
        path = self._path(name)
        if self._system.exists(path):
            self._system.rm_file(path)

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Among the threads of this process: object stores have no locks."""
        with self._locks[name]:
            yield

    @of_a_driver()
    def folders(self) -> list[str]:
        try:
            found = self._system.ls(self._root, detail=True)
        except FileNotFoundError:
            return []
        names = [each["name"].rpartition("/")[2] for each in found if each["type"] == "directory"]
        return sorted(name for name in names if name)

    def close(self) -> None: ...

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


@contextlib.contextmanager
def _closed_by_its_driver(file: Any) -> Iterator[None]:
    try:
        yield
    finally:
        with of_a_driver():
            file.close()


def _copied(file: IO[bytes], parts: Parts) -> Written:
    size, found = 0, hashlib.sha256()
    for part in parts:
        with of_a_driver():
            file.write(part)
        found.update(part)
        size += len(part) if isinstance(part, bytes) else part.nbytes
    return Written(size, found.hexdigest())


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself
        return False


def _sync(folder: Path) -> None:
    """Let a new name outlive a loss of power, where the file system can do that."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
