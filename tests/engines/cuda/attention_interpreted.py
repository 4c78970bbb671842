"""Attention over texts that share first tokens in Triton's interpreter, against plain torch.

For a process of its own: TRITON_INTERPRET=1 python -m tests.engines.cuda.attention_interpreted
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import torch

from embedfleet.engines.cuda.fused import TILES, FusedOperations
from embedfleet.engines.cuda.layout import lay_out
from embedfleet.engines.cuda.plain import Heads, Operations, PlainOperations, Rotation, parts_of
from embedfleet.engines.passes import SharingPass, sharing_passes
from embedfleet.engines.qwen3 import Qwen3Config
from embedfleet.engines.rope import cosines_and_sines
from embedfleet.vocabulary import Encoding
from tests.conformance.engine_conformance import random_tree
from tests.engines.cuda import interpreting  # noqa: F401

CONFIG = Qwen3Config(64, 1, 4, 2, 32, 64, 100, 1e-6, 1e6, 4_096, True)
QUERIES, KEYS = 128, 64


def attended(
    texts: list[Encoding], plan: SharingPass, operations: Operations, *, last: bool
) -> Sequence[torch.Tensor]:
    """What each token of each text sees, by text; rows are made of the tokens before them alone."""
    placed = [texts[place] for place in plan.places]
    layout = lay_out(
        [*map(len, placed)], tile_tokens=TILES.tokens(CONFIG), alone_from=1 << 30, sharing=plan
    )
    array = np.zeros(layout.shape.size, np.int32)
    layout.write(placed, layout.shape, array)
    _, lying = parts_of(torch.from_numpy(array), layout.shape, layout)
    rows = torch.cat(
        [made_of(text)[first:] for text, first in zip(placed, plan.shared, strict=True)]
    )
    queries, keys, values = rows.split([QUERIES, KEYS, KEYS], dim=1)
    if last:
        queries = queries[lying.pooled.long()]
    norms = torch.linspace(0.5, 1.5, 32), torch.linspace(1.5, 0.5, 32)
    heads = Heads(queries.clone(), keys.clone(), values.clone(), *norms)
    ready = operations.attend(heads, lying, last=last)
    found = ready.values.float() if ready.scales is None else ready.values.float() * ready.scales
    return [found] if last else found.split(np.diff(layout.begins).tolist())


def made_of(text: Encoding) -> torch.Tensor:
    """Random numbers [tokens, outputs] that depend on a token and those before it."""
    return torch.stack(
        [
            torch.randn(
                QUERIES + 2 * KEYS,
                generator=torch.Generator().manual_seed(hash(text[: end + 1].tobytes()) % 2**31),
            )
            for end in range(len(text))
        ]
    )


def far(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def main() -> int:
    """Print differences; 0 where they are those of float32 and FP8 and sharing changes no bit."""
    exact, same = compared(fp8=False)
    rounded, same_in_fp8 = compared(fp8=True)
    sys.stdout.write(f"{exact}, {same}; FP8: {rounded}, {same_in_fp8}\n")
    # The interpreter rounds to FP8 towards zero: by up to an eighth.
    return int(exact > 1e-6 or rounded > 0.125 or not (same and same_in_fp8))


def compared(*, fp8: bool) -> tuple[float, bool]:
    """How far attention is from plain torch's in float32, and whether sharing changes no bit."""
    rotation = Rotation(*map(torch.from_numpy, cosines_and_sines(CONFIG, 4_096)))
    fused = FusedOperations(CONFIG, rotation, fp8=fp8, early=False)
    plain = PlainOperations(CONFIG, rotation, fp8=False)
    texts = random_tree(np.random.default_rng(5), 50, texts=6)
    block = TILES.tokens(CONFIG)
    (shared,) = sharing_passes(texts, 1 << 20, block)
    (whole,) = sharing_passes(
        [texts[place] for place in shared.places], 1 << 20, block, causal=False
    )
    whole.places = shared.places
    worst, same = 0.0, shared.shares
    for last in (False, True):
        found, expected, alone = (
            attended(texts, plan, operations, last=last)
            for plan, operations in ((shared, fused), (shared, plain), (whole, fused))
        )
        for one, other, third in zip(found, expected, alone, strict=True):
            worst = max(worst, far(one, other))
            same = same and torch.equal(one, third[len(third) - len(one) :])
    return worst, same


if __name__ == "__main__":
    sys.exit(main())
