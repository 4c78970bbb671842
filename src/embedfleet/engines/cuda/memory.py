"""Memory model of the CUDA engine: what a model and its passes take on a device.

Computed from sizes before anything is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from embedfleet.engines.architectures import Geometry
from embedfleet.vocabulary import Precision, SettingError

_MIB: Final = 1 << 20
RESERVED_MIB: Final = 1_536
"""For what is not counted here: the CUDA context, libraries' workspaces, captured graphs, and what
the allocator can't use of its blocks."""

_SMALLEST_BATCH: Final = 512
_SHORTEST_ADVISED: Final = 256
"""A model that takes shorter texts only is of no use."""

BLOCK_TOKENS: Final = 512
"""Queries of a long text that are computed at once where no kernel does without the scores."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a model asks of a device."""

    config: Geometry
    precision: Precision

    @property
    def linear_parameters(self) -> int:
        """Of all layers' matrices; a token is multiplied by each."""
        config = self.config
        queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
        return config.layers * config.hidden * (2 * queries + 2 * keys + 3 * config.intermediate)

    @property
    def weights_mib(self) -> int:
        table = self.config.vocabulary * self.config.hidden
        linear = 1 if self.precision is Precision.FP8 else self._wide
        return -(-(self.linear_parameters * linear + table * self._wide) // _MIB)

    def pass_mib(self, tokens: int, chunk_tokens: int) -> int:
        """Of one pass of `tokens` tokens whose MLP takes `chunk_tokens` at once."""
        config = self.config
        queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
        # At its widest: residual stream, its norm, queries with keys and values, attention's
        # result, and what cuDNN makes of it.
        kept = self._wide * (2 * config.hidden + 3 * queries + 4 * keys)
        # gate and up, their product, and the part that is still to be added.
        chunk = self._wide * (3 * config.intermediate + 2 * config.hidden)
        if self.precision is Precision.F32:
            # Scores of a block of queries with all keys, and their softmax.
            kept += 2 * self._wide * config.heads * BLOCK_TOKENS
        return -(-(tokens * kept + min(tokens, chunk_tokens) * chunk) // _MIB)

    def passes_mib(self, max_tokens: int, batch_tokens: int) -> int:
        """Of the longest text and a batch beside it."""
        longest = self.pass_mib(max(max_tokens, batch_tokens), batch_tokens)
        return longest + self.pass_mib(batch_tokens, batch_tokens)

    @property
    def _wide(self) -> int:
        return 4 if self.precision is Precision.F32 else 2


@dataclass(frozen=True, slots=True)
class Sizes:
    """What fits: tokens of a batch, and the memory that all of it takes."""

    batch_tokens: int
    """Also of the pieces of a long text."""
    limit_mib: int
    """Weights, the longest text's pass, a batch beside it and libraries."""


def chosen_sizes(
    need: Need,
    *,
    batch_tokens: int,
    max_tokens: int,
    wanted_mib: int | None,
    free_mib: int,
    total_mib: int,
) -> Sizes:
    """Fit batches into what a person allows (`wanted_mib`, weights not counted) and the device has
    free, of all that it has (`total_mib`).

    Two batches may be there at once, one of them a long text. Raises SettingError, with what would
    fit, when weights and a text of `max_tokens` tokens do not.
    """
    room = _room(need, wanted_mib, free_mib)
    smallest = min(batch_tokens, _SMALLEST_BATCH)
    least = need.passes_mib(max_tokens, smallest)
    if room < least:
        limit = f"memory_mib is {wanted_mib}" if wanted_mib is not None else "memory_mib is auto"
        raise SettingError(
            f"the model does not fit: its weights take {need.weights_mib} MiB in {need.precision}, "
            f"a text of {max_tokens} tokens {least} MiB, libraries {RESERVED_MIB} MiB; the device "
            f"has {free_mib} MiB free of {total_mib} and {limit}. "
            f"{_advice(need, max_tokens, wanted_mib, free_mib)}"
        )
    tokens = batch_tokens
    while tokens > smallest and need.passes_mib(max_tokens, tokens) > room:
        tokens = max(smallest, tokens // 2)
    passes = need.passes_mib(max_tokens, tokens)
    working = passes if wanted_mib is None else wanted_mib
    return Sizes(tokens, need.weights_mib + working + RESERVED_MIB)


def _room(need: Need, wanted_mib: int | None, free_mib: int) -> int:
    """For what is not weights, MiB."""
    room = free_mib - need.weights_mib - RESERVED_MIB
    return room if wanted_mib is None else min(room, wanted_mib)


def _advice(need: Need, max_tokens: int, wanted_mib: int | None, free_mib: int) -> str:
    """What would fit."""
    ways = []
    room = _room(need, wanted_mib, free_mib)
    tokens = max_tokens // 2
    while tokens and need.passes_mib(tokens, min(tokens, _SMALLEST_BATCH)) > room:
        tokens //= 2
    if tokens >= _SHORTEST_ADVISED:
        ways.append(f"max_tokens {tokens}")
    if need.precision is not Precision.FP8:
        smaller = Need(need.config, Precision.FP8)
        least = smaller.passes_mib(max_tokens, min(max_tokens, _SMALLEST_BATCH))
        if least <= _room(smaller, wanted_mib, free_mib):
            ways.append("dtype fp8")
    if not ways:
        return "Take a smaller model, or a GPU with more free memory."
    return f"What fits: {' or '.join(ways)}; else take a GPU with more free memory."
