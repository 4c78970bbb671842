"""Checks of prompts: `input_type` and `instruction`, as Qwen3-Embedding defines them."""

from __future__ import annotations

from embedfleet.conformance.check import Suite
from embedfleet.conformance.checks.inputs import TEXTS
from embedfleet.conformance.exchange import accepted, different, expect, same, unit_length
from embedfleet.conformance.service import Service

suite = Suite("prompts")

TASK = "Represent this document for retrieval:"


@suite.extension
async def input_type_query_puts_a_prompt_before_the_text(service: Service) -> None:
    plain = accepted(await service.embed(TEXTS[0]))
    query = accepted(await service.embed(TEXTS[0], input_type="query"))
    expect(query.tokens > plain.tokens, "the prompt must be counted in usage", query.answer)
    different(query, plain, "the query must have another vector than the plain text")


@suite.extension
async def input_type_document_is_accepted(service: Service) -> None:
    unit_length(accepted(await service.embed(TEXTS[0], input_type="document")), within=1e-5)


@suite.extension
async def an_instruction_is_the_model_s_prompt_with_that_task(service: Service) -> None:
    instructed = accepted(await service.embed(TEXTS[0], instruction=TASK))
    by_hand = accepted(await service.embed(f"Instruct: {TASK}\nQuery:{TEXTS[0]}"))
    right = "an instruction must be put as `Instruct: …`, a new line, `Query:` and the text"
    same(instructed, by_hand, right)
    expect(instructed.tokens == by_hand.tokens, right, instructed.answer)


@suite.extension
async def an_end_of_text_token_in_the_text_is_not_doubled(service: Service) -> None:
    plain = accepted(await service.embed(TEXTS[0]))
    by_hand = accepted(await service.embed(TEXTS[0] + "<|endoftext|>"))
    right = "the end-of-text token must be there exactly once"
    same(by_hand, plain, right)
    expect(by_hand.tokens == plain.tokens, right, by_hand.answer)
