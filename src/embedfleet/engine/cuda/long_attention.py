"""Attention of one long text, by cuDNN's kernels for Hopper.

Decides how many rows cuDNN is asked for. It prepares a plan for every size that it has not seen, so
sizes are rounded up: what lies behind a text's end is hidden from it by causality, and its own rows
are thrown away. Refuses to know which texts count as long.
"""

from __future__ import annotations

from typing import Final

from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from embedfleet.engine.checkpoint import Qwen3Config

_STEPS: Final = 8
"""Sizes between one power of two and the next: at most an eighth is computed in vain."""
_SMALLEST: Final = 256


class LongAttention:
    """Causal attention of texts, one by one."""

    def __init__(self, config: Qwen3Config) -> None:
        self._config = config

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, out: Tensor, begin: int, end: int
    ) -> None:
        """Of the text in rows `begin` to `end`, into those rows of `out`."""
        heads, kv_heads = self._config.heads, self._config.kv_heads
        size = padded_size(end - begin)
        # Keys and values behind the end are hidden, but 0 times another text's NaN would be NaN.
        padding = (0, 0, 0, size - (end - begin))
        keys, values = (functional.pad(x[begin:end], padding) for x in (keys, values))
        if begin + size > len(queries):
            queries, begin_of_queries = functional.pad(queries[begin:end], padding), 0
        else:
            begin_of_queries = begin
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            attended = functional.scaled_dot_product_attention(
                self._split(queries[begin_of_queries : begin_of_queries + size], heads),
                self._split(keys, kv_heads),
                self._split(values, kv_heads),
                is_causal=True,
                enable_gqa=True,
            )
        out[begin:end] = attended[0].transpose(0, 1)[: end - begin].flatten(1)

    def _split(self, x: Tensor, heads: int) -> Tensor:
        """Rows as heads, [1, heads, rows, head_dim]; a view."""
        return x.unflatten(1, (heads, self._config.head_dim)).transpose(0, 1).unsqueeze(0)


def padded_size(tokens: int) -> int:
    """The least of the sizes that cuDNN is asked for which holds `tokens`."""
    step = max(_SMALLEST, (1 << (tokens - 1).bit_length()) // 2 // _STEPS)
    return -(-tokens // step) * step
