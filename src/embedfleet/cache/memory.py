"""The first cache tier: entries in this process's memory, evicted by S3-FIFO.

S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023): new entries
enter a small queue, a tenth of the capacity, and move to the main queue only if they are requested
again while there. A scan, such as indexing a corpus once, therefore evicts nothing that is in use.

Capacity is counted in bytes, because vectors of different models differ in size; the available
libraries count entries (docs/cache.md compares them).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

SMALL_SHARE = 0.1
MOST_HITS = 3
"""Counted up to here: a survivor is passed over so many times."""

OVERHEAD_BYTES = 430
"""Of each entry beside its value: key, object heads, places in tables and queues, one ghost.
Measured with `python -m benchmarks.cache_parts memory`."""


class MemoryTier:
    """Entries by key, within a number of bytes."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        self.evictions = 0
        self._clear()

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<MemoryTier {len(self)} entries, {self.bytes} of {self.most_bytes} bytes>"

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, and a mark that it was wanted."""
        return self.find((key,))[0]

    def find(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """As `get`, of several keys."""
        found = list(map(self._values.get, keys))
        for key, value in zip(keys, found, strict=True):
            if value is not None and (hits := self._hits.get(key, 0)) < MOST_HITS:
                self._hits[key] = hits + 1
        return found

    def among(self, keys: AbstractSet[bytes]) -> AbstractSet[bytes]:
        """Those of the keys that have a value."""
        return self._values.keys() & keys

    def put(self, key: bytes, value: bytes) -> None:
        """Keep a value, and let others go for it; one larger than all the room is not kept."""
        size = len(value) + OVERHEAD_BYTES
        if size > self.most_bytes:
            return
        held = self._values.get(key)
        if held is not None:  # computed twice, or with other numbers: the place in the queue stays
            self._resize(key, len(value) - len(held))
            self._values[key] = value
        else:
            self._values[key] = value
            self.bytes += size
            if key in self._ghosts:  # it was evicted from the small queue before
                del self._ghosts[key]
                self._main.append(key)
            else:
                self._small.append(key)
                self._small_bytes += size
        while self.bytes > self.most_bytes:
            self._evict()

    def forget(self, keys: Iterable[bytes]) -> int:
        """Let entries go at once; return how many there were."""
        gone = {key for key in keys if key in self._values}
        for key in gone:
            self.bytes -= len(self._values.pop(key)) + OVERHEAD_BYTES
            self._hits.pop(key, None)
        if gone:
            for queue in (self._small, self._main):
                kept = [key for key in queue if key not in gone]
                queue.clear()
                queue.extend(kept)
            self._small_bytes = sum(len(self._values[key]) + OVERHEAD_BYTES for key in self._small)
        return len(gone)

    def clear(self) -> int:
        """Forget everything; return how many entries there were."""
        entries = len(self)
        self._clear()
        return entries

    def _clear(self) -> None:
        self.bytes = self._small_bytes = 0
        self._values: dict[bytes, bytes] = {}
        self._hits: dict[bytes, int] = {}
        """Of those alone that were requested."""
        self._small: deque[bytes] = deque()
        self._main: deque[bytes] = deque()
        self._ghosts: dict[bytes, None] = {}
        """Keys that left the small queue unwanted; as many as there are entries."""
        self._buried: deque[bytes] = deque()

    def _resize(self, key: bytes, grown: int) -> None:
        self.bytes += grown
        if grown and key in self._small:
            self._small_bytes += grown

    def _evict(self) -> None:
        """Let one entry go, or move those on that are wanted until one is not."""
        if self._small and (self._small_bytes > self.most_bytes * SMALL_SHARE or not self._main):
            key = self._small.popleft()
            self._small_bytes -= len(self._values[key]) + OVERHEAD_BYTES
            if self._hits.pop(key, 0):
                self._main.append(key)
            else:
                self._drop(key)
                self._bury(key)
            return
        key = self._main.popleft()
        hits = self._hits.pop(key, 0)
        if not hits:
            self._drop(key)
            return
        if hits > 1:
            self._hits[key] = hits - 1
        self._main.append(key)

    def _drop(self, key: bytes) -> None:
        self.bytes -= len(self._values.pop(key)) + OVERHEAD_BYTES
        self.evictions += 1

    def _bury(self, key: bytes) -> None:
        self._ghosts[key] = None
        self._buried.append(key)
        while len(self._buried) > max(1, len(self._values)):
            self._ghosts.pop(self._buried.popleft(), None)
