"""Checks of response fields beside the vectors: names and usage."""

from __future__ import annotations

from embedfleet.conformance.check import Suite
from embedfleet.conformance.checks.inputs import TEXTS, one_by_one
from embedfleet.conformance.exchange import accepted, expect
from embedfleet.conformance.service import Service

suite = Suite("answer")


@suite.required
async def the_answer_names_the_model_that_was_asked_for(service: Service) -> None:
    found = accepted(await service.embed(list(TEXTS[:2])))
    # OpenAI answers with the dated name of a model, which begins with the one asked for.
    right = f"`model` must be {service.model}"
    expect(found.model.startswith(service.model), right, found.answer)


@suite.required
async def usage_is_the_sum_over_the_texts(service: Service) -> None:
    alone = [one.tokens for one in await one_by_one(service, list(TEXTS))]
    together = accepted(await service.embed(list(TEXTS)))
    expect(
        together.tokens == sum(alone),
        f"usage must be {sum(alone)}, the sum of {alone}; it is {together.tokens}",
        together.answer,
    )


@suite.required
async def usage_counts_every_token_id(service: Service) -> None:
    one, four = await one_by_one(service, [[5], [5, 5, 5, 5]])
    expect(
        four.tokens - one.tokens == 3,
        f"three ids more must cost 3 tokens more, not {four.tokens - one.tokens}",
        four.answer,
    )


@suite.required
async def usage_is_the_same_in_every_format(service: Service) -> None:
    counts = {
        accepted(await service.embed(TEXTS[0], encoding_format=form)).tokens
        for form in ("float", "base64")
    }
    expect(len(counts) == 1, f"usage must not depend on encoding_format: {sorted(counts)}")


@suite.extension
async def the_answer_tells_where_its_time_went(service: Service) -> None:
    answer = await service.embed(TEXTS[0])
    accepted(answer)
    for name in ("server-timing", "x-embedfleet-overhead-ms"):
        expect(name in answer.headers, f"the header {name} must be there", answer)
