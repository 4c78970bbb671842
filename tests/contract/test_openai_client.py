"""OpenAI's own client works as with the original, sync and async."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import numpy as np
import openai
import pytest

TEXTS = ["The river flows to the sea.", "Bread is made of flour.", "天空是蓝色的。"]


@pytest.fixture
def client(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url, api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
async def async_client(base_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as made:
        yield made


def test_the_article_s_snippet_works(base_url: str, model: str) -> None:
    with openai.Client(base_url=base_url, api_key="EMPTY") as client:
        response = client.embeddings.create(model=model, input="How are you today?")
    assert len(response.data[0].embedding[:5]) == 5
    assert response.model == model
    assert response.usage.prompt_tokens == response.usage.total_tokens > 0


def test_its_default_encoding_and_floats_are_the_same_numbers(
    client: openai.OpenAI, model: str
) -> None:
    default = client.embeddings.create(model=model, input=TEXTS)
    floats = client.embeddings.create(model=model, input=TEXTS, encoding_format="float")
    for one, other in zip(default.data, floats.data, strict=True):
        assert one.index == other.index
        np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-3)


def test_dimensions_and_token_ids_work(client: openai.OpenAI, model: str) -> None:
    response = client.embeddings.create(
        model=model, input=[[5, 6, 7], [8]], dimensions=32, user="u"
    )
    assert [len(one.embedding) for one in response.data] == [32, 32]


def test_our_fields_go_through_extra_body(client: openai.OpenAI, model: str) -> None:
    plain, query, task = (
        client.embeddings.create(model=model, input=TEXTS[0], extra_body=extra)
        for extra in (None, {"input_type": "query"}, {"instruction": "Find the river."})
    )
    assert plain.usage.prompt_tokens < task.usage.prompt_tokens < query.usage.prompt_tokens


def test_models_are_listed_and_retrieved(client: openai.OpenAI, model: str) -> None:
    assert model in [card.id for card in client.models.list()]
    assert client.models.retrieve(model).object == "model"


def test_errors_are_the_client_s_own(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.embeddings.create(model=model, input=["a", ""])
    assert bad.value.param == "input[1]"
    assert bad.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.embeddings.create(model="no-such-model", input="a")
    assert unknown.value.code == "model_not_found"


async def test_the_async_client_works_alike(
    async_client: openai.AsyncOpenAI, client: openai.OpenAI, model: str
) -> None:
    response = await async_client.embeddings.create(model=model, input=TEXTS)
    expected = client.embeddings.create(model=model, input=TEXTS)
    for one, other in zip(response.data, expected.data, strict=True):
        np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-3)
    with pytest.raises(openai.BadRequestError):
        await async_client.embeddings.create(model=model, input="")
