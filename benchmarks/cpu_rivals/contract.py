"""What a rival's module offers, and how texts are cut into passes for those that pad.

NumPy only: it is imported in every rival's environment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from benchmarks.cpu_workloads import Texts
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Embed = Callable[[Texts], Vectors]
"""Texts to vectors of unit length, in order."""

PASS_TOKENS: Final = 1_024
"""Padded tokens of a pass: what ONNX Runtime and OpenVINO run fastest with on two cores."""


class Rival(Protocol):
    """A module of this package."""

    def prepare(self, checkpoint: Path, target: Path) -> None:
        """Write the model in the rival's own format to `target`; done once, not timed."""

    def load(self, checkpoint: Path, target: Path, threads: int) -> Embed:
        """Load the model; timed."""


def sorted_passes(texts: Texts, most_texts: int, most_tokens: int) -> Iterator[NDArray[np.intp]]:
    """Indices of texts of similar length, a pass at a time."""
    order = np.argsort([len(text) for text in texts], kind="stable")
    start = 0
    for stop in range(1, len(order) + 1):
        full = stop == len(order)
        if not full:
            padded = len(texts[order[stop]]) * (stop + 1 - start)
            full = padded > most_tokens or stop - start == most_texts
        if full:
            yield order[start:stop]
            start = stop


def unit(rows: Vectors) -> Vectors:
    """Rows at length 1."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Vectors = rows / lengths
    return scaled
