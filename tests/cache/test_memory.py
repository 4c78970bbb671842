"""Memory keeps what is asked for again, within its bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from embedfleet.cache.memory import OVERHEAD_BYTES, MemoryTier

SIZE = 100
ENTRY = SIZE + OVERHEAD_BYTES


def key(number: int) -> bytes:
    return number.to_bytes(4, "big")


def room_for(entries: int) -> MemoryTier:
    return MemoryTier(entries * ENTRY)


def test_a_value_is_found_by_its_key() -> None:
    memory = room_for(2)
    memory.put(key(1), b"one")
    assert memory.get(key(1)) == b"one"
    assert memory.get(key(2)) is None


@given(
    room=st.integers(0, 20_000),
    asked=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3000)), max_size=200),
)
def test_it_never_holds_more_than_it_may_and_never_a_wrong_value(
    room: int, asked: list[tuple[int, int]]
) -> None:
    memory = MemoryTier(room)
    last: dict[int, bytes] = {}
    for number, size in asked:
        held = memory.get(key(number))
        assert held is None or held == last[number]
        value = number.to_bytes(1, "big") * size
        before = held
        memory.put(key(number), value)
        last[number] = value
        if memory.get(key(number)) == before:
            last[number] = before if before is not None else value
        assert memory.bytes <= room
        values = [memory._values[each] for each in memory._values]
        assert memory.bytes == sum(len(each) + OVERHEAD_BYTES for each in values)


def test_a_scan_pushes_out_nothing_that_is_wanted() -> None:
    """A corpus ten times the room is indexed once; questions are asked all day."""
    memory = room_for(100)
    wanted = range(50)
    for _ in range(3):
        for number in wanted:
            if memory.get(key(number)) is None:
                memory.put(key(number), b"w" * SIZE)
    for number in range(1000, 2000):
        assert memory.get(key(number)) is None
        memory.put(key(number), b"s" * SIZE)
    assert sum(memory.get(key(number)) is not None for number in wanted) == 50


def test_what_was_let_go_too_early_stays_the_next_time() -> None:
    memory = room_for(10)
    memory.put(key(0), b"0" * SIZE)
    for number in range(1, 12):
        memory.put(key(number), b"n" * SIZE)
    assert memory.get(key(0)) is None
    memory.put(key(0), b"0" * SIZE)
    for number in range(100, 120):
        memory.put(key(number), b"n" * SIZE)
    assert memory.get(key(0)) is not None


def test_a_value_larger_than_all_the_room_is_not_kept() -> None:
    memory = room_for(1)
    memory.put(key(1), b"x" * SIZE)
    memory.put(key(2), b"x" * (SIZE + 1))
    assert memory.get(key(1)) is not None
    assert memory.get(key(2)) is None


def test_clearing_forgets_everything() -> None:
    memory = room_for(3)
    memory.put(key(1), b"x")
    assert memory.clear() == 1
    assert (len(memory), memory.bytes, memory.get(key(1))) == (0, 0, None)
