"""The cache as endpoints use it: a memory tier in front of an optional shared tier (Redis).

A lookup asks the tiers in order and copies a remote hit into memory. Hits, misses and stores are
counted here. Which keys each replica's vectors were stored under is recorded, so that they can be
dropped when the replica fails a check.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from embedfleet.cache.entry import Entry, Numbers, is_entry, pack, sealed, unpack
from embedfleet.cache.memory import MemoryTier
from embedfleet.vocabulary import Vector

log = logging.getLogger(__name__)


MOST_KEYS = 1 << 18
"""Of one replica between two checks; 24 MiB. At 60 s between checks, 4,000 new texts a second."""


@dataclass(slots=True)
class _Written:
    """Keys of one replica that nothing vouches for yet."""

    keys: list[bytes] = field(default_factory=list)
    whole: bool = True
    """Whether these are all of them."""

    def add(self, keys: Sequence[bytes], most: int) -> None:
        room = most - len(self.keys)
        self.keys += keys[:room]
        self.whole = self.whole and len(keys) <= room


class Provenance:
    """Keys by the replica that their vectors came from."""

    def __init__(self, most_keys: int = MOST_KEYS) -> None:
        self._most = most_keys
        self._checking: dict[str, _Written] = {}
        """What was written before the check that is under way."""
        self._since: dict[str, _Written] = {}
        """What was written after it began."""

    def __len__(self) -> int:
        """Replicas of which keys are held."""
        return len(self._checking.keys() | self._since.keys())

    def wrote(self, source: str, key: bytes) -> None:
        since = self._since.get(source)
        if since is None:
            since = self._since[source] = _Written()
        since.add((key,), self._most)

    def checking(self, source: str) -> None:
        """A check begins: what was written so far stands or falls with it."""
        since = self._since.pop(source, _Written())
        before = self._checking.setdefault(source, _Written())
        before.add(since.keys, self._most)
        before.whole = before.whole and since.whole

    def trusted(self, source: str) -> None:
        """The check that began last went well."""
        self._checking.pop(source, None)

    def distrust(self, source: str) -> tuple[list[bytes], bool]:
        """Keys since the last good check, and whether these are all."""
        before = self._checking.pop(source, _Written())
        since = self._since.pop(source, _Written())
        return before.keys + since.keys, before.whole and since.whole

    def forget(self, source: str) -> None:
        """The replica is gone: no check will be made of it."""
        self.distrust(source)


class RemoteTier(Protocol):
    """A tier that other gateways share. Nothing of it raises: what fails is not there."""

    async def fetch(self, keys: Sequence[bytes]) -> list[bytes | None] | None:
        """The values of these keys, in their order, in one round trip; None if it was not asked."""
        ...

    def store(self, key: bytes, value: bytes) -> None:
        """Write soon, in the background; or not at all when too much is waiting."""
        ...

    def forget(self, keys: Collection[bytes]) -> None:
        """Delete soon, in the background, and before anything else is written."""
        ...

    async def clear(self) -> int | None:
        """Forget everything; return how many entries, None if that could not be done."""
        ...

    async def close(self) -> None: ...


@dataclass(slots=True)
class Counts:
    """What happened since the start, in texts."""

    memory_hits: int = 0
    memory_misses: int = 0
    remote_hits: int = 0
    remote_misses: int = 0
    rejected: int = 0
    """Values of Redis that were no entries of their keys."""
    distrusted: int = 0
    """Texts whose vectors were dropped because their replica failed a check."""
    shared: int = 0
    """Texts that were not computed, because an equal one was being computed just then."""
    in_flight: int = 0
    """Texts that are being computed now, and may be waited for."""


class VectorCache:
    """Entries by key, in two tiers."""

    def __init__(
        self, memory: MemoryTier, remote: RemoteTier | None = None, *, numbers: Numbers = "float32"
    ) -> None:
        self.memory = memory
        self.remote = remote
        self.counts = Counts()
        self.provenance = Provenance()
        self._numbers = numbers

    def recall(self, keys: Sequence[bytes]) -> list[Entry | None]:
        """What memory holds of a request's texts."""
        found = [value if value is None else unpack(value) for value in self.memory.find(keys)]
        misses = found.count(None)
        self.counts.memory_misses += misses
        self.counts.memory_hits += len(keys) - misses
        return found

    def peek(self, key: bytes) -> Entry | None:
        """What memory holds of a text that was looked up before: counted then."""
        value = self.memory.get(key)
        return None if value is None else unpack(value)

    async def fetch(self, keys: Sequence[bytes], width: int) -> list[Entry | None]:
        """What Redis holds of texts that memory does not; it is kept in memory from then on."""
        values = await self.remote.fetch(keys) if self.remote is not None else None
        if values is None:
            return [None] * len(keys)
        found: list[Entry | None] = []
        for key, value in zip(keys, values, strict=True):
            found.append(self._accept(key, value, width))
        return found

    def keep(
        self, key: bytes, vector: Vector, tokens: int, *, truncated: bool, source: str
    ) -> Entry:
        """Store a vector that the replica `source` computed; return what it is answered with."""
        self.provenance.wrote(source, key)
        value = pack(vector, tokens, truncated=truncated, numbers=self._numbers)
        self.memory.put(key, value)
        if self.remote is not None:
            self.remote.store(key, sealed(key, value))
        # A miss is answered with the computed numbers, also where fewer bits of them are kept.
        if self._numbers == "float32":
            return unpack(value)
        return self.hold(vector, tokens, truncated=truncated)

    def hold(self, vector: Vector, tokens: int, *, truncated: bool) -> Entry:
        """The same for a vector that is not stored."""
        return Entry(vector.astype("<f4"), tokens, truncated)

    async def distrust(self, source: str) -> int:
        """Drop what a replica computed since its last good check, from both tiers; return how many
        texts. Where that is not known of all, everything goes.
        """
        keys, all_known = self.provenance.distrust(source)
        if not keys:
            return 0
        self.counts.distrusted += len(keys)
        if all_known:
            self.memory.forget(keys)
            if self.remote is not None:
                self.remote.forget(keys)
            log.warning(
                "dropped %d cached vectors that %s has computed since its last passed check",
                len(keys),
                source,
            )
        else:
            log.warning(
                "dropped the whole cache: %s has computed more vectors since its last passed "
                "check than are tracked",
                source,
            )
            await self.clear()
        return len(keys)

    async def clear(self) -> tuple[int, int | None]:
        """Forget everything; return the entries of either tier."""
        entries = self.memory.clear()
        return entries, await self.remote.clear() if self.remote is not None else 0

    async def close(self) -> None:
        """Write what waits to be written."""
        if self.remote is not None:
            await self.remote.close()

    def _accept(self, key: bytes, value: bytes | None, width: int) -> Entry | None:
        if value is None:
            self.counts.remote_misses += 1
            return None
        if not is_entry(key, value, width, self._numbers):
            self.counts.rejected += 1
            self.counts.remote_misses += 1
            return None
        self.counts.remote_hits += 1
        self.memory.put(key, value)
        return unpack(value)
