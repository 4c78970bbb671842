"""The kernels of encoders in Triton's interpreter, against plain torch; for a process of its own.

TRITON_INTERPRET=1 python -m tests.engines.cuda.bert_kernels_interpreted
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from embedfleet.engines.bert import EncoderConfig
from embedfleet.engines.cuda.bert import PlainEncoderOperations
from embedfleet.engines.cuda.bert_kernels import FusedEncoderOperations
from embedfleet.engines.cuda.layout import lay_out
from embedfleet.engines.cuda.plain import parts_of
from tests.engines.cuda import interpreting  # noqa: F401

LENGTHS = (1, 2, 63, 64, 65, 128, 130, 5)


def main() -> int:
    """Print the largest differences; 0 where they are those of float32."""
    layout = lay_out(LENGTHS, tile_tokens=64, alone_from=1 << 30, causal=False)
    array = np.zeros(layout.shape.size, np.int32)
    layout.write([np.zeros(n, np.int32) for n in LENGTHS], layout.shape, array)
    _, texts = parts_of(torch.from_numpy(array), layout.shape, layout)
    worst = 0.0
    for heads in (2, 4):
        config = EncoderConfig(128, 1, heads, 128 // heads, 64, 100, 1e-12, 512, 0, 2)
        fused, plain = FusedEncoderOperations(config), PlainEncoderOperations(config)
        mixed, x = torch.randn(sum(LENGTHS), 3 * 128), torch.randn(sum(LENGTHS), 128)
        for found, expected in (
            (fused.attend(mixed, texts), plain.attend(mixed, texts)),
            (fused.mean(x, texts), plain.mean(x, texts)),
        ):
            difference = float((found - expected).abs().max())
            sys.stdout.write(f"heads of {128 // heads}: {difference}\n")
            worst = max(worst, difference)
    return int(worst > 1e-5)


if __name__ == "__main__":
    sys.exit(main())
