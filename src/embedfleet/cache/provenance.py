"""Records which cache keys each replica's vectors were stored under since its last passed check.

A check vouches for what was computed before it began. When one fails, everything stored since the
last passed check is suspect. The lists are bounded; one that overflowed is marked.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MOST_KEYS = 1 << 18
"""Of one replica between two checks; 24 MiB. At 60 s between checks, 4,000 new texts a second."""


@dataclass(slots=True)
class _Since:
    """Keys of one replica that nothing vouches for yet."""

    before_check: list[bytes] = field(default_factory=list)
    """Written before the check that is under way."""
    now: list[bytes] = field(default_factory=list)
    overflowed: bool = False


class Provenance:
    """Keys by the replica that their vectors came from."""

    def __init__(self, most_keys: int = MOST_KEYS) -> None:
        self._most = most_keys
        self._sources: dict[str, _Since] = {}

    def wrote(self, source: str, key: bytes) -> None:
        since = self._sources.get(source)
        if since is None:
            since = self._sources[source] = _Since()
        if len(since.now) < self._most:
            since.now.append(key)
        else:
            since.overflowed = True

    def checking(self, source: str) -> None:
        """A check begins: what was written so far stands or falls with it."""
        if (since := self._sources.get(source)) is not None:
            if len(since.before_check) + len(since.now) > 2 * self._most:
                since.overflowed = True
            else:
                since.before_check += since.now
            since.now = []

    def trusted(self, source: str) -> None:
        """The check that began last went well."""
        if (since := self._sources.get(source)) is not None:
            since.before_check = []
            since.overflowed = False
            if not since.now:
                del self._sources[source]

    def distrust(self, source: str) -> tuple[list[bytes], bool]:
        """Keys since the last good check, and whether these are all."""
        since = self._sources.pop(source, _Since())
        return since.before_check + since.now, not since.overflowed
