"""Checks of error responses to invalid fields: OpenAI's shape, and our `param`."""

from __future__ import annotations

import json
from typing import Any

from embedfleet.conformance.check import Suite
from embedfleet.conformance.exchange import Answer, accepted, expect, refused
from embedfleet.conformance.service import Service

suite = Suite("refusal")

WRONG_INPUTS: dict[str, tuple[Any, str]] = {
    "an empty list": ([], "input"),
    "an empty text among others": (["a", ""], "input[1]"),
    "an empty list of ids": ([[1], []], "input[1]"),
    "null": (None, "input"),
    "a number": (3, "input"),
    "true": (True, "input"),
    "an object": ({"text": "a"}, "input"),
    "null among texts": (["a", None], "input[1]"),
    "an object among texts": (["a", {}], "input[1]"),
    "an id among texts": (["a", 1], "input[1]"),
    "a text among ids": ([1, "a"], "input[1]"),
    "a text among lists of ids": ([[1], "a"], "input[1]"),
    "an id with a fraction": ([1, 2.5], "input[1]"),
    "true among ids": ([1, True], "input[1]"),
    "a negative id": ([1, -1], "input[1]"),
    "an id beyond 32 bits": ([[1], [2, 2**31]], "input[1][1]"),
    "an id beyond 64 bits": ([10**30], "input[0]"),
    "lists three deep": ([[[1]]], "input[0][0]"),
}

EMPTY_INPUTS: dict[str, tuple[Any, str]] = {
    # OpenAI documents that the string must not be empty, and has taken an empty one all the same.
    "an empty string": ("", "input"),
}

WRONG_FIELDS: list[tuple[str, Any]] = [
    ("dimensions", 0),
    ("dimensions", -1),
    ("dimensions", 10**6),
    ("dimensions", 10**30),
    ("dimensions", 64.5),
    ("dimensions", "64"),
    ("dimensions", True),
    ("encoding_format", "hex"),
    ("encoding_format", "BASE64"),
    ("encoding_format", 1),
    ("user", 1),
    ("model", 1),
]

OUR_WRONG_FIELDS: list[tuple[str, Any]] = [
    ("dimensions", 31),
    ("model", ""),
    ("input_type", "clustering"),
    ("input_type", 1),
    ("instruction", ""),
    ("instruction", " "),
    ("instruction", 1),
    ("instruction", "x" * 100_000),
    ("truncate", "yes"),
    ("truncate", 1),
]


UNSUPPORTED_FIELDS: list[tuple[str, Any]] = [
    ("normalize", False),
    ("add_special_tokens", False),
    ("prompt", "query: "),
    ("prompt_name", "s2p_query"),
    ("task", "classification"),
    ("truncate_prompt_tokens", 4),
    ("pooling", "mean"),
    ("output_dtype", "int4"),
]
"""What others have, and what would give another vector than the one requested."""


@suite.required
async def wrong_input_is_refused(service: Service) -> None:
    for given, _ in WRONG_INPUTS.values():
        refused(await service.embed(given))


@suite.extension
async def wrong_input_is_refused_by_its_place(service: Service) -> None:
    for given, param in WRONG_INPUTS.values():
        refused(await service.embed(given), param=param)


@suite.extension
async def empty_texts_are_refused_by_their_place(service: Service) -> None:
    for given, param in EMPTY_INPUTS.values():
        refused(await service.embed(given), param=param)


@suite.extension
async def white_space_is_a_text_or_refused_by_its_place(service: Service) -> None:
    answer = await service.embed(["a", "b", " \n\t"])
    if answer.status == 200:
        accepted(answer, texts=3)
    else:
        refused(answer, param="input[2]", code="blank_string")


@suite.extension
async def a_refusal_names_every_text_that_is_wrong(service: Service) -> None:
    answer = await service.embed(["a", "", "b", "", ""])
    refused(answer, param="input[1]")
    error = answer.json["error"]
    for place in (1, 3, 4):
        right = f"the message must name input[{place}]"
        expect(f"input[{place}]" in error["message"], right, answer)


@suite.extension
async def fields_that_would_change_the_vector_are_not_passed_over(service: Service) -> None:
    for field, value in UNSUPPORTED_FIELDS:
        refused(await service.embed("a", **{field: value}), param=field)


@suite.extension
async def fields_that_are_not_known_are_told(service: Service) -> None:
    answer = await service.embed("a", zz_unknown=1)
    if answer.status != 200:
        refused(answer, param="zz_unknown", code="unknown_parameter")
        return
    error = answer.headers.get("x-embedfleet-ignored")
    expect(error == "zz_unknown", "x-embedfleet-ignored must name the field", answer)


@suite.required
async def wrong_fields_are_refused(service: Service) -> None:
    for field, value in WRONG_FIELDS:
        refused(await service.embed("a", **{field: value}))


@suite.extension
async def wrong_fields_are_refused_by_name(service: Service) -> None:
    for field, value in WRONG_FIELDS + OUR_WRONG_FIELDS:
        refused(await service.embed("a", **{field: value}), param=field)


@suite.required
async def missing_fields_are_refused(service: Service) -> None:
    for field in ("model", "input"):
        refused(await without(service, field))


@suite.extension
async def missing_fields_are_refused_by_name(service: Service) -> None:
    for field in ("model", "input"):
        refused(await without(service, field), param=field, code="missing_required_parameter")


async def without(service: Service, field: str) -> Answer:
    fields = {"model": service.model, "input": "a"}
    del fields[field]
    return await service.raw(json.dumps(fields).encode())


@suite.required
async def an_unknown_model_is_not_found(service: Service) -> None:
    answer = await service.embed("a", model="no-such-model")
    refused(answer, status=404, code="model_not_found")


@suite.extension
async def a_refusal_repeats_no_more_of_a_value_than_people_read(service: Service) -> None:
    long = "x" * 100_000
    for answer in (
        await service.embed("a", model=long),
        await service.embed("a", encoding_format=long),
        await service.embed([long, 1]),
    ):
        right = "an error must not repeat a value of 100,000 characters"
        expect(answer.status >= 400 and len(answer.body) < 10_000, right, answer)


@suite.extension
async def an_id_outside_the_vocabulary_is_refused_and_the_service_lives_on(
    service: Service,
) -> None:
    refused(
        await service.embed([[1, 2], [3, 2**31 - 1]]), param="input[1]", code="invalid_token_id"
    )
    accepted(await service.embed("still alive"), texts=1)


@suite.extension
async def headers_that_mean_nothing_are_refused_by_name(service: Service) -> None:
    for name, value in (("x-embedfleet-lane", "fast"), ("x-request-deadline-ms", "soon")):
        answer = await service.call("POST", "/embeddings", service.body("a"), headers={name: value})
        refused(answer, param=name, code="invalid_header")
