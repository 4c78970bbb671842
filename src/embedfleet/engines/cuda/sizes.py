"""Selects the pass sizes that are captured as CUDA graphs, and the graph that fits a pass. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from embedfleet.engines.cuda.layout import Shape, rounded_up

CAPTURED_TOKENS: Final = (
    *(16, 32, 64, 128, 192, 256, 384, 512, 640, 768, 896, 1_024, 1_280, 1_536, 1_792),
    *(2_048, 2_304, 2_560, 2_816, 3_072, 3_584),
    *range(4_096, 8_192, 256),
    *range(8_192, 16_385, 512),
)
"""Up to the largest batch. A pass of 8,192 tokens takes the device 12 ms (0.6B, H200) and Python 4
to name its kernels, but each of the three hundred calls waits for the interpreter's lock, which the
thread that answers requests holds for up to half a millisecond. Matrix units compute whole tiles of
64 or 128 rows, so most of what is between two sizes costs nothing."""

_LAUNCH_BOUND: Final = 8_000_000_000_000
"""Multiplications of linear layers in a pass that an H200 computes about as fast as Python launches
it, 15 to 30 ms: 18,000 tokens of the 0.6B, 2,200 of the 4B. Pieces cost longer passes up to 4 % for
a copy of each layer's attention and for padding."""

_FEWEST_TEXTS: Final = 8
_TOKENS_PER_TEXT: Final = 8


def captured_shapes(largest: int, tile_tokens: int, rows: int = 1) -> list[Shape]:
    """The sizes to capture, smallest first, for passes of at most `largest` tokens.

    `rows`: what every number of rows must be a multiple of.
    """
    sizes = [tokens for tokens in CAPTURED_TOKENS if tokens < largest and not tokens % rows]
    sizes += [largest] if largest <= CAPTURED_TOKENS[-1] and not largest % rows else []
    return [rounded_up(_shape(tokens, tile_tokens), rows) for tokens in sizes]


def _shape(tokens: int, tile_tokens: int) -> Shape:
    # Every text may leave one tile begun. Texts are rarely shorter than a few tokens; where they
    # are, a larger size serves.
    texts = min(tokens, max(_FEWEST_TEXTS, tokens // _TOKENS_PER_TEXT))
    return Shape(tokens, texts, tokens // tile_tokens + texts)


def shapes_in_pieces(
    shapes: Sequence[Shape], least_tokens: int, linear_parameters: int
) -> list[Shape]:
    """Of `shapes`, smallest first, those to capture in pieces as well: from `least_tokens` on, as
    long as launching a pass takes longer than computing it.

    Eight at most between a power of two and the next, and the largest: passes with long texts take
    so long that more sizes would gain less than their capture costs.
    """
    return [
        shape
        for shape in shapes
        if least_tokens <= shape.tokens <= _LAUNCH_BOUND // linear_parameters
        and (shape is shapes[-1] or not shape.tokens % _eighth(shape.tokens))
    ]


def _eighth(tokens: int) -> int:
    """Of the largest power of two up to `tokens`."""
    return max(1, (1 << (tokens.bit_length() - 1)) // 8)


def fitting(shapes: Iterable[Shape], wanted: Shape) -> Shape | None:
    """The first of `shapes` that holds `wanted`."""
    return next((shape for shape in shapes if shape.holds(wanted)), None)
