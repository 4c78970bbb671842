"""What fits a memory budget."""

from __future__ import annotations

import pytest

from embedfleet.engines.cpu.memory import MemoryBudget, chosen_mib, needed_mib
from embedfleet.engines.qwen3 import Qwen3Config
from embedfleet.vocabulary import SettingError

QWEN_06B = Qwen3Config(1024, 28, 16, 8, 128, 3072, 151_669, 1e-6, 1e6, 32_768, tied=True)
QWEN_8B = Qwen3Config(4096, 36, 32, 8, 128, 12_288, 151_665, 1e-6, 1e6, 40_960, tied=False)


def test_the_default_memory_suffices_for_the_published_models() -> None:
    assert chosen_mib(QWEN_06B, 32_768, None) == 1_024
    assert chosen_mib(QWEN_8B, 40_960, None) == needed_mib(QWEN_8B, 40_960) > 1_024


def test_a_budget_that_cannot_hold_the_longest_text_is_refused_with_both_ways_out() -> None:
    with pytest.raises(SettingError, match=r"memory_mib is 100.*32768.*lower max_tokens"):
        chosen_mib(QWEN_06B, 32_768, 100)
    assert chosen_mib(QWEN_06B, 2_048, 100) == 100


def test_short_texts_go_through_at_once_and_long_ones_in_chunks() -> None:
    budget = MemoryBudget(QWEN_06B, 1_024)
    assert budget.fits_whole(4_096)
    assert not budget.fits_whole(32_768)
    assert budget.chunk_tokens(32_768, 1_024) == 1_024


def test_a_small_budget_makes_smaller_batches_and_chunks_of_whole_blocks() -> None:
    budget = MemoryBudget(QWEN_06B, 600)
    assert budget.batch_tokens(100_000) < 10_000
    chunk = budget.chunk_tokens(24_000, 1_000)
    assert 32 <= chunk < 1_000
    assert chunk % 32 == 0


def test_with_padded_attention_the_longest_text_must_fit_whole() -> None:
    assert needed_mib(QWEN_06B, 32_768, padded=True) > 3 * needed_mib(QWEN_06B, 32_768)
    with pytest.raises(SettingError, match=r"memory_mib is 1024.*lower max_tokens"):
        chosen_mib(QWEN_06B, 32_768, 1_024, padded=True)
    assert chosen_mib(QWEN_06B, 8_192, 1_024, padded=True) == 1_024
    assert MemoryBudget(QWEN_06B, 1_024, padded=True).fits_whole(32_768)


@pytest.mark.parametrize("tokens", [1, 16, 31, 300, 2_048, 32_768])
def test_the_least_budget_for_texts_holds_a_pass_of_the_batch_size_it_gives(tokens: int) -> None:
    budget = MemoryBudget(QWEN_06B, needed_mib(QWEN_06B, tokens))
    assert budget.fits_whole(budget.batch_tokens(1_024))
    assert budget.fits_whole(budget.chunk_tokens(tokens, 1_024))
