"""Checks of `/tokenize`: token ids and their number."""

from __future__ import annotations

from typing import Any

from embedfleet.conformance.check import Suite
from embedfleet.conformance.checks.inputs import TEXTS
from embedfleet.conformance.checks.refusals import EMPTY_INPUTS, WRONG_INPUTS
from embedfleet.conformance.exchange import Answer, accepted, expect, refused, same
from embedfleet.conformance.service import Service

suite = Suite("tokenize")


async def tokenized(service: Service, given: Any, **fields: Any) -> tuple[Answer, list[Any]]:
    """Ask for the tokens of texts; give the list `data`, checked."""
    answer = await service.call("POST", "/tokenize", service.body(given, **fields))
    expect(answer.status == 200, "the status must be 200", answer)
    data = answer.json.get("data")
    total = 0
    for place, one in enumerate(data):
        expect(one["index"] == place, f"`data[{place}].index` must be {place}", answer)
        ids = one["tokens"]
        whole = bool(ids) and all(type(token) is int for token in ids)
        expect(whole, f"`data[{place}].tokens` must be token ids", answer)
        expect(one["count"] == len(ids), f"`data[{place}].count` must be {len(ids)}", answer)
        expect(type(one["truncated"]) is bool, "`truncated` must be true or false", answer)
        total += len(ids)
    usage = answer.json["usage"]["prompt_tokens"]
    expect(usage == total, f"usage must be {total}, not {usage}", answer)
    return answer, data


@suite.extension
async def tokenize_counts_what_embeddings_count(service: Service) -> None:
    for given in (TEXTS[0], list(TEXTS), [5, 6, 7], [[5], [6, 7]]):
        for fields in ({}, {"input_type": "query"}, {"instruction": "Find the river."}):
            answer, data = await tokenized(service, given, **fields)
            found = accepted(await service.embed(given, **fields), texts=len(data))
            right = f"it must count {found.tokens} tokens, as embeddings do"
            expect(sum(one["count"] for one in data) == found.tokens, right, answer)


@suite.extension
async def the_ids_of_tokenize_have_the_vector_of_the_text(service: Service) -> None:
    answer, data = await tokenized(service, list(TEXTS))
    by_ids = accepted(await service.embed([one["tokens"] for one in data]))
    same(by_ids, accepted(await service.embed(list(TEXTS))), "ids must stand for their texts")
    expect(by_ids.tokens == sum(one["count"] for one in data), "and count the same", answer)


@suite.extension
async def tokenize_tells_which_texts_were_cut(service: Service) -> None:
    limit = service.max_tokens
    answer, (short, long) = await tokenized(service, ["short", "the river " * limit], truncate=True)
    expect(not short["truncated"], "a short text must not be cut", answer)
    expect(long["truncated"], "a text beyond the limit must be said to be cut", answer)
    expect(long["count"] == limit, f"it must be cut to {limit} tokens", answer)


@suite.extension
async def tokenize_refuses_what_embeddings_refuse(service: Service) -> None:
    for given, param in (WRONG_INPUTS | EMPTY_INPUTS).values():
        answer = await service.call("POST", "/tokenize", service.body(given))
        refused(answer, param=param)
    for body in (b"", b"{", b"[]", b'{"model":"m"}'):
        refused(await service.call("POST", "/tokenize", body))
    long = service.body(["short", "the river " * service.max_tokens])
    refused(await service.call("POST", "/tokenize", long), code="context_length_exceeded")
    unknown = service.body("a", model="no-such-model")
    refused(await service.call("POST", "/tokenize", unknown), status=404, code="model_not_found")
