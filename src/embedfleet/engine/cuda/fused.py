"""What happens between the matrix products, in Triton kernels.

Decides the shapes in which kernels are launched, all measured on an H200 (benchmarks/README.md).
Refuses to know the model's layers. `plain.py` says what each operation means.
"""

from __future__ import annotations

import math
from typing import Final

import torch
import triton
from torch import Tensor

from embedfleet.engine.checkpoint import Qwen3Config
from embedfleet.engine.cuda import kernels
from embedfleet.engine.cuda.linear import Ready
from embedfleet.engine.cuda.long_attention import LongAttention
from embedfleet.engine.cuda.plain import Rotation, Texts

TILE_ROWS: Final = 128
"""Rows of a tile of attention: query tokens times the heads that share a key head."""
TILE_KEYS: Final = 64
_GATE_COLUMNS: Final = 1_024


def packed_heads(config: Qwen3Config) -> int:
    """Query heads that a tile computes together: those of one key head, if a power of two."""
    group = config.heads // config.kv_heads
    return min(group & -group, TILE_ROWS)


def tile_tokens(config: Qwen3Config) -> int:
    return TILE_ROWS // packed_heads(config)


class FusedOperations:
    """In one kernel each; on CUDA devices, in bf16 or FP8."""

    def __init__(self, config: Qwen3Config, rotation: Rotation, *, fp8: bool) -> None:
        self._config = config
        self._rotation = rotation
        self._fp8 = fp8
        self._long = LongAttention(config)
        heads = math.gcd(config.heads, config.kv_heads)
        self._rotated_heads = min(heads & -heads, 8)

    def norm(self, x: Tensor, weight: Tensor, delta: Tensor | None) -> Ready:
        ready, scales = self._empty(len(x), x.shape[1], x)
        kernels.norm_kernel[(len(x),)](
            *(x, x if delta is None else delta, weight, ready.values, scales),
            *(self._config.epsilon, x.shape[1]),
            WIDTH=triton.next_power_of_2(x.shape[1]),
            ADDS=delta is not None,
            QUANTISES=self._fp8,
            num_warps=8,
        )
        return ready

    def ready(self, x: Tensor) -> Ready:
        if not self._fp8:
            return Ready(x)
        ready, scales = self._empty(len(x), x.shape[1], x)
        kernels.quantise_kernel[(len(x),)](
            *(x, ready.values, scales, x.shape[1]),
            WIDTH=triton.next_power_of_2(x.shape[1]),
            num_warps=8,
        )
        return ready

    def gate(self, gate_up: Tensor) -> Ready:
        rows, width = len(gate_up), gate_up.shape[1] // 2
        ready, scales = self._empty(rows, width, gate_up)
        # A scale needs the whole row at once.
        columns = triton.next_power_of_2(width) if self._fp8 else _GATE_COLUMNS
        kernels.gate_kernel[(rows, triton.cdiv(width, columns))](
            *(gate_up, ready.values, scales, width),
            WIDTH=columns,
            QUANTISES=self._fp8,
            num_warps=16 if self._fp8 else 4,
        )
        return ready

    def rotate(
        self, x: Tensor, positions: Tensor, norms: tuple[Tensor, Tensor], heads: tuple[int, int]
    ) -> None:
        together = self._rotated_heads
        kernels.rotate_kernel[(len(x), sum(heads) // together)](
            *(x, positions, self._rotation.cosines, self._rotation.sines, *norms),
            *(self._config.epsilon, x.stride(0), heads[0] // together),
            HEADS=together,
            HALF=self._config.head_dim // 2,
        )

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, texts: Texts, *, last: bool
    ) -> Tensor:
        config = self._config
        out = queries.new_empty(len(queries), config.heads * config.head_dim)
        tiles = texts.last_tiles if last else texts.tiles
        pack = packed_heads(config)
        if len(tiles):
            kernels.attention_kernel[(len(tiles) // 4, config.heads // pack)](
                *(queries, keys, values, out, tiles),
                config.head_dim**-0.5 / math.log(2),  # for powers of two instead of e
                *(queries.stride(0), keys.stride(0)),
                GROUP=config.heads // config.kv_heads,
                PACK=pack,
                ROWS=TILE_ROWS,
                KEYS=TILE_KEYS,
                WIDTH=config.head_dim,
                HEADS=config.heads,
                num_warps=8,
                num_stages=3,
            )
        if not last:
            for index in texts.layout.alone:
                begin, end = texts.layout.begins[index : index + 2].tolist()
                self._long.attend(queries, keys, values, out, begin, end)
        return out

    def unit(self, x: Tensor, weight: Tensor, delta: Tensor | None) -> Tensor:
        states = x if delta is None else x + delta
        out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
        kernels.unit_kernel[(len(x),)](
            *(states, weight, out, self._config.epsilon, x.shape[1]),
            WIDTH=triton.next_power_of_2(x.shape[1]),
            num_warps=8,
        )
        return out

    def _empty(self, rows: int, width: int, like: Tensor) -> tuple[Ready, Tensor]:
        """Room for a kernel's output; the second is where scales go, if there are any."""
        if not self._fp8:
            values = torch.empty(rows, width, dtype=like.dtype, device=like.device)
            return Ready(values), values
        values = torch.empty(rows, width, dtype=torch.float8_e4m3fn, device=like.device)
        scales = torch.empty(rows, 1, dtype=torch.float32, device=like.device)
        return Ready(values, scales), scales
