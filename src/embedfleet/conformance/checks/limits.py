"""Checks of request limits: texts, tokens and bytes, one below, at and above each."""

from __future__ import annotations

from embedfleet.conformance.check import Suite
from embedfleet.conformance.checks.inputs import MOST_TEXTS
from embedfleet.conformance.exchange import Inapplicable, accepted, expect, refused, same
from embedfleet.conformance.service import Service

suite = Suite("limits")

LONGEST_COMPUTED = 8192
"""Texts of more tokens take seconds to compute without a GPU; they are not sent to be computed."""


@suite.required
async def more_than_2048_texts_are_refused(service: Service) -> None:
    refused(await service.embed(["a"] * (MOST_TEXTS + 1)))


@suite.extension
async def too_many_texts_are_refused_with_both_numbers(service: Service) -> None:
    answer = await service.embed(["a"] * 100_000)
    error = refused(answer, param="input", code="array_above_max_length")
    for number in ("100000", str(MOST_TEXTS)):
        expect(number in error.message, f"the message must say {number}", answer)


@suite.required
async def a_text_one_token_below_the_limit_fits(service: Service) -> None:
    await check_fits(service, 1)


@suite.required
async def a_text_of_the_limit_fits(service: Service) -> None:
    await check_fits(service, 0)


@suite.required
async def a_text_one_token_above_the_limit_is_refused(service: Service) -> None:
    most = service.max_tokens - await service.added_tokens()
    refused(await service.embed([5] * (most + 1)))


@suite.extension
async def a_text_above_the_limit_is_refused_with_both_numbers(service: Service) -> None:
    limit = service.max_tokens
    answer = await service.embed([5] * (limit + 1 - await service.added_tokens()))
    error = refused(answer, code="context_length_exceeded")
    for number in (limit, limit + 1):
        expect(str(number) in error.message, f"the message must say {number}", answer)


@suite.required
async def an_over_long_string_is_refused(service: Service) -> None:
    refused(await service.embed(["short", "the river " * service.max_tokens]))


@suite.extension
async def an_over_long_string_is_refused_by_its_place(service: Service) -> None:
    answer = await service.embed(["short", "the river " * service.max_tokens])
    error = refused(answer, code="context_length_exceeded")
    expect("input[1]" in error.message, "the message must say that it is input[1]", answer)


@suite.extension
async def truncate_cuts_over_long_texts_and_leaves_the_others(service: Service) -> None:
    limit = computable(service)
    short = accepted(await service.embed("short"))
    cut = await service.embed(["short", "the river " * limit], truncate=True)
    found = accepted(cut, texts=2)
    right = f"usage must be {short.tokens} and {limit}, not {found.tokens} together"
    expect(found.tokens == short.tokens + limit, right, cut)
    same(found.vectors[:1], short.vectors, "a short text must have the vector that it has alone")


@suite.extension
async def a_body_too_large_is_refused_before_it_is_sent(service: Service) -> None:
    # What was announced is never sent, so the connection can't be used again.
    headers = {"content-length": str(2**40), "connection": "close"}
    answer = await service.call("POST", "/embeddings", b"{", headers=headers)
    refused(answer, status=413, code="body_too_large")


async def check_fits(service: Service, below: int) -> None:
    """Expect an answer to a text of so many tokens below the limit, and their number."""
    wanted = computable(service) - below
    answer = await service.embed([5] * (wanted - await service.added_tokens()))
    found = accepted(answer, texts=1)
    expect(found.tokens == wanted, f"usage must be {wanted}, not {found.tokens}", answer)


def computable(service: Service) -> int:
    """Give the limit where a text of it is computed in reasonable time."""
    limit = service.max_tokens
    if limit > LONGEST_COMPUTED:
        raise Inapplicable(f"a text of the limit, {limit} tokens, would take long to compute")
    return limit
