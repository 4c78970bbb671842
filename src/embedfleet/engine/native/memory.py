"""How much memory a pass takes beside the weights, and what therefore fits a budget.

Decides from sizes alone, before anything runs. Refuses to know how memory is allocated; the numbers
are those of `kernels/pass.c` and `kernels/model.c`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from embedfleet.engine.checkpoint import Qwen3Config
from embedfleet.engine.memory import MIB, granted_mib
from embedfleet.engine.native.weights import groups

BLOCK_ROWS: Final = 192
"""Tokens that a thread takes through a layer at a time."""
FEW_ROWS: Final = 24
"""Times the threads: a pass of fewer tokens is computed by all threads together."""
KEY_BLOCK: Final = 16
"""Keys and values of a text take memory for a multiple of so many tokens."""
_INDEX_BYTES: Final = 64
"""Of positions, places and tasks, of a token."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a pass may take beside the weights, in MiB."""

    config: Qwen3Config
    threads: int
    mib: int

    def batch_tokens(self, wanted: int) -> int:
        """The largest pass that fits whatever its texts are, up to `wanted` tokens."""
        left = self.mib * MIB - _scratch_bytes(self.config, self.threads)
        return max(1, min(wanted, left // _single_bytes(self.config)))


def needed_mib(config: Qwen3Config, threads: int, tokens: int) -> int:
    """The least budget in MiB with which a text of `tokens` tokens runs; it is one pass."""
    longest = _single_bytes(config) + tokens * _token_bytes(config)
    return -(-(longest + _scratch_bytes(config, threads)) // MIB)


def chosen_mib(config: Qwen3Config, threads: int, max_tokens: int, wanted: int | None) -> int:
    """The budget in MiB: what somebody wants, or enough for the longest text.

    Raises SettingError when texts of `max_tokens` tokens can't be computed with what is wanted.
    """
    return granted_mib(needed_mib(config, threads, max_tokens), max_tokens, wanted)


def _token_bytes(config: Qwen3Config) -> int:
    """Of a token of a long text: its state and queries, keys and values of a layer, in float32.

    And its cosines and sines, in tables that may be twice as long as the text. On a processor with
    instructions for bfloat16, int8 keeps keys and values in half of what is reckoned here.
    """
    queries, keys = _widths(config)
    floats = config.hidden + queries + 2 * keys + 2 * config.head_dim
    return 4 * floats + _INDEX_BYTES


def _single_bytes(config: Qwen3Config) -> int:
    """Of a text of one token, which takes a whole block of keys.

    State and queries of a text's last token are kept twice.
    """
    queries, keys = _widths(config)
    return 4 * (2 * config.hidden + 2 * queries + 2 * KEY_BLOCK * keys) + 2 * _INDEX_BYTES


def _scratch_bytes(config: Qwen3Config, threads: int) -> int:
    """Of what threads work on: a block's rows and their keys, made ready, gated."""
    queries, keys = _widths(config)
    widest, inner = max(queries, config.hidden, config.intermediate), config.intermediate
    row = widest + groups(inner) + keys + inner
    rows = max(BLOCK_ROWS, FEW_ROWS * threads) + (threads - 1) * BLOCK_ROWS
    return 4 * rows * row


def _widths(config: Qwen3Config) -> tuple[int, int]:
    """Of all query heads, and of all key heads."""
    return config.heads * config.head_dim, config.kv_heads * config.head_dim
