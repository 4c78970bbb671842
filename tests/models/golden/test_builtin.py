"""The golden vectors that ship for the built-in model."""

from __future__ import annotations

from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.models.description import describe
from embedfleet.models.golden.vectors import compare, known_file, read
from embedfleet.models.source import BUILTIN_DIRECTORY
from embedfleet.vocabulary import Precision


def test_the_built_in_model_has_golden_vectors_and_both_precisions_reproduce_them() -> None:
    """A change of the weights without new golden vectors (`embedfleet golden make`) fails here."""
    description = describe(BUILTIN_DIRECTORY)
    path = known_file(description.identity.revision)
    assert path is not None, (
        "embedfleet golden make builtin -o src/embedfleet/models/golden/known/…"
    )
    golden = read(path)
    for dtype in (Precision.F32, Precision.INT8):
        engine = load_engine(BUILTIN_DIRECTORY, EngineOptions(dtype=dtype.value, threads=1))
        verdict = compare(golden, engine.prepare(golden.encodings)(), dtype)
        engine.close()

        assert verdict.passed, verdict.reason
