"""Which sizes are captured, and which one serves a pass."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as some

from embedfleet.engines.cuda.layout import Shape, lay_out
from embedfleet.engines.cuda.sizes import captured_shapes, fitting, shapes_in_pieces

SHAPES = captured_shapes(8_192, tile_tokens=32)


def least(lengths: list[int]) -> Shape:
    return lay_out(lengths, tile_tokens=32, alone_from=1 << 30).shape


def test_sizes_above_the_batch_are_not_captured() -> None:
    assert [shape.tokens for shape in captured_shapes(64, 32)] == [16, 32, 64]


def test_the_largest_batch_is_captured_whatever_its_size() -> None:
    assert [shape.tokens for shape in captured_shapes(5_000, 32)][-2:] == [4_864, 5_000]
    assert captured_shapes(20_000, 32)[-1].tokens == 16_384


def test_where_rows_come_in_whole_blocks_so_do_tokens_and_texts() -> None:
    shapes = captured_shapes(2_048, 32, rows=512)
    assert [shape.tokens for shape in shapes] == [512, 1_024, 1_536, 2_048]
    assert all(shape.texts == 512 for shape in shapes)


SMALL_MODEL, LARGE_MODEL = 440_000_000, 3_600_000_000
"""Linear parameters of the 0.6B and the 4B."""


def test_passes_with_long_texts_have_fewer_sizes_but_reach_as_far() -> None:
    found = [shape.tokens for shape in shapes_in_pieces(SHAPES, 2_048, SMALL_MODEL)]
    assert found[:7] == [2_048, 2_304, 2_560, 2_816, 3_072, 3_584, 4_096]
    assert found[7:] == [4_608, 5_120, 5_632, 6_144, 6_656, 7_168, 7_680, 8_192]
    odd = captured_shapes(5_000, 32)
    assert shapes_in_pieces(odd, 2_048, SMALL_MODEL)[-1].tokens == 5_000
    assert not shapes_in_pieces(captured_shapes(1_024, 32), 2_048, SMALL_MODEL)


def test_passes_that_compute_longer_than_they_launch_are_not_captured_in_pieces() -> None:
    assert [shape.tokens for shape in shapes_in_pieces(SHAPES, 2_048, LARGE_MODEL)] == [2_048]


def test_a_short_text_gets_the_smallest_pass() -> None:
    found = fitting(SHAPES, least([16]))
    assert found is not None
    assert found.tokens == 16


def test_what_is_larger_than_every_size_is_not_captured() -> None:
    assert fitting(SHAPES, least([8_193])) is None


def test_many_tiny_texts_get_a_size_with_room_for_each_of_them() -> None:
    found = fitting(SHAPES, least([1] * 40))
    assert found is not None
    assert found.texts >= 40


@given(some.lists(some.integers(16, 64), min_size=32, max_size=64))
def test_a_batch_of_single_texts_is_filled_up_by_a_quarter_at_most(lengths: list[int]) -> None:
    found = fitting(SHAPES, least(lengths))
    assert found is not None
    assert found.tokens <= 1.25 * sum(lengths)


@given(some.lists(some.integers(8, 128), min_size=1, max_size=16))
def test_usual_texts_are_padded_to_the_next_size_and_no_further(lengths: list[int]) -> None:
    found = fitting(SHAPES, least(lengths))
    assert found is not None
    assert found.holds(least(lengths))
    assert found == min(
        (shape for shape in SHAPES if shape.tokens >= sum(lengths)), key=lambda one: one.tokens
    )
