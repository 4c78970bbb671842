"""The operations between matrix products as fused Triton kernels.

Launch shapes were measured on an H200 (benchmarks/README.md). `plain.py` defines each operation in
plain torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
import triton
from torch import Tensor

from embedfleet.engines.cuda import kernels
from embedfleet.engines.cuda.attention_kernel import attention_kernel
from embedfleet.engines.cuda.layout import TILE
from embedfleet.engines.cuda.linear import Ready
from embedfleet.engines.cuda.long_attention import LongAttention, groups
from embedfleet.engines.cuda.plain import Heads, Rotation, Texts
from embedfleet.engines.qwen3 import Qwen3Config

_GATE_COLUMNS: Final = 1_024
_NORM_WARPS: Final = 4
_GATE_WARPS: Final = 8


@dataclass(frozen=True, slots=True)
class TileShape:
    """What one program of the attention kernel computes at a time, and with what."""

    rows: int
    """Query tokens times the heads that share a key head."""
    keys: int
    """Of a block."""
    warps: int
    stages: int
    """Blocks of keys under way."""
    registers: int | None = None
    """The most that a thread may use; None: as many as the compiler wants."""

    def packed_heads(self, config: Qwen3Config) -> int:
        """Query heads that a tile computes together: those of one key head, if a power of two."""
        group = config.heads // config.kv_heads
        return min(group & -group, self.rows)

    def tokens(self, config: Qwen3Config) -> int:
        """Query tokens of a tile."""
        return self.rows // self.packed_heads(config)


TILES: Final = TileShape(rows=64, keys=32, warps=4, stages=3)
"""Of so few keys that several tiles have room on a processor and hide each other's waiting."""


class FusedOperations:
    """In one kernel each; on CUDA devices, in bf16 or FP8."""

    def __init__(
        self,
        config: Qwen3Config,
        rotation: Rotation,
        *,
        fp8: bool,
        early: bool,
        tiles: TileShape = TILES,
    ) -> None:
        """`early`: whether the device brings kernels up while others still run."""
        self._tiles = tiles
        self._turn = {"EARLY": early} | ({"launch_pdl": True} if early else {})
        self._config = config
        self._rotation = rotation
        self._fp8 = fp8
        self._long = LongAttention(config)
        heads = math.gcd(config.heads, config.kv_heads)
        self._rotated_heads = min(heads & -heads, 8)

    def norm(self, x: Tensor, weight: Tensor, delta: Tensor | None) -> Ready:
        ready = self._empty(len(x), x.shape[1], x)
        kernels.norm_kernel[(len(x),)](
            *(x, x if delta is None else delta, weight, ready.values, _scales(ready)),
            *(self._config.epsilon, x.shape[1]),
            **_pieces(x.shape[1]),
            ADDS=delta is not None,
            QUANTISES=self._fp8,
            num_warps=_NORM_WARPS,
            **self._turn,
        )
        return ready

    def gate(self, gate_up: Tensor) -> Ready:
        rows, width = len(gate_up), gate_up.shape[1] // 2
        ready = self._empty(rows, width, gate_up)
        if self._fp8:
            kernels.gate_quantise_kernel[(rows,)](
                *(gate_up, ready.values, _scales(ready), width),
                **_pieces(width),
                num_warps=_GATE_WARPS,
                **self._turn,
            )
        else:
            kernels.gate_kernel[(rows, triton.cdiv(width, _GATE_COLUMNS))](
                *(gate_up, ready.values, width),
                WIDTH=_GATE_COLUMNS,
                num_warps=4,
                **self._turn,
            )
        return ready

    def room(self, heads: Heads) -> Ready:
        return self._empty(len(heads.queries), heads.queries.shape[1], heads.queries)

    def attend(self, heads: Heads, texts: Texts, *, last: bool, into: Ready | None = None) -> Ready:
        asking = heads.queries
        largest = None
        if self._fp8:
            largest = torch.empty(len(heads.keys), dtype=torch.float32, device=heads.keys.device)
        self._rotate(heads.keys, texts.positions, heads.key_norm, heads.values, largest)
        ready = self.room(heads) if into is None else into
        tiles = texts.last_tiles if last else texts.tiles
        if len(tiles):
            self._attend_tiles(heads, tiles, ready, largest)
        for group in () if last else groups(texts.layout):
            rows = slice(group.begin, group.begin + group.count * group.tokens)
            queries = asking[rows]
            self._rotate(queries, texts.positions[rows], heads.query_norm)
            found = self._long.attend(queries, heads.keys[rows], heads.values[rows], group)
            if self._fp8:
                self._quantise(found.reshape(queries.shape), ready, group.begin)
            elif into is None and len(queries) == len(asking):  # nothing to copy together
                return Ready(found.reshape(asking.shape))
            else:
                ready.values[rows].view(found.shape).copy_(found)
        return ready

    def _attend_tiles(
        self, heads: Heads, tiles: Tensor, out: Ready, largest: Tensor | None
    ) -> None:
        """Tiles norm and turn their queries themselves: one trip through memory less.

        `largest` magnitudes of each token's values, for a result in FP8.
        """
        config, shape = self._config, self._tiles
        pack = shape.packed_heads(config)
        scales = _scales(out)
        attention_kernel[(len(tiles) // TILE, config.heads // pack)](
            *(heads.queries, heads.keys, heads.values, out.values, scales),
            *(scales if largest is None else largest, tiles),
            *(self._rotation.cosines, self._rotation.sines, heads.query_norm, config.epsilon),
            config.head_dim**-0.5 / math.log(2),  # for powers of two instead of e
            *(heads.queries.stride(0), heads.keys.stride(0)),
            GROUP=config.heads // config.kv_heads,
            PACK=pack,
            ROWS=shape.rows,
            KEYS=shape.keys,
            WIDTH=config.head_dim,
            HEADS=config.heads,
            QUANTISES=largest is not None,
            num_warps=shape.warps,
            num_stages=shape.stages,
            maxnreg=shape.registers,
            **self._turn,
        )

    def _rotate(
        self,
        x: Tensor,
        positions: Tensor,
        norm: Tensor,
        values: Tensor | None = None,
        largest: Tensor | None = None,
    ) -> None:
        """Norm and RoPE of the heads in the rows of `x`, in place; the largest magnitudes of the
        rows of `values` into `largest`, if that is given."""
        together, width = self._rotated_heads, self._config.head_dim
        seen = x if values is None else values
        kernels.rotate_kernel[(len(x), x.shape[1] // width // together)](
            *(x, positions, self._rotation.cosines, self._rotation.sines, norm),
            *(seen, x if largest is None else largest),
            *(self._config.epsilon, x.stride(0), seen.shape[1]),
            HEADS=together,
            HALF=width // 2,
            VALUES=0 if largest is None else triton.next_power_of_2(seen.shape[1]),
            **self._turn,
        )

    def _quantise(self, x: Tensor, out: Ready, begin: int) -> None:
        """Rows of `x` in FP8, from row `begin` of `out` on."""
        kernels.quantise_kernel[(len(x),)](
            *(x, out.values, _scales(out), begin, x.shape[1]),
            WIDTH=triton.next_power_of_2(x.shape[1]),
            num_warps=8,
            **self._turn,
        )

    def unit(self, x: Tensor, weight: Tensor, delta: Tensor | None) -> Tensor:
        states = x if delta is None else x + delta
        out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
        kernels.unit_kernel[(len(x),)](
            *(states, weight, out, self._config.epsilon, x.shape[1]),
            WIDTH=triton.next_power_of_2(x.shape[1]),
            num_warps=8,
            **self._turn,
        )
        return out

    def _empty(self, rows: int, width: int, like: Tensor) -> Ready:
        """Room for a kernel's output."""
        if not self._fp8:
            return Ready(torch.empty(rows, width, dtype=like.dtype, device=like.device))
        values = torch.empty(rows, width, dtype=torch.float8_e4m3fn, device=like.device)
        return Ready(values, torch.empty(rows, 1, dtype=torch.float32, device=like.device))


def _scales(ready: Ready) -> Tensor:
    """Where a kernel stores scales; it stores none where there are none."""
    return ready.values if ready.scales is None else ready.scales


def _pieces(width: int) -> dict[str, int]:
    """Columns that hold a row of which a kernel needs all at once: a power of two, and one for the
    rest."""
    first = 1 << (width.bit_length() - 1)
    return {"FIRST": first, "REST": triton.next_power_of_2(max(width - first, 1))}
