"""Polls files once a second and reloads them when they change.

A file that can't be read leaves the previous content in force and is tried again each time: what
was wrong may be no part of its content, such as permissions or a network file system. Polling works
on every file system and through the symbolic links by which Kubernetes updates secrets, for one
system call a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from embedfleet.vocabulary import SetupError

log = logging.getLogger(__name__)

INTERVAL_S = 1.0

_Marks = list[tuple[int, int, int] | None]


class Watch:
    """Some files, and what to do when one of them is another than before."""

    def __init__(self, paths: Sequence[Path], read: Callable[[], Callable[[], None]]) -> None:
        """`read` reads in a thread and returns what takes the news over, on the event loop.

        Either raises SetupError to leave everything as it was. Make this before the files are read
        for the first time, so that no change in between is missed.
        """
        self._paths = tuple(paths)
        self._read = read
        self._seen = self._marks()
        self._trouble = ""
        """Why the files could not be read the last time."""

    def __str__(self) -> str:
        return ", ".join(map(str, self._paths))

    def is_failing(self) -> bool:
        """Whether what is in force is not what the files hold: they could not be read."""
        return bool(self._trouble)

    async def run(self, interval_s: float = INTERVAL_S) -> None:
        """Look again and again until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            marks = await asyncio.to_thread(self._marks)
            if marks != self._seen:
                self._seen = marks
                await self._take()
            elif self._trouble:
                await self._take(before=self._trouble)

    async def _take(self, before: str = "") -> None:
        """Read the files; `before` is why they could not be read as they are, and was logged."""
        try:
            take_over = await asyncio.to_thread(self._read)
            take_over()
        except SetupError as error:
            self._trouble = str(error)
            if self._trouble != before:
                told = "%s changed but is invalid; its previous content stays in force: %s"
                log.error(told, self, error)  # noqa: TRY400  it says what is wrong; a stack adds nothing
        except Exception as error:  # a watch that ends would let revoked keys work on
            self._trouble = repr(error)
            if self._trouble != before:
                log.exception(
                    "%s changed but could not be read; its previous content stays in force", self
                )
        else:
            self._trouble = ""
            log.info("reloaded %s", self)

    def _marks(self) -> _Marks:
        """The state of the files, to detect changes; a file that is replaced has a new inode."""
        found: _Marks = []
        for path in self._paths:
            try:
                told = path.stat()
            except OSError:
                found.append(None)
            else:
                found.append((told.st_mtime_ns, told.st_size, told.st_ino))
        return found
