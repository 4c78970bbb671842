"""Usage of API keys, shared by all processes that grant them.

The figures are in shared memory, one slot per key. A slot is read and changed under a POSIX record
lock, which the kernel releases if the process dies. Limits are exact: what one process grants, no
other grants again.
"""

from __future__ import annotations

import fcntl
import math
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from embedfleet.runtime.process import file_in_memory
from embedfleet.transport.access.bucket import Bucket

MOST_KEYS: Final = 16_384
"""Slots. Of more keys than this, those that came last have limits for each process alone."""
MOST_PROCESSES: Final = 64

_SLOT: Final = np.dtype(
    [
        ("key", "V16"),
        ("level", "<f8", (2,)),
        ("at", "<f8", (2,)),
        ("filled", "?", (2,)),
        ("texts", "<i4", (MOST_PROCESSES,)),
    ],
    align=True,
)
TOKENS, REQUESTS = 0, 1


class Ledger:
    """The shared figures, as one process sees them."""

    def __init__(self, descriptor: int, process: int) -> None:
        """`descriptor` is of a file that `create` made; `process` is this one's number."""
        self._descriptor = descriptor
        self._process = process
        content = mmap.mmap(descriptor, MOST_KEYS * _SLOT.itemsize)
        self._slots: NDArray[np.void] = np.frombuffer(content, _SLOT)

    @staticmethod
    def create() -> int:
        """A file in memory for a new ledger; its descriptor is for all processes to inherit."""
        return file_in_memory("embedfleet-keys", size=MOST_KEYS * _SLOT.itemsize)

    def account(self, key: str) -> Account | None:
        """The slot of a key, by its id; None where none is free."""
        digest = blake2b(key.encode(), digest_size=16).digest()
        first = int.from_bytes(digest[:4], "little")
        with self._locked(MOST_KEYS):  # so that no other process takes the slot
            for step in range(MOST_KEYS):
                at = (first + step) % MOST_KEYS
                found = self._slots[at]["key"].tobytes()
                if found == digest:
                    return Account(self, at)
                if found == bytes(16):
                    self._slots[at]["key"] = np.void(digest)
                    return Account(self, at)
        return None

    def forget(self, process: int) -> None:
        """A process has ended: the texts that it was computing are no longer computed."""
        for at in np.flatnonzero(self._slots["texts"][:, process]):
            with self._locked(int(at)):
                self._slots["texts"][at, process] = 0

    @contextmanager
    def _locked(self, at: int) -> Iterator[None]:
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, at)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, at)


class Account:
    """A key's slot."""

    __slots__ = ("_at", "_ledger", "_slot")

    def __init__(self, ledger: Ledger, at: int) -> None:
        self._ledger = ledger
        self._at = at
        self._slot: Any = ledger._slots[at]  # noqa: SLF001  two halves of one thing

    def bucket(self, which: int, per_minute: int, now: float) -> SharedBucket:
        """The bucket of tokens or of requests; a new one is full."""
        with self.locked():
            if not self._slot["filled"][which]:
                self._slot["filled"][which] = True
                self._slot["level"][which], self._slot["at"][which] = per_minute, now
        return SharedBucket(self, which, per_minute)

    def enter(self, texts: int, most: int) -> int | None:
        """Begin so many texts; None, or how many are at work where these would be over `most`."""
        with self.locked():
            working = int(self._slot["texts"].sum())
            if working + texts > most:
                return working
            self._slot["texts"][self._ledger._process] += texts  # noqa: SLF001
        return None

    def leave(self, texts: int) -> None:
        """So many texts are done."""
        with self.locked():
            self._slot["texts"][self._ledger._process] -= texts  # noqa: SLF001

    @contextmanager
    def locked(self) -> Iterator[Any]:
        """The slot, while no other process has it."""
        with self._ledger._locked(self._at):  # noqa: SLF001
            yield self._slot


class SharedBucket(Bucket):
    """A bucket whose level all processes share."""

    __slots__ = ("_account", "_which")

    def __init__(self, account: Account, which: int, per_minute: int) -> None:
        super().__init__(per_minute, math.nan, math.nan)
        self._account = account
        self._which = which

    def take(self, amount: int, now: float) -> float:
        with self._shared():
            return super().take(amount, now)

    def give(self, amount: int, now: float) -> None:
        with self._shared():
            super().give(amount, now)

    def remaining(self, now: float) -> int:
        with self._shared():
            return super().remaining(now)

    def full_in_s(self, now: float) -> float:
        with self._shared():
            return super().full_in_s(now)

    def resize(self, per_minute: int, now: float) -> None:
        with self._shared():
            super().resize(per_minute, now)

    @contextmanager
    def _shared(self) -> Iterator[None]:
        """Have the level as it is for all, and leave it so."""
        with self._account.locked() as slot:
            self.level, self.at = float(slot["level"][self._which]), float(slot["at"][self._which])
            yield
            slot["level"][self._which], slot["at"][self._which] = self.level, self.at
