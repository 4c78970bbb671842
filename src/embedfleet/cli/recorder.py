"""What `embedfleet autoscale record` does: asks a gateway what it remembers, and keeps what is new.

What is kept was read as `simulate --recorded` will read it, and the file ends with a whole line
whatever interrupts a write.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import orjson
import typer

from embedfleet.autoscaling import recording
from embedfleet.cli.admin_client import NOTHING_SCALED, ask
from embedfleet.runtime.text_files import reason
from embedfleet.vocabulary import SetupError


class Pool(msgspec.Struct, frozen=True):
    """What a gateway remembers of a pool."""

    name: str
    settings: recording.Settings
    observations: list[dict[str, Any]]
    """Oldest first."""

    @property
    def lasts_s(self) -> float:
        """Seconds within which they must be asked for again, so that none is missed."""
        return max(1.0, recording.REMEMBERED * self.settings.tick_s / 4.0)


class _Answer(msgspec.Struct, frozen=True):
    pools: list[Pool]


class Remembered:
    """The observations of one pool that a gateway has at its admin address."""

    def __init__(self, url: str, key: Path | None, pool: str | None) -> None:
        self._url, self._key, self._pool = url, key, pool
        self._trouble = ""

    def first(self) -> Pool:
        """Of the pool of that name, or the only one. SetupError, also for what `simulate` could
        not read."""
        told = ask(self._url, "/autoscaling/observations", self._key).body
        try:
            found = self._one(msgspec.convert(told, _Answer).pools)
        except msgspec.ValidationError as error:
            raise SetupError(f"{self._url} answers with no observations: {error}") from error
        for number, each in enumerate(found.observations, start=1):
            recording.observed(Path(found.name), number, orjson.dumps(each))
        return found

    def _one(self, pools: list[Pool]) -> Pool:
        found = [each for each in pools if self._pool in {None, each.name}]
        if len(found) == 1:
            return found[0]
        if not pools:
            raise SetupError(NOTHING_SCALED)
        names = ", ".join(each.name for each in pools)
        named = "" if self._pool is None else f"no pool {self._pool} is autoscaled there; "
        raise SetupError(f"{named}--pool names one of {names}")

    def again(self, before: Pool) -> Pool:
        """The same, later; a gateway that is away for a while does not end a recording."""
        try:
            found = self.first()
        except SetupError as error:
            if error.message != self._trouble:
                typer.echo(f"{error.message}; asking again", err=True)
            self._trouble = error.message
            return before
        self._trouble = ""
        return found


class Recorder:
    """A recording that grows up to a number of bytes and consists of whole lines at any time."""

    def __init__(self, file: Path, most: int, pool: Pool) -> None:
        """A new file. SetupError where it can't be made, or is there."""
        self.lines, self.full = 0, False
        self._file, self._most, self._size = file, most, 0
        self._run, self._last = "", -math.inf
        try:
            self.output = file.open("xb", buffering=0)
        except OSError as error:
            raise self._failed(error) from error
        self._append(recording.header(pool.name, pool.settings) + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.output.close()

    def keep(self, pool: Pool) -> bool:
        """Append those that are new; False when there is no room for all.

        New is what was seen later in the same run of the autoscaler, or in another run. Clocks tell
        nothing here: they are set, and go back for an hour each autumn.
        """
        new, left, (run, last) = [], self._most - self._size, (self._run, self._last)
        for each in pool.observations:
            ran, now = each.get("run", ""), each["seen"]["now"]
            if ran == run and now <= last:
                continue
            text = orjson.dumps(each) + b"\n"
            if len(text) > left:
                self.full = True
                break
            new.append(text)
            left, run, last = left - len(text), ran, now
        self._append(b"".join(new))
        self.lines, self._run, self._last = self.lines + len(new), run, last
        return not self.full

    def _append(self, text: bytes) -> None:
        """Write all of it, or nothing. SetupError."""
        left = memoryview(text)
        try:
            while left:
                left = left[self.output.write(left) :]
        except OSError as error:
            raise self._failed(error) from error
        finally:
            if left:  # an interrupt ends a write too
                with contextlib.suppress(OSError):
                    self.output.truncate(self._size)
        self._size += len(text)

    def _failed(self, error: OSError) -> SetupError:
        kept = f"; {self.lines} observations are kept" if self._size else ""
        return SetupError(f"the recording {self._file} can't be written: {reason(error)}{kept}")
