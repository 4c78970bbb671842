"""The model that ships with the project, on real texts."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

import embedfleet
from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.engines.pooling import finite_rows
from embedfleet.models.description import describe
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.vocabulary import Encoding, Truncation, Vectors
from tests.engines.kernels import INT8_WAYS, way
from tests.real_texts import passages

BUILTIN = Path(embedfleet.__file__).parent / "models" / "builtin"


@cache
def in_float32(language: str) -> tuple[list[Encoding], Vectors]:
    """Passages, and their vectors: in float32 every way of computing has the same ones."""
    encoded = Encoder(describe(BUILTIN)).encode(
        passages(f"xquad/xquad.{language}.json")[:8], prompt="", truncate=Truncation.END
    )
    texts = [one.ids for one in encoded]
    return texts, load_engine(BUILTIN, EngineOptions(dtype="f32")).prepare(texts)()


@pytest.mark.parametrize("kernels", INT8_WAYS)
@pytest.mark.parametrize("language", ["en", "zh", "ar"])
def test_int8_keeps_the_directions_of_float32(language: str, kernels: str) -> None:
    """Real activations have outlier channels that random weights lack; int8 must bear them."""
    texts, f32 = in_float32(language)
    int8 = load_engine(BUILTIN, EngineOptions(dtype="int8", **way(kernels))).prepare(texts)()
    assert finite_rows(f32).all()
    assert finite_rows(int8).all()
    cosines = np.einsum("ij,ij->i", f32, int8)
    assert cosines.mean() > 0.999
    assert cosines.min() > 0.998
