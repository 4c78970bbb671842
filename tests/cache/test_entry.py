"""An entry gives back what was put in, and other bytes are none."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.cache import entry as entries
from embedfleet.cache.entry import HEAD_BYTES, Numbers, is_entry, sealed, unpack
from embedfleet.vocabulary import Vector

KEY, OTHER = b"k" * 32, b"o" * 32


def vector(width: int = 64, seed: int = 0) -> Vector:
    values = np.random.default_rng(seed).standard_normal(width).astype(np.float32)
    return values / np.linalg.norm(values)


def pack(
    key: bytes, vector: Vector, tokens: int, *, truncated: bool, numbers: Numbers = "float32"
) -> bytes:
    """An entry as it is sent."""
    return sealed(key, entries.pack(vector, tokens, truncated=truncated, numbers=numbers))


@given(width=st.integers(1, 300), tokens=st.integers(1, 2**32 - 1), truncated=st.booleans())
def test_float32_comes_back_bit_for_bit(width: int, tokens: int, truncated: bool) -> None:
    value = pack(KEY, vector(width), tokens, truncated=truncated)
    entry = unpack(value)
    assert entry.vector.tobytes() == vector(width).tobytes()
    assert (entry.tokens, entry.truncated) == (tokens, truncated)
    assert is_entry(KEY, value, width)
    assert len(value) == HEAD_BYTES + 4 * width


@given(width=st.integers(2, 300), seed=st.integers(0, 999))
def test_float16_comes_back_within_a_thousandth(width: int, seed: int) -> None:
    value = pack(KEY, vector(width, seed), 3, truncated=False, numbers="float16")
    back = unpack(value).vector
    assert np.abs(back - vector(width, seed)).max() < 1e-3
    assert abs(np.linalg.norm(back) - 1) < 1e-6
    assert len(value) == HEAD_BYTES + 2 * width
    assert is_entry(KEY, value, width, "float16")


def test_coarser_numbers_than_wanted_are_none() -> None:
    """Where gateways that share a Redis differ; finer ones are welcome."""
    halves = pack(KEY, vector(), 3, truncated=False, numbers="float16")
    assert not is_entry(KEY, halves, 64, "float32")
    assert is_entry(KEY, pack(KEY, vector(), 3, truncated=False), 64, "float16")


def test_a_row_of_a_matrix_is_kept_by_itself() -> None:
    """Also one that does not lie in one piece."""
    columns = np.stack([vector(), vector(seed=1)], axis=1)
    assert unpack(pack(KEY, columns[:, 1], 3, truncated=False)).vector.tobytes() == (
        vector(seed=1).tobytes()
    )


def test_reading_copies_nothing() -> None:
    assert not unpack(pack(KEY, vector(), 3, truncated=False)).vector.flags.owndata


def test_an_entry_that_was_not_to_leave_its_process_is_none() -> None:
    assert not is_entry(KEY, entries.pack(vector(), 3, truncated=False), 64)


def test_an_entry_of_another_key_is_none() -> None:
    """As a connection gives it on which an answer was left lying."""
    assert not is_entry(OTHER, pack(KEY, vector(), 3, truncated=False), 64)


def test_an_entry_of_another_width_is_none() -> None:
    assert not is_entry(KEY, pack(KEY, vector(), 3, truncated=False), 32)


@given(at=st.integers(0, HEAD_BYTES + 255), bit=st.integers(0, 7))
def test_one_wrong_bit_anywhere_makes_it_none(at: int, bit: int) -> None:
    value = bytearray(pack(KEY, vector(), 3, truncated=True))
    value[at] ^= 1 << bit
    assert not is_entry(KEY, bytes(value), 64)


@given(value=st.binary(max_size=400))
def test_a_lock_that_somebody_else_wrote_is_not_ours(value: bytes) -> None:
    assert not is_entry(KEY, value, 64)


@given(length=st.integers(0, HEAD_BYTES + 255))
def test_a_part_of_an_entry_is_none(length: int) -> None:
    assert not is_entry(KEY, pack(KEY, vector(), 3, truncated=False)[:length], 64)
