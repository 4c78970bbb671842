"""Checks of every form of `input`, and that vector i belongs to text i."""

from __future__ import annotations

import asyncio

import numpy as np

from embedfleet.conformance.check import Suite
from embedfleet.conformance.exchange import Embedded, accepted, different, expect, same, unit_length
from embedfleet.conformance.service import Service

suite = Suite("input")

TEXTS = (
    "The river rises in the mountains and flows to the sea.",
    "Bread is made of flour, water, salt and yeast.",
    "为什么天空是蓝色的?",
    "A compiler turns source code into machine code.",
    "Die Eisenbahn fährt heute nicht.",
)
"""Of unlike meaning and unequal length, so that a mix-up shows."""

MOST_TEXTS = 2048
"""Texts that OpenAI takes in one request."""


async def one_by_one(service: Service, inputs: list[str] | list[list[int]]) -> list[Embedded]:
    """Embed each text in a request of its own."""
    return [accepted(await service.embed(one), texts=1) for one in inputs]


@suite.required
async def a_string_is_one_text(service: Service) -> None:
    unit_length(accepted(await service.embed(TEXTS[0]), texts=1), within=1e-3)


@suite.required
async def a_list_of_one_string_is_like_the_string(service: Service) -> None:
    listed = accepted(await service.embed([TEXTS[0]]), texts=1)
    same(listed, accepted(await service.embed(TEXTS[0])), "list and string must give one vector")


@suite.required
async def a_list_of_strings_is_answered_in_order(service: Service) -> None:
    texts = list(TEXTS)
    together = accepted(await service.embed(texts), texts=len(texts))
    alone = np.concatenate([one.vectors for one in await one_by_one(service, texts)])
    same(together, alone, "a text must have the vector that it has alone")
    backwards = accepted(await service.embed(texts[::-1]), texts=len(texts))
    same(backwards, alone[::-1], "texts must be answered in their order")


@suite.required
async def a_list_of_token_ids_is_one_text(service: Service) -> None:
    accepted(await service.embed([5, 6, 7, 8]), texts=1)


@suite.required
async def a_list_of_lists_of_token_ids_is_answered_in_order(service: Service) -> None:
    lists = [[5, 6, 7, 8], [9], [8, 7, 6, 5, 4]]
    together = accepted(await service.embed(lists), texts=len(lists))
    alone = np.concatenate([one.vectors for one in await one_by_one(service, lists)])
    same(together, alone, "token ids must have the vector that they have alone")


@suite.required
async def equal_texts_in_one_request_have_equal_vectors(service: Service) -> None:
    found = accepted(await service.embed([TEXTS[0], TEXTS[1], TEXTS[0]]), texts=3)
    same(found.vectors[:1], found.vectors[2:], "equal texts must have equal vectors")


@suite.required
async def different_texts_have_different_vectors(service: Service) -> None:
    first, second = await one_by_one(service, [TEXTS[0], TEXTS[1]])
    different(first, second, "different texts must have different vectors")


@suite.required
async def two_thousand_and_forty_eight_texts_are_answered_in_order(service: Service) -> None:
    texts = [f"{place} {TEXTS[place % len(TEXTS)][:12]}" for place in range(MOST_TEXTS)]
    together = accepted(await service.embed(texts, encoding_format="base64"), texts=MOST_TEXTS)
    for place in (0, 1, 1000, MOST_TEXTS - 1):
        alone = accepted(await service.embed(texts[place]))
        right = f"text {place} must have the vector that it has alone"
        same(together.vectors[place : place + 1], alone.vectors, right)


@suite.required
async def requests_at_the_same_time_get_their_own_answers(service: Service) -> None:
    texts = list(TEXTS)
    alone = [one.vectors for one in await one_by_one(service, texts)]
    asked = [(place + turn) % len(texts) for turn in range(4) for place in range(len(texts))]
    answers = await asyncio.gather(*(service.embed(texts[place]) for place in asked))
    for place, answer in zip(asked, answers, strict=True):
        right = "a request among others must have the vector that it has alone"
        same(accepted(answer, texts=1), alone[place], right)


@suite.required
async def white_space_before_a_text_is_part_of_it(service: Service) -> None:
    plain, spaced = await one_by_one(service, ["river", "\n\n river"])
    expect(
        spaced.tokens > plain.tokens,
        f"white space must count: {plain.tokens} tokens without it and {spaced.tokens} with it",
        spaced.answer,
    )
