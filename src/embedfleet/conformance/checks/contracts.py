"""Checks of the other APIs: Cohere's, text-embeddings-inference's, Ollama's,
Azure's and Google's.

Each must give the vectors that `/embeddings` gives, in the form that its own clients read, and
errors where they look for them.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from embedfleet.conformance.check import Suite
from embedfleet.conformance.checks.inputs import TEXTS
from embedfleet.conformance.exchange import Answer, Floats, Violation, accepted, expect, same
from embedfleet.conformance.service import Service

suite = Suite("contracts")

EMPTY = ["a text", ""]
"""Texts of which one is refused by every API."""


async def asked(service: Service, path: str, **fields: Any) -> Answer:
    """Ask at a path below the service's root."""
    return await service.call("POST", path, json.dumps(fields).encode(), root=True)


async def expected(service: Service, **fields: Any) -> Floats:
    """What OpenAI's API gives."""
    return accepted(await service.embed(list(TEXTS), **fields), texts=len(TEXTS)).vectors


def matrix(rows: Any, answer: Answer, kind: Any = np.float32) -> Any:
    """Rows of numbers, one for each text."""
    try:
        found = np.array(rows, kind)
    except (ValueError, TypeError, OverflowError):
        raise Violation("vectors must be lists of numbers of one length", answer) from None
    right = found.ndim == 2 and len(found) == len(TEXTS)
    expect(right, f"there must be {len(TEXTS)} vectors of one length", answer)
    return found


def told(answer: Answer, *fields: str, status: int = 200) -> dict[str, Any]:
    """The object of an answer, which must have these fields."""
    expect(answer.status == status, f"the status must be {status}", answer)
    found = answer.json
    expect(isinstance(found, dict), "the answer must be an object", answer)
    for field in fields:
        expect(field in found, f"the answer must have `{field}`", answer)
    return dict(found)


@suite.extension
async def cohere_s_v2_gives_every_type_of_the_same_vectors(service: Service) -> None:
    answer = await asked(
        service,
        "/v2/embed",
        model=service.model,
        texts=TEXTS,
        input_type="search_document",
        embedding_types=["float", "int8", "ubinary"],
    )
    found = told(answer, "embeddings", "meta")["embeddings"]
    expect(isinstance(found, dict), "`embeddings` must be by type", answer)
    expect({"float", "int8", "ubinary"} <= set(found), "every type must be there", answer)
    floats = matrix(found["float"], answer)
    same(floats, await expected(service, input_type="document"), "Cohere's vectors must be those")
    bytes_ = matrix(found["int8"], answer, np.int8)
    same(bytes_.astype(np.float32), floats, "int8 must be the same vectors, rounded")
    bits = np.packbits(floats >= 0, axis=1)
    right = np.array_equal(matrix(found["ubinary"], answer, np.uint8), bits)
    expect(right, "a bit must be set where a number is not negative", answer)


@suite.extension
async def cohere_s_v1_gives_plain_lists_where_no_types_are_named(service: Service) -> None:
    answer = await asked(service, "/v1/embed", model=service.model, texts=TEXTS)
    rows = told(answer, "embeddings")["embeddings"]
    same(matrix(rows, answer), await expected(service), "Cohere's vectors must be those")


@suite.extension
async def cohere_s_errors_are_in_message(service: Service) -> None:
    answer = await asked(service, "/v2/embed", model=service.model, texts=EMPTY)
    message = told(answer, "message", status=400)["message"]
    expect(isinstance(message, str) and "texts[1]" in message, "it must name the text", answer)


@suite.extension
async def tei_s_embed_gives_a_bare_list(service: Service) -> None:
    answer = await asked(service, "/embed", inputs=TEXTS, model=service.model)
    expect(answer.status == 200, "the status must be 200", answer)
    same(matrix(answer.json, answer), await expected(service), "TEI's vectors must be those")


@suite.extension
async def tei_s_prompt_name_is_the_prompt_of_a_query(service: Service) -> None:
    answer = await asked(service, "/embed", inputs=TEXTS, model=service.model, prompt_name="query")
    expect(answer.status == 200, "the status must be 200", answer)
    queries = await expected(service, input_type="query")
    same(matrix(answer.json, answer), queries, "the prompt must be put before each text")


@suite.extension
async def tei_s_errors_have_a_type(service: Service) -> None:
    answer = await asked(service, "/embed", inputs=EMPTY, model=service.model)
    found = told(answer, "error", "error_type", status=400)
    expect(found["error_type"] == "Validation", '`error_type` must be "Validation"', answer)
    expect(isinstance(found["error"], str), "`error` must be a string", answer)


@suite.extension
async def tei_s_tokenize_gives_the_ids_with_their_places(service: Service) -> None:
    answer = await asked(service, "/tokenize", inputs=TEXTS, model=service.model)
    expect(answer.status == 200, "the status must be 200", answer)
    ours = told(await asked(service, "/tokenize", input=TEXTS, model=service.model), "data")
    ids = [[token["id"] for token in tokens] for tokens in answer.json]
    right = ids == [each["tokens"] for each in ours["data"]]
    expect(right, "the ids must be those that vectors are computed from", answer)
    for text, tokens in zip(TEXTS, answer.json, strict=True):
        for token in tokens:
            if not token["special"]:
                piece = text[token["start"] : token["stop"]]
                expect(token["text"] == piece, "a token's text must be at its place", answer)


@suite.extension
async def ollama_s_embed_gives_embeddings_and_their_tokens(service: Service) -> None:
    answer = await asked(service, "/api/embed", model=service.model, input=TEXTS)
    found = told(answer, "model", "embeddings", "prompt_eval_count")
    same(matrix(found["embeddings"], answer), await expected(service), "vectors must be those")
    tokens = accepted(await service.embed(list(TEXTS))).tokens
    expect(found["prompt_eval_count"] == tokens, f"it must count {tokens} tokens", answer)


@suite.extension
async def ollama_s_embeddings_gives_the_vector_of_one_text(service: Service) -> None:
    answer = await asked(service, "/api/embeddings", model=service.model, prompt=TEXTS[0])
    row = np.array(told(answer, "embedding")["embedding"], np.float32)
    one = accepted(await service.embed(TEXTS[0])).vectors
    same(np.atleast_2d(row), one, "the vector must be that of the text")


@suite.extension
async def ollama_lists_the_model(service: Service) -> None:
    answer = await service.call("GET", "/api/tags", root=True)
    names = [each.get("name") for each in told(answer, "models")["models"]]
    listed = {service.model, f"{service.model}:latest"} & set(names)
    expect(bool(listed), f"{service.model} must be listed", answer)


@suite.extension
async def ollama_s_errors_are_a_string(service: Service) -> None:
    answer = await asked(service, "/api/embed", model="no-such-model", input=TEXTS)
    error = told(answer, "error", status=404)["error"]
    expect(isinstance(error, str), "`error` must be a string", answer)


@suite.extension
async def azure_s_path_names_the_model(service: Service) -> None:
    path = f"/openai/deployments/{service.model}/embeddings?api-version=2024-10-21"
    answer = await asked(service, path, model="text-embedding-3-small", input=list(TEXTS))
    found = accepted(answer, texts=len(TEXTS))
    same(found, await expected(service), "the deployment's vectors must be the model's")
    wrong = await asked(service, path.replace(service.model, "no-such-model"), input="x")
    expect(wrong.status == 404, "an unknown deployment must be answered 404", wrong)


@suite.extension
async def google_s_batch_gives_values_and_their_tokens(service: Service) -> None:
    path = f"/v1beta/models/{service.model}:batchEmbedContents"
    requests = [{"content": {"parts": [{"text": text}]}} for text in TEXTS]
    answer = await asked(service, path, requests=requests)
    found = told(answer, "embeddings", "usageMetadata")
    rows = [each.get("values") for each in found["embeddings"]]
    same(matrix(rows, answer), await expected(service), "vectors must be those of /embeddings")
    tokens = accepted(await service.embed(list(TEXTS))).tokens
    right = found["usageMetadata"].get("promptTokenCount") == tokens
    expect(right, f"it must count {tokens} tokens", answer)


@suite.extension
async def google_s_errors_have_a_status(service: Service) -> None:
    path = "/v1beta/models/no-such-model:embedContent"
    answer = await asked(service, path, content={"parts": [{"text": TEXTS[0]}]})
    error = told(answer, "error", status=404)["error"]
    right = isinstance(error, dict) and error.get("status") == "NOT_FOUND"
    expect(right, "`error.status` must be NOT_FOUND", answer)
