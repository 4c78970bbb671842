"""What the service offers, the client hands out: forms of vectors, scores, and several models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from embedfleet import AsyncClient, Client
from embedfleet.api.formats.embedding_request import RequestLimits
from embedfleet.client import EmbedOptions, EncodingFormat, OutputDtype, Progress, RefusedError
from embedfleet.client.wire import DTYPES
from tests.contract.computed_in_place import RERANKER, WIDTH, answering

TEXTS = [f"the river {n} runs to the sea" for n in range(40)]
QUERY = "Which river runs to the sea?"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with answering(tmp_path_factory.mktemp("model"), reranker=True) as found:
        yield found


@pytest.fixture(scope="module")
def full(url: str) -> Any:
    with Client(url) as client:
        return client.embed(TEXTS)


@pytest.mark.parametrize("kind", get_args(OutputDtype))
@pytest.mark.parametrize("way", get_args(EncodingFormat))
def test_numbers_of_every_kind_are_those_of_the_vector(
    url: str, full: Any, kind: OutputDtype, way: EncodingFormat
) -> None:
    with Client(url, encoding_format=way, texts_per_request=7) as client:
        found = client.embed(TEXTS, output_dtype=kind)
    assert found.dtype == DTYPES[kind]
    if "binary" in kind:
        bits: Any = found if kind == "ubinary" else found.view(np.uint8) ^ 0x80
        assert np.array_equal(np.unpackbits(bits, axis=1), full >= 0)
        return
    numbers = found.astype(np.float32) - (128 if kind == "uint8" else 0)
    cosines = np.sum(numbers * full, axis=1) / np.linalg.norm(numbers, axis=1)
    assert cosines.min() > (0.99 if kind == "fp8_e5m2" else 0.998)
    if kind == "float32":
        assert np.array_equal(found, full)


def test_integers_come_with_what_they_are_to_be_multiplied_with(url: str, full: Any) -> None:
    for way in get_args(EncodingFormat):
        with Client(url, encoding_format=way) as client:
            model = client.served_model()
            options = EmbedOptions(dimensions=32, output_dtype="int8")
            found = client.embed_each(TEXTS, options)
        assert found.scale == pytest.approx(model.scales[32])
        assert found.scale is not None
        cut = full[:, :32] / np.linalg.norm(full[:, :32], axis=1, keepdims=True)
        assert np.abs(found.vectors * found.scale - cut).max() <= found.scale


def test_a_text_that_is_refused_has_zeros_of_integers(url: str) -> None:
    with Client(url) as client:
        found = client.embed_each(["a", "", "b"], EmbedOptions(output_dtype="int8"))
        none = client.embed([], output_dtype="ubinary", dimensions=64)
    assert set(found.errors) == {1}
    assert not found.vectors[1].any()
    assert none.shape == (0, 8)
    assert none.dtype == np.uint8


@pytest.mark.parametrize("way", get_args(EncodingFormat))
def test_a_service_that_answers_item_by_item_changes_nothing(
    way: EncodingFormat, tmp_path: Path
) -> None:
    with (
        answering(tmp_path, limits=RequestLimits(by_item=True)) as url,
        Client(url, encoding_format=way) as client,
    ):
        found = client.embed_each(["a", "", "b"])
        assert np.array_equal(client.embed(["a", "b"]), found.vectors[[0, 2]])
    assert set(found.errors) == {1}


def test_what_the_service_tells_of_its_models_is_typed(url: str) -> None:
    with Client(url) as client:
        embedder, reranker = client.models()
        assert client.served_model(task="rerank") == reranker
        assert client.served_model(RERANKER) == reranker
        assert client.count_tokens(["a", "b"]) > 0
    assert (embedder.task, reranker.task) == ("embed", "rerank")
    assert (embedder.dimensions, embedder.knows_bytes) == (WIDTH, True)
    assert set(embedder.output_dtypes) == set(get_args(OutputDtype))


async def test_a_client_without_a_model_takes_the_one_for_the_task(url: str, full: Any) -> None:
    async with AsyncClient(url) as client:
        ranking = await client.rerank(QUERY, TEXTS)
        assert np.array_equal(await client.embed(TEXTS), full)
        named = await client.rerank(QUERY, TEXTS, model=RERANKER)
        with pytest.raises(RefusedError, match="rerank"):
            await client.embed(TEXTS, model=RERANKER)
    assert np.array_equal(named.scores, ranking.scores)


def test_documents_are_ranked_the_same_in_any_number_of_requests(url: str) -> None:
    seen: list[Progress] = []
    with Client(url) as client:
        whole = client.rerank(QUERY, TEXTS)
    with Client(url, texts_per_request=3) as client:
        parts = client.rerank(QUERY, TEXTS, top_n=5, progress=seen.append)
    assert np.array_equal(whole.scores, parts.scores)
    assert whole.order.tolist() == np.argsort(-whole.scores, kind="stable").tolist()
    assert parts.order.tolist() == whole.order[:5].tolist()
    assert whole.tokens == parts.tokens > 0
    assert seen[-1].done == len(TEXTS)
    assert ((whole.scores > 0) & (whole.scores < 1)).all()


def test_logits_and_instructions_go_to_the_service(url: str) -> None:
    with Client(url) as client:
        scores = client.rerank(QUERY, TEXTS).scores
        logits = client.rerank(QUERY, TEXTS, raw_scores=True).scores
        others = client.rerank(QUERY, TEXTS, instruction="Find lakes").scores
    assert np.allclose(1 / (1 + np.exp(-logits)), scores, atol=1e-5)
    assert not np.allclose(scores, others)


def test_a_document_that_is_refused_is_named_by_its_place(url: str) -> None:
    documents = [*TEXTS[:5], "to and fro " * 2000, *TEXTS[5:]]
    with Client(url, texts_per_request=2) as client:
        with pytest.raises(RefusedError) as caught:
            client.rerank(QUERY, documents, truncate=False)
        assert client.rerank(QUERY, documents).scores.shape == (len(documents),)
        assert client.rerank(QUERY, []).scores.shape == (0,)
        with pytest.raises(TypeError, match="list of strings"):
            client.rerank(QUERY, "a document")
        with pytest.raises(ValueError, match="top_n"):
            client.rerank(QUERY, TEXTS, top_n=0)
    assert caught.value.index == 5


def test_an_unsupported_number_format_is_refused_before_anything_is_requested() -> None:
    with (
        Client("http://127.0.0.1:1") as client,
        pytest.raises(ValueError, match="it must be one of: float32"),
    ):
        client.embed(["a"], output_dtype="int4")  # type: ignore[arg-type]
