"""Selects the operations that a device computes with, by device and precision.

Triton is loaded only where there is a GPU for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch

from embedfleet.engines.bert import EncoderConfig
from embedfleet.engines.cuda.bert import EncoderOperations, PlainEncoderOperations
from embedfleet.engines.cuda.devices import brings_up_early
from embedfleet.engines.cuda.linear import FewRows
from embedfleet.engines.cuda.pieces import SplitOperations
from embedfleet.engines.cuda.plain import Operations, PlainOperations, Rotation
from embedfleet.engines.qwen3 import Qwen3Config
from embedfleet.engines.rope import cosines_and_sines
from embedfleet.vocabulary import Precision

FIXED_ROWS: Final = 512
"""Rows of every product in the deterministic mode: the fewest that run at full speed."""
FEW_FIXED_ROWS: Final = 64
"""The same on a processor, where nobody waits for matrix units."""
ALONE_FROM: Final = 2_048
"""Tokens from which on a text's attention is computed by cuDNN; below, tiles are as fast."""
_NEVER: Final = 1 << 30
_PLAIN_TILE: Final = 16
"""No tiles are computed there; texts share first tokens in whole ones."""


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Kit:
    """What a device computes with."""

    operations: Operations | EncoderOperations
    tile_tokens: int
    """Query tokens of a tile of attention. Texts share whole tiles of first tokens, so that a query
    is beside the same ones whether it shares or not."""
    alone_from: int
    """Texts of so many tokens get attention of their own instead of tiles."""
    captures: bool
    """Whether small passes are captured as CUDA graphs."""
    fixed_rows: int | None
    """Rows of every product, where bits must not depend on what is beside a text."""
    few_rows: FewRows | None = None
    warm_up_tokens: tuple[int, ...] = ()
    """Texts to compute before the first real one: one for each kind of kernels."""
    load_libraries: Callable[[], None] = _nothing
    """Loads what takes long and only some texts need; from any thread, beside all else."""
    enough_tokens: int = FIXED_ROWS
    """Tokens at which the device is as fast as with any more."""
    split: SplitOperations | None = None
    """`operations` for passes with texts that get attention of their own: those are captured in
    pieces, where this is not None."""
    causal: bool = True
    """Whether tokens see those up to them, and not all of their text."""


def chosen_kit(
    config: Qwen3Config,
    device: torch.device,
    *,
    precision: Precision,
    max_tokens: int,
    deterministic: bool,
) -> Kit:
    """Fused kernels on GPUs; plain torch elsewhere, and where numbers must be true float32."""
    table = cosines_and_sines(config, max_tokens)
    rotation = Rotation(*(torch.from_numpy(each).to(device) for each in table))
    on_gpu = device.type == "cuda"
    rows = FIXED_ROWS if on_gpu else FEW_FIXED_ROWS
    fixed_rows = rows if deterministic else None
    fp8 = precision is Precision.FP8
    if not on_gpu or precision is Precision.F32:
        plain = PlainOperations(config, rotation, fp8=fp8)
        return Kit(plain, _PLAIN_TILE, _NEVER, captures=False, fixed_rows=fixed_rows)
    from embedfleet.engines.cuda.few_rows import FewRowsKernel  # noqa: PLC0415
    from embedfleet.engines.cuda.fused import TILES, FusedOperations  # noqa: PLC0415
    from embedfleet.engines.cuda.long_attention import load_cudnn  # noqa: PLC0415

    early = brings_up_early(device)
    fused = FusedOperations(config, rotation, fp8=fp8, early=early)
    return Kit(
        fused,
        TILES.tokens(config),
        ALONE_FROM,
        captures=True,
        fixed_rows=fixed_rows,
        few_rows=None if deterministic else FewRowsKernel(device, early=early),
        load_libraries=partial(load_cudnn, config, device),
        warm_up_tokens=(ALONE_FROM - 1, ALONE_FROM, 2 * ALONE_FROM),
        split=fused,
    )


def encoder_kit(
    config: EncoderConfig, device: torch.device, *, precision: Precision, deterministic: bool
) -> Kit:
    """The same for encoders; heads that are no power of two have no kernel of ours."""
    on_gpu = device.type == "cuda"
    fixed_rows = (FIXED_ROWS if on_gpu else FEW_FIXED_ROWS) if deterministic else None
    if not on_gpu or precision is Precision.F32 or config.head_dim & (config.head_dim - 1):
        plain = PlainEncoderOperations(config)
        return Kit(plain, 64, _NEVER, captures=False, fixed_rows=fixed_rows, causal=False)
    from embedfleet.engines.cuda.bert_kernels import (  # noqa: PLC0415
        TILE_TOKENS,
        FusedEncoderOperations,
    )

    return Kit(
        FusedEncoderOperations(config),
        TILE_TOKENS,
        _NEVER,
        captures=True,
        fixed_rows=fixed_rows,
        warm_up_tokens=(config.max_positions,),
        causal=False,
    )
