"""Published values of Qwen3-Embedding-0.6B, reproduced from text to vector.

Runs where EMBEDFLEET_TEST_MODELS names a folder that holds `Qwen3-Embedding-0.6B`, as downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.models.description import describe
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.vocabulary import Truncation, Vectors

PROMPT = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
)
QUERIES = ["What is the capital of China?", "Explain gravity"]
DOCUMENTS = [
    "The capital of China is Beijing.",
    (
        "Gravity is a force that attracts two bodies towards each other. It gives weight to "
        "physical objects and is responsible for the movement of planets around the sun."
    ),
]
SCORES = [[0.7645568251609802, 0.14142508804798126], [0.13549736142158508, 0.5999549627304077]]
"""The model's README, computed with transformers in float32."""
HELLO_WORLD = [-0.01476084, 0.01723184, -0.01195498, -0.07275258, 0.00281229]
"""First dimensions of the document "hello world", from fastembed's tests (float32, ONNX)."""

Embed = Callable[[list[str], str], Vectors]


@pytest.fixture(scope="module")
def model() -> Path:
    folder = os.environ.get("EMBEDFLEET_TEST_MODELS")
    if folder is None:
        pytest.skip("set EMBEDFLEET_TEST_MODELS to a folder that holds Qwen3-Embedding-0.6B")
    directory = Path(folder) / "Qwen3-Embedding-0.6B"
    if not directory.is_dir():
        pytest.skip(f"{directory} is not there")
    return directory


def embedder(model: Path, dtype: str) -> Embed:
    encoder = Encoder(describe(model))
    engine = load_engine(model, EngineOptions(dtype=dtype, max_tokens=512))

    def embed(texts: list[str], prompt: str) -> Vectors:
        encoded = encoder.encode(texts, prompt=prompt, truncate=Truncation.NONE)
        return engine.prepare([one.ids for one in encoded])()

    return embed


@pytest.fixture(scope="module")
def f32(model: Path) -> Embed:
    return embedder(model, "f32")


def test_float32_reproduces_the_score_matrix_of_the_readme(f32: Embed) -> None:
    scores = f32(QUERIES, PROMPT) @ f32(DOCUMENTS, "").T
    np.testing.assert_allclose(scores, SCORES, atol=1e-4)


def test_float32_reproduces_the_first_dimensions_that_fastembed_tests_with(f32: Embed) -> None:
    np.testing.assert_allclose(f32(["hello world"], "")[0, :5], HELLO_WORLD, atol=1e-3)


def test_int8_stays_close_to_the_score_matrix(model: Path) -> None:
    embed = embedder(model, "int8")
    scores = embed(QUERIES, PROMPT) @ embed(DOCUMENTS, "").T
    np.testing.assert_allclose(scores, SCORES, atol=0.03)
