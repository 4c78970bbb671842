"""The golden vectors and pairs that ship for the built-in models."""

from __future__ import annotations

import pytest

from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.models.description import describe
from embedfleet.models.golden.vectors import compare, known_file, read
from embedfleet.models.source import BUILT_IN
from embedfleet.vocabulary import Precision


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_model_has_golden_vectors_and_both_precisions_reproduce_them(name: str) -> None:
    """A change of the weights without new golden vectors (`embedfleet golden make`) fails here."""
    description = describe(BUILT_IN[name])
    path = known_file(description.identity.revision)
    assert path is not None, (
        f"embedfleet golden make {name} -o src/embedfleet/models/golden/known/…"
    )
    golden = read(path)
    for dtype in (Precision.F32, Precision.INT8):
        engine = load_engine(BUILT_IN[name], EngineOptions(dtype=dtype.value, threads=1))
        verdict = compare(golden, engine.prepare(golden.encodings)(), dtype)
        engine.close()

        assert verdict.passed, verdict.reason
