"""Memory model of the native engine: bytes of a pass beside the weights, and what fits a budget.

Pure: computed from sizes before anything runs, following `kernels/pass.c` and `kernels/model.c`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from embedfleet.engines.architectures import Geometry
from embedfleet.engines.memory import MIB, granted_mib
from embedfleet.engines.native.library import Numbers

_INDEX_BYTES: Final = 64
"""Of positions, places and tasks, of a token."""


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """What a pass may take beside the weights, in MiB."""

    config: Geometry
    numbers: Numbers
    threads: int
    mib: int

    def batch_tokens(self, wanted: int) -> int:
        """The largest pass that fits whatever its texts are, up to `wanted` tokens."""
        left = self.mib * MIB - _scratch_bytes(self.config, self.numbers, self.threads)
        return max(1, min(wanted, left // _single_bytes(self.config, self.numbers)))


def needed_mib(config: Geometry, numbers: Numbers, threads: int, tokens: int) -> int:
    """The least budget in MiB with which a text of `tokens` tokens runs; it is one pass."""
    longest = _single_bytes(config, numbers) + tokens * _token_bytes(config)
    return -(-(longest + _scratch_bytes(config, numbers, threads)) // MIB)


def chosen_mib(
    config: Geometry, numbers: Numbers, threads: int, max_tokens: int, wanted: int | None
) -> int:
    """The budget in MiB: the configured one, or enough for the longest text.

    Raises SettingError when texts of `max_tokens` tokens can't be computed with what is wanted.
    """
    return granted_mib(needed_mib(config, numbers, threads, max_tokens), max_tokens, wanted)


def _token_bytes(config: Geometry) -> int:
    """Of a token of a long text: its state and queries, keys and values of a layer, in float32.

    And its cosines and sines, in tables that may be twice as long as the text. On a processor with
    instructions for bfloat16, int8 keeps keys and values in half of what is reckoned here.
    """
    queries, keys = _widths(config)
    floats = config.hidden + queries + 2 * keys + 2 * config.head_dim
    return 4 * floats + _INDEX_BYTES


def _single_bytes(config: Geometry, numbers: Numbers) -> int:
    """Of a text of one token, which takes a whole block of keys.

    State and queries of a text's last token are kept twice.
    """
    queries, keys = _widths(config)
    return 4 * (2 * config.hidden + 2 * queries + 2 * numbers.key_block * keys) + 2 * _INDEX_BYTES


def _scratch_bytes(config: Geometry, numbers: Numbers, threads: int) -> int:
    """Of what threads work on: a block's rows and their keys, made ready, gated."""
    queries, keys = _widths(config)
    widest, inner = max(queries, config.hidden, config.intermediate), config.intermediate
    row = widest + -(-inner // numbers.group_inputs) + keys + inner
    rows = max(numbers.block_rows, numbers.few_rows * threads) + (threads - 1) * numbers.block_rows
    return 4 * rows * row


def _widths(config: Geometry) -> tuple[int, int]:
    """Of all query heads, and of all key heads."""
    return config.heads * config.head_dim, config.kv_heads * config.head_dim
