"""Memory model of the OpenVINO engine: bytes per token, and what fits a budget.

Computed from sizes before anything runs: the largest text that passes through the whole model at
once, and the chunk size for longer ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from embedfleet.engines.cpu.layout import BLOCK_TOKENS
from embedfleet.engines.memory import MIB, granted_mib
from embedfleet.engines.qwen3 import Qwen3Config

_SMALLEST_CHUNK: Final = 256
"""Tokens; the speed of the linear layers falls below."""


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """What passes may take beside the weights, in MiB."""

    config: Qwen3Config
    mib: int
    padded: bool = False
    """Whether attention is padded; then every text goes through the model at once."""

    @property
    def _bytes(self) -> int:
        return self.mib * MIB

    def fits_whole(self, tokens: int) -> bool:
        """Whether a pass of `tokens` tokens may go through the whole model at once."""
        return self.padded or tokens * _pass_bytes(self.config) <= self._bytes

    def batch_tokens(self, wanted: int) -> int:
        """The largest pass that fits, up to `wanted` tokens."""
        return max(BLOCK_TOKENS, min(wanted, self._bytes // _pass_bytes(self.config)))

    def chunk_tokens(self, tokens: int, wanted: int) -> int:
        """Chunk of a long text of `tokens` tokens, up to `wanted`; whole blocks."""
        left = self._bytes - tokens * _kept_bytes(self.config)
        fitting = min(wanted, left // _pass_bytes(self.config))
        return max(BLOCK_TOKENS, fitting // BLOCK_TOKENS * BLOCK_TOKENS)


def needed_mib(config: Qwen3Config, tokens: int, *, padded: bool = False) -> int:
    """The least budget in MiB with which a text of `tokens` tokens runs at full speed."""
    if padded:
        tokens = max(tokens, BLOCK_TOKENS)
        mask = tokens  # bytes for each of its tokens
        return -(-tokens * (_pass_bytes(config) + mask) // MIB)
    chunk = max(BLOCK_TOKENS, min(tokens, _SMALLEST_CHUNK))
    return -(-(tokens * _kept_bytes(config) + chunk * _pass_bytes(config)) // MIB)


def chosen_mib(
    config: Qwen3Config, max_tokens: int, wanted: int | None, *, padded: bool = False
) -> int:
    """The budget in MiB: the configured one, or enough for the longest text.

    Raises SettingError when texts of `max_tokens` tokens can't be computed with what is wanted.
    """
    return granted_mib(needed_mib(config, max_tokens, padded=padded), max_tokens, wanted)


def _pass_bytes(config: Qwen3Config) -> int:
    """Of one token while it goes through a layer.

    Float32 at its widest moment: measured as growth of resident memory at 8,192 tokens of the
    0.6B geometry, which was 95 KB a token; this formula says 98.
    """
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    return 4 * (4 * config.hidden + 3 * config.intermediate + 3 * queries + 5 * keys)


def _kept_bytes(config: Qwen3Config) -> int:
    """Of one token of a long text between layers: its state, and the keys and values of a layer.

    The attention node keeps a rearranged copy of the keys and values while it runs.
    """
    return 4 * (config.hidden + 4 * config.kv_heads * config.head_dim)
