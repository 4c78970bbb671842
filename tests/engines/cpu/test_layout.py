"""How texts lie in one pass."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.engines.cpu.layout import (
    Rotations,
    chunk_of_text,
    side_by_side,
    whole_texts,
)
from embedfleet.engines.passes import padded_passes, passes
from embedfleet.engines.qwen3 import Qwen3Config

CONFIG = Qwen3Config(64, 2, 4, 2, 32, 96, 50, 1e-6, 1e6, 4_096, tied=True)


def test_texts_lie_end_to_end_in_blocks_of_their_own() -> None:
    layout = whole_texts([3, 33, 1])
    assert (layout.tokens, layout.texts, layout.blocks) == (37, 3, 4)
    assert layout.positions.tolist() == [0, 1, 2, *range(33), 0]
    found = {name: values.tolist() for name, values in layout.indices.items()}
    assert found == {
        "pooled": [2, 35, 36],
        "past": [0, 0, 0],
        "begins": [0, 3, 36, 37],
        "blocks": [0, 1, 2, 3],
        "block_begins": [0, 1, 3, 4],
        "longest": 33,
    }


def test_a_later_chunk_sees_the_blocks_before_it() -> None:
    layout = chunk_of_text(64, 100, seen=64)
    assert layout.positions.tolist() == list(range(64, 100))
    found = {name: values.tolist() for name, values in layout.indices.items()}
    assert found == {
        "pooled": [35],
        "past": [64],
        "begins": [0, 36],
        "blocks": [0, 1, 2, 3],
        "block_begins": [0, 4],
        "longest": 100,
    }


def test_a_chunk_that_sees_nothing_still_fills_its_own_blocks() -> None:
    layout = chunk_of_text(64, 96, seen=0)
    assert layout.positions.tolist() == list(range(64, 96))
    assert layout.indices["blocks"].tolist() == [2]
    assert layout.indices["past"].tolist() == [0]
    assert layout.indices["longest"] == 32


def test_texts_side_by_side_are_padded_with_their_own_last_token() -> None:
    layout = side_by_side([1, 3, 2])
    assert (layout.tokens, layout.texts, layout.blocks) == (6, 3, 0)
    assert layout.positions.tolist() == [0, 0, 1, 2, 0, 1]
    found = {name: values.tolist() for name, values in layout.indices.items()}
    assert found == {
        "pooled": [0, 3, 5],
        "grid": [[0, 0, 0], [1, 2, 3], [4, 5, 5]],
        "places": [0, 3, 4, 5, 6, 7],
    }
    assert {values.dtype for values in layout.indices.values()} == {np.dtype(np.int32)}


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40))
def test_every_token_finds_its_own_row_again_in_the_grid(lengths: list[int]) -> None:
    layout = side_by_side(lengths)
    rows = layout.indices["grid"].reshape(-1)[layout.indices["places"]]
    assert rows.tolist() == list(range(sum(lengths)))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 100))
def test_padded_passes_cover_the_batch_in_order_and_count_the_padding(
    lengths: list[int], batch_tokens: int
) -> None:
    cuts = list(padded_passes(lengths, batch_tokens))
    assert [length for cut in cuts for length in lengths[cut]] == lengths
    for cut in cuts:
        within = lengths[cut]
        assert len(within) == 1 or len(within) * max(within) <= batch_tokens
    for cut, following in pairwise(cuts):
        joined = [*lengths[cut], lengths[following.start]]
        assert len(joined) * max(joined) > batch_tokens  # none could have been larger


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 100))
def test_passes_cover_the_batch_in_order_and_overflow_only_for_single_texts(
    lengths: list[int], batch_tokens: int
) -> None:
    cuts = list(passes(lengths, batch_tokens))
    assert [length for cut in cuts for length in lengths[cut]] == lengths
    for cut in cuts:
        assert lengths[cut]
        assert sum(lengths[cut]) <= batch_tokens or len(lengths[cut]) == 1


def test_rotations_keep_lengths_and_start_with_none() -> None:
    cosine, sine = Rotations(CONFIG).at(np.array([0, 1, 3_000], np.int32))
    assert cosine.shape == sine.shape == (3, 1, 1, 32)
    np.testing.assert_allclose(cosine**2 + sine**2, 1, atol=1e-6)
    assert (cosine[0] == 1).all()
    assert (sine[0] == 0).all()


@pytest.mark.parametrize("position", [1, 511, 512, 4_000])
def test_rotations_follow_the_formula_before_and_after_the_table_grew(position: int) -> None:
    cosine, _ = Rotations(CONFIG).at(np.array([position], np.int32))
    exact = np.cos(position * 1e6 ** (-np.arange(16) / 16))
    np.testing.assert_allclose(cosine[0, 0, 0], np.tile(exact, 2), atol=4e-4)


class ReadAtEachWrite(Rotations):
    """Between any two of its writes another thread may read; here one always does."""

    reading = False

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if self.reading:
            cosines, sines = self.at(np.array([0, 600], np.int32))
            assert cosines.shape == sines.shape


def test_tables_may_be_read_while_another_thread_makes_them_longer() -> None:
    rotations = ReadAtEachWrite(CONFIG)
    rotations.__dict__["reading"] = True
    cosines, sines = rotations.at(np.array([700], np.int32))
    np.testing.assert_allclose(cosines**2 + sines**2, 1.0, rtol=1e-6)
