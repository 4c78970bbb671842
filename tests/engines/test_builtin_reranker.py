"""The reranker that ships with the project, on a handful of pairs."""

from __future__ import annotations

import numpy as np
import pytest

from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.models.description import describe
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.models.encoding.prompts import prompt_for
from embedfleet.models.source import RERANKER_DIRECTORY
from embedfleet.vocabulary import SCORE_WIDTH, Task, Truncation, Vectors
from tests.engines.kernels import INT8_WAYS, way

LISTS = (
    (
        "How long is the Great Wall?",
        "The Great Wall of China is 21,196 km long, with all of its branches.",
        "The Great Wall of China was built of stone, brick, wood and earth.",
        "The Mississippi River flows south from Lake Itasca to the Gulf of Mexico.",
    ),
    (
        "长城有多长？",
        "长城全长约两万一千一百九十六公里，包括所有分支。",
        "长城由石头、砖块、木材和泥土建成。",
        "密西西比河从伊塔斯卡湖向南流入墨西哥湾。",
    ),
    (
        "Which university did Nikola Tesla attend in 1875?",
        "In 1875, Tesla enrolled at Austrian Polytechnic in Graz, on a scholarship.",
        "Tesla was born an ethnic Serb in the village of Smiljan in 1856.",
        "Plants absorb light with the pigment chlorophyll, which makes them look green.",
    ),
)
"""A query, its answer, a document of the same subject, and one of another."""


def encodings(query: str, documents: tuple[str, ...]) -> list[np.ndarray]:
    model = describe(RERANKER_DIRECTORY)
    prompt = prompt_for(model.identity, None, None, query)
    encoded = Encoder(model).encode(documents, prompt=prompt, truncate=Truncation.NONE)
    return [one.ids for one in encoded]


@pytest.fixture(scope="module")
def pairs() -> list[np.ndarray]:
    return [ids for query, *documents in LISTS for ids in encodings(query, tuple(documents))]


@pytest.fixture(scope="module")
def reference(pairs: list[np.ndarray]) -> Vectors:
    """What NumPy computes in float32."""
    return load_engine(RERANKER_DIRECTORY, EngineOptions(kernels="numpy")).prepare(pairs)()


def test_it_is_recognised_and_has_no_instruction() -> None:
    identity = describe(RERANKER_DIRECTORY).identity
    assert identity.task is Task.RERANK
    assert identity.width == SCORE_WIDTH
    assert prompt_for(identity, None, "Rank", "sea?") == "Query:sea?<|endoftext|>"


def test_an_answer_scores_above_its_subject_and_that_above_another(reference: Vectors) -> None:
    scores = reference[:, 1].reshape(len(LISTS), 3) ** 2
    assert (scores[:, 0] > scores[:, 1]).all(), scores
    assert (scores[:, 1] > scores[:, 2]).all(), scores
    assert (scores[:, 2] < 0.1).all(), scores


@pytest.mark.parametrize("kernels", INT8_WAYS)
def test_int8_scores_are_those_of_float32(
    kernels: str, pairs: list[np.ndarray], reference: Vectors
) -> None:
    options = EngineOptions(dtype="int8", **way(kernels))
    found = load_engine(RERANKER_DIRECTORY, options).prepare(pairs)()
    np.testing.assert_allclose(found[:, 1] ** 2, reference[:, 1] ** 2, atol=0.05)
    assert np.array_equal(
        found[:, 1].reshape(-1, 3).argmax(1), reference[:, 1].reshape(-1, 3).argmax(1)
    )
