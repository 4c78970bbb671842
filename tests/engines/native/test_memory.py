"""What fits a memory budget, where a long text is one pass."""

from __future__ import annotations

import pytest

from embedfleet.engines.native.library import Numbers
from embedfleet.engines.native.memory import MemoryBudget, chosen_mib, needed_mib
from embedfleet.engines.qwen3 import Qwen3Config
from embedfleet.vocabulary import SettingError

QWEN_06B = Qwen3Config(1024, 28, 16, 8, 128, 3072, 151_669, 1e-6, 1e6, 32_768, tied=True)
QWEN_8B = Qwen3Config(4096, 36, 32, 8, 128, 12_288, 151_665, 1e-6, 1e6, 40_960, tied=False)

NUMBERS = Numbers(
    block_rows=192,
    few_rows=24,
    key_block=16,
    group_inputs=256,
    inputs=64,
    outputs=32,
    most_head_dim=256,
    most_sharing=48,
)


def test_nobody_has_to_choose_for_the_published_models() -> None:
    assert chosen_mib(QWEN_06B, NUMBERS, 2, 32_768, None) == 1_024
    assert (
        chosen_mib(QWEN_8B, NUMBERS, 16, 40_960, None)
        == needed_mib(QWEN_8B, NUMBERS, 16, 40_960)
        > 1_024
    )


def test_a_budget_that_cannot_hold_the_longest_text_is_refused_with_both_ways_out() -> None:
    with pytest.raises(SettingError, match=r"memory_mib is 100.*32768.*lower max_tokens"):
        chosen_mib(QWEN_06B, NUMBERS, 2, 32_768, 100)
    assert chosen_mib(QWEN_06B, NUMBERS, 2, 2_048, 100) == 100


def test_a_small_budget_makes_smaller_batches() -> None:
    assert MemoryBudget(QWEN_06B, NUMBERS, 2, 1_024).batch_tokens(1_024) == 1_024
    assert 1 <= MemoryBudget(QWEN_06B, NUMBERS, 2, 60).batch_tokens(1_024) < 1_024


@pytest.mark.parametrize("threads", [1, 2, 96])
@pytest.mark.parametrize("tokens", [1, 31, 300, 2_048, 32_768])
def test_the_least_budget_for_a_text_holds_a_pass(tokens: int, threads: int) -> None:
    budget = MemoryBudget(
        QWEN_06B, NUMBERS, threads, needed_mib(QWEN_06B, NUMBERS, threads, tokens)
    )
    assert budget.batch_tokens(1) == 1
