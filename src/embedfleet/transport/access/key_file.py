"""Reads and updates the keys file.

An update is atomic (write, then rename) and exclusive (a lock), so that readers never see a partial
file and concurrent updates are not lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from embedfleet.transport.access.records import KeyFileError, KeyRecord, parse, render

log = logging.getLogger(__name__)

Records = tuple[KeyRecord, ...]


def load(path: Path) -> Records:
    """The keys in a file. Raises KeyFileError."""
    try:
        return parse(_content(path))
    except OSError as error:
        raise KeyFileError(f"the keys file {path} can't be read: {error.strerror}") from error
    except KeyFileError as error:
        raise KeyFileError(f"{path}: {error}") from error


def _content(path: Path) -> bytes:
    """What a file holds. A pipe or device in its place would be waited for, for ever."""
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(number, "rb") as file:
        told = os.fstat(number)
        if not stat.S_ISREG(told.st_mode):
            raise KeyFileError("it is not a regular file")
        if told.st_mode & stat.S_IWOTH:
            log.warning("the keys file %s is writable by other users; run chmod o-w on it", path)
        return file.read()


def change(
    path: Path, decide: Callable[[Records], Records], confirm: Callable[[], None] = lambda: None
) -> None:
    """Replace the file by what `decide` makes of its keys; a missing file holds none.

    `confirm` is called once the file is written. Raises KeyFileError, and what `decide` and
    `confirm` raise; the file is then as it was. It is readable and writable for its owner alone.
    """
    path = path.resolve()  # what a symbolic link points to is replaced, not the link
    try:
        with _alone(path.parent):
            before = load(path) if path.exists() else None
            _replace(path, render(decide(before or ())))
            with contextlib.ExitStack() as undoing:
                if before is None:
                    undoing.callback(path.unlink)
                else:
                    undoing.callback(_replace, path, render(before))
                confirm()
                undoing.pop_all()
    except OSError as error:
        told = error.strerror or error
        raise KeyFileError(f"the keys file {path} can't be written: {told}") from error


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep other changes of files in this directory waiting."""
    held = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def _replace(path: Path, content: bytes) -> None:
    """Write beside and rename: what is read is the old file or the new one. Made with mode 0600.

    It keeps its owner when another user (root) changes it: the service must still be able to
    read it.
    """
    number, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if path.exists() and os.geteuid() == 0:
                owner = path.stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        Path(beside).replace(path)
    finally:
        Path(beside).unlink(missing_ok=True)  # it is there only where something failed
