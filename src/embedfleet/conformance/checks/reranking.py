"""Checks of `/rerank` as Jina and vLLM define it, and `/score` as vLLM does."""

from __future__ import annotations

import json
from typing import Any

from embedfleet.conformance.check import Suite
from embedfleet.conformance.exchange import Answer, expect, refused
from embedfleet.conformance.service import Service

suite = Suite("reranking")

QUERY = "How long is the Great Wall of China?"
DOCUMENTS = [
    "The Great Wall of China is 21,196 km long.",
    "Bread is made of flour and water.",
    "长城全长两万一千多公里。",
    "The river flows to the sea.",
]
CLOSE = 1e-3
"""How far scores of one pair may lie apart: batches round differently."""


async def asked(service: Service, path: str = "/rerank", **fields: Any) -> Answer:
    body = {"model": service.model} | fields
    return await service.call("POST", path, json.dumps(body).encode())


async def ranked(service: Service, documents: list[str], **fields: Any) -> list[dict[str, Any]]:
    """Results of a right request, looked at for their order and form."""
    answer = await asked(service, query=QUERY, documents=documents, **fields)
    expect(answer.status == 200, "documents must be ranked", answer)
    found: list[dict[str, Any]] = answer.json["results"]
    scores = [one["relevance_score"] for one in found]
    expect(all(isinstance(each, float) for each in scores), "scores must be numbers", answer)
    expect(scores == sorted(scores, reverse=True), "the best must come first", answer)
    return found


async def scores_of(service: Service, documents: list[str], **fields: Any) -> list[float]:
    """In the order of the documents."""
    found = await ranked(service, documents, **fields)
    by_place = {one["index"]: one["relevance_score"] for one in found}
    expect(sorted(by_place) == list(range(len(documents))), "each document must have its place")
    return [by_place[place] for place in range(len(documents))]


def close(one: list[float], other: list[float]) -> bool:
    return all(abs(a - b) <= CLOSE for a, b in zip(one, other, strict=True))


@suite.required
async def documents_come_back_best_first_with_their_places(service: Service) -> None:
    await scores_of(service, DOCUMENTS)


@suite.required
async def the_order_of_documents_changes_no_score(service: Service) -> None:
    there = await scores_of(service, DOCUMENTS)
    back = await scores_of(service, DOCUMENTS[::-1])
    expect(close(there, back[::-1]), "a document must have the same score at another place")


@suite.required
async def a_document_has_the_same_score_alone(service: Service) -> None:
    together = await scores_of(service, DOCUMENTS)
    alone = [(await scores_of(service, [each]))[0] for each in DOCUMENTS]
    expect(close(together, alone), "a document must have the same score alone")


@suite.required
async def top_n_keeps_the_best(service: Service) -> None:
    every, best = await ranked(service, DOCUMENTS), await ranked(service, DOCUMENTS, top_n=2)
    expect(len(best) == 2, "two documents must be answered")
    expect(
        [one["index"] for one in best] == [one["index"] for one in every[:2]],
        "those must be the best two",
    )


@suite.required
async def documents_are_returned_where_they_are_asked_for(service: Service) -> None:
    for one in await ranked(service, DOCUMENTS, return_documents=True):
        document = one["document"]
        text = document["text"] if isinstance(document, dict) else document
        expect(text == DOCUMENTS[one["index"]], "a result must have the text of its document")


@suite.required
async def usage_counts_more_tokens_for_more_documents(service: Service) -> None:
    few = await asked(service, query=QUERY, documents=DOCUMENTS[:1])
    many = await asked(service, query=QUERY, documents=DOCUMENTS)
    counts = [each.json["usage"]["total_tokens"] for each in (few, many)]
    expect(0 < counts[0] < counts[1], "usage must count the tokens of all documents", many)


@suite.required
async def a_score_is_that_of_reranking(service: Service) -> None:
    answer = await asked(service, "/score", text_1=QUERY, text_2=DOCUMENTS)
    expect(answer.status == 200, "pairs must be scored", answer)
    found = [one["score"] for one in answer.json["data"]]
    expect(close(found, await scores_of(service, DOCUMENTS)), "a pair must have one score", answer)


@suite.extension
async def scores_are_probabilities(service: Service) -> None:
    found = await scores_of(service, DOCUMENTS)
    expect(all(0 <= score <= 1 for score in found), "scores must be from 0 to 1")


@suite.extension
async def a_document_that_is_too_long_is_cut_and_named(service: Service) -> None:
    long = "to and fro " * service.max_tokens
    answer = await asked(service, query=QUERY, documents=["a wall", long])
    expect(answer.status == 200, "the document must be cut", answer)
    got = answer.headers.get("x-embedfleet-truncated")
    expect(got == "1", "x-embedfleet-truncated must name its place", answer)


@suite.extension
async def a_query_is_never_cut(service: Service) -> None:
    long = "to and fro " * service.max_tokens
    answer = await asked(service, query=long, documents=["a wall"])
    refused(answer, status=400, code="context_length_exceeded")


@suite.required
async def a_request_without_a_query_is_refused(service: Service) -> None:
    refused(await asked(service, documents=DOCUMENTS), status=400)


@suite.required
async def a_request_without_documents_is_refused(service: Service) -> None:
    refused(await asked(service, query=QUERY), status=400)


@suite.extension
async def a_wrong_document_is_named(service: Service) -> None:
    answer = await asked(service, query=QUERY, documents=["a wall", 5])
    refused(answer, status=400, param="documents[1]")
