"""Which sizes of small passes are captured as CUDA graphs, and which of them serves a pass.

Pure: decides from counts alone. Refuses to know what a graph is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from embedfleet.engine.cuda.layout import Shape

CAPTURED_TOKENS: Final = (16, 32, 64, 128, 192, 256, 384, 512, 768, 1_024, 1_280, 1_536, 2_048)
"""Above the largest, Python is faster than the device in any case. Matrix units compute whole tiles
of 64 or 128 rows, so most of what is between two sizes costs nothing."""

_FEWEST_TEXTS: Final = 8
_TOKENS_PER_TEXT: Final = 8


def captured_shapes(largest: int, tile_tokens: int) -> list[Shape]:
    """The sizes to capture, smallest first, for passes of at most `largest` tokens."""
    return [_shape(tokens, tile_tokens) for tokens in CAPTURED_TOKENS if tokens <= largest]


def _shape(tokens: int, tile_tokens: int) -> Shape:
    # Every text may leave one tile begun. Texts are rarely shorter than a few tokens; where they
    # are, a larger size serves.
    texts = min(tokens, max(_FEWEST_TEXTS, tokens // _TOKENS_PER_TEXT))
    return Shape(tokens, texts, tokens // tile_tokens + texts)


def fitting(shapes: Iterable[Shape], wanted: Shape) -> Shape | None:
    """The first of `shapes` that holds `wanted`."""
    return next((shape for shape in shapes if shape.holds(wanted)), None)
