"""The temporary directory for model files that replicas hand over, created on first use."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from embedfleet.vocabulary import SettingError

TOUCH_S = 3600.0
"""Cleaners of /tmp delete files after some days; PostgreSQL touches its sockets there too."""


class Scratch:
    """A directory that exists from the first use to `close`."""

    def __init__(self, place: Path | None = None) -> None:
        """`place` is its parent; by default the system's directory for temporary files."""
        self._place = place
        self._made: Path | None = None

    def directory(self, prefix: str) -> Path:
        """Create a directory in it. Raises SettingError if that fails."""
        try:
            if self._made is None or not self._made.is_dir():
                self._made = Path(tempfile.mkdtemp(prefix="embedfleet-", dir=self._place))
            return Path(tempfile.mkdtemp(prefix=prefix, dir=self._made))
        except OSError as error:
            raise SettingError(
                f"the tokenizer that replicas hand over needs a directory for temporary files: "
                f"{error.strerror or error}; name one with TMPDIR, or the tokenizer's own with "
                "--model DIR"
            ) from error

    async def keep(self) -> None:
        """Touch its files periodically until cancelled."""
        while True:
            await asyncio.sleep(TOUCH_S)
            self.touch()

    def touch(self) -> None:
        """Set the times of all files in it to now."""
        if self._made is not None:
            for path in (self._made, *self._made.rglob("*")):
                with contextlib.suppress(OSError):
                    os.utime(path)

    def close(self) -> None:
        """Remove it with its content."""
        if self._made is not None:
            shutil.rmtree(self._made, ignore_errors=True)
