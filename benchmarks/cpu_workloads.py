"""What the benchmark of the CPU engine computes: geometries and texts, the same for all engines.

NumPy only, as rivals run in environments without the project's dependencies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tests.checkpoints import LARGE, Geometry

GEOMETRIES: Final = {
    "small": Geometry(384, 6, 6, 2, 64, 1_536, vocabulary=12_000),
    "0.6b": LARGE,
}
"""`small` is of the size of the built-in model, `0.6b` that of Qwen3-Embedding-0.6B."""

Texts = list[NDArray[np.int32]]


@dataclass(frozen=True, slots=True)
class Workload:
    """Texts that are computed in one call."""

    name: str
    lengths: tuple[int, ...]

    @property
    def single(self) -> bool:
        return len(self.lengths) == 1

    @property
    def even(self) -> bool:
        """Whether a part of the texts has the rate of all: they are all of one length."""
        return len(set(self.lengths)) == 1

    def tokens(self, every: int = 1) -> int:
        """Of every `every`th text; of even texts, rivals that take long compute such a part."""
        return sum(self.lengths[::every])

    def texts(self, vocabulary: int, every: int = 1) -> Texts:
        rng = np.random.default_rng(7)
        texts = [rng.integers(0, vocabulary, length).astype(np.int32) for length in self.lengths]
        return texts[::every]


def _mix(count: int) -> tuple[int, ...]:
    """Lognormal with a median of 70 tokens, cut to 8..512: questions and passages."""
    lengths = np.random.default_rng(11).lognormal(np.log(70), 0.9, count)
    return tuple(int(length) for length in np.clip(lengths, 8, 512))


WORKLOADS: Final = (
    Workload("64 x 32", (32,) * 64),
    Workload("16 x 128", (128,) * 16),
    Workload("4 x 512", (512,) * 4),
    Workload("mix", _mix(32)),
    Workload("1 x 16", (16,)),
    Workload("1 x 128", (128,)),
)
