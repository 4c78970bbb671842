"""What a replica computed since its last good check is dropped when one fails, and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.cache.memory import OVERHEAD_BYTES, MemoryTier
from embedfleet.cache.tiers import Provenance, VectorCache

VECTOR = np.full(4, 0.5, np.float32)


class Remote:
    """A second tier that remembers what it is told."""

    def __init__(self) -> None:
        self.kept: dict[bytes, bytes] = {}

    async def fetch(self, keys: Sequence[bytes]) -> list[bytes | None] | None:
        return [self.kept.get(key) for key in keys]

    def store(self, key: bytes, value: bytes) -> None:
        self.kept[key] = value

    def forget(self, keys: Collection[bytes]) -> None:
        for key in keys:
            self.kept.pop(key, None)

    async def clear(self) -> int | None:
        self.kept.clear()
        return 0

    async def close(self) -> None:
        pass


def keep(cache: VectorCache, source: str, *keys: bytes) -> None:
    for key in keys:
        cache.keep(key, VECTOR, 3, truncated=False, source=source)


async def test_what_came_since_the_last_good_check_is_dropped_from_both_tiers() -> None:
    remote = Remote()
    cache = VectorCache(MemoryTier(10**6), remote)
    keep(cache, "liar", b"vouched")
    cache.provenance.checking("liar")
    keep(cache, "liar", b"during")
    cache.provenance.trusted("liar")
    keep(cache, "liar", b"after")
    keep(cache, "honest", b"other")
    cache.provenance.checking("liar")

    assert await cache.distrust("liar") == 2
    left = {b"vouched", b"other"}
    assert set(remote.kept) == left
    assert {key for key in (b"vouched", b"during", b"after", b"other") if cache.peek(key)} == left
    assert cache.counts.distrusted == 2


async def test_where_not_all_is_remembered_everything_goes() -> None:
    remote = Remote()
    cache = VectorCache(MemoryTier(10**6), remote)
    cache.provenance = Provenance(most_keys=2)
    keep(cache, "honest", b"x")
    keep(cache, "liar", b"a", b"b", b"c")
    await cache.distrust("liar")

    assert not remote.kept
    assert len(cache.memory) == 0


async def test_what_overflows_during_a_check_that_goes_well_still_counts_as_unknown() -> None:
    """The check vouches for what was written before it began, and for nothing else."""
    cache = VectorCache(MemoryTier(10**6))
    cache.provenance = Provenance(most_keys=2)
    cache.provenance.checking("liar")
    keep(cache, "liar", b"a", b"b", b"c")
    cache.provenance.trusted("liar")
    await cache.distrust("liar")

    assert len(cache.memory) == 0


def test_checks_that_come_to_no_end_hold_a_bounded_number_of_keys() -> None:
    provenance = Provenance(most_keys=2)
    for number in range(9):
        provenance.wrote("hangs", bytes([number]))
        provenance.checking("hangs")

    assert provenance.distrust("hangs") == ([b"\0", b"\1"], False)


def test_of_replicas_that_are_trusted_or_gone_nothing_is_held() -> None:
    provenance = Provenance()
    for name in ("trusted", "gone"):
        provenance.wrote(name, b"key")
        provenance.checking(name)
    provenance.wrote("gone", b"other")
    provenance.trusted("trusted")
    provenance.forget("gone")

    assert len(provenance) == 0


@given(
    st.lists(
        st.tuples(st.sampled_from("pfg"), st.integers(0, 30), st.integers(1, 200)), max_size=80
    )
)
def test_memory_stays_whole_whatever_is_forgotten(deeds: list[tuple[str, int, int]]) -> None:
    """Its bytes are those of its entries, and it never holds more than it may."""
    memory = MemoryTier(4_000)
    for deed, number, size in deeds:
        key = bytes([number])
        if deed == "p":
            memory.put(key, bytes(size))
        elif deed == "g":
            memory.get(key)
        else:
            memory.forget([key])
            assert memory.get(key) is None
        held = [memory.get(bytes([one])) for one in range(31)]
        sizes = [len(value) + OVERHEAD_BYTES for value in held if value is not None]
        assert memory.bytes == sum(sizes) <= 4_000
        assert len(memory) == len(sizes)
