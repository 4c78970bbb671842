"""The contract on wrong requests: the right status, OpenAI's shape, the parameter by name."""

from __future__ import annotations

import json
from typing import Any

from tests.contract.check import Inapplicable, accepted, check, expect, refused
from tests.contract.endpoint import Endpoint

WRONG_INPUTS: dict[str, tuple[Any, str]] = {
    "an empty string": ("", "input"),
    "an empty list": ([], "input"),
    "an empty text among others": (["a", ""], "input[1]"),
    "a blank text": (["a", "b", " \n\t"], "input[2]"),
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

WRONG_FIELDS: list[tuple[str, Any]] = [
    ("dimensions", 0),
    ("dimensions", -1),
    ("dimensions", 31),
    ("dimensions", 10**6),
    ("dimensions", 10**30),
    ("dimensions", 64.5),
    ("dimensions", "64"),
    ("dimensions", True),
    ("encoding_format", "hex"),
    ("encoding_format", "BASE64"),
    ("encoding_format", 1),
    ("user", 1),
    ("input_type", "passage"),
    ("instruction", ""),
    ("instruction", 1),
    ("truncate", "yes"),
    ("truncate", 1),
    ("model", 1),
]

WRONG_BODIES: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"model=m&input=a",
    "half of the JSON": b'{"model":"m","input":"a',
    "a trailing comma": b'{"model":"m","input":"a",}',
    "a list": b"[]",
    "a string": b'"a"',
    "null": b"null",
    "invalid UTF-8": b'{"model":"m","input":"\xff\xfe"}',
    "a surrogate in UTF-8": b'{"model":"m","input":"\xed\xa0\x80"}',
    "half of a surrogate pair": b'{"model":"m","input":"\\ud83d"}',
    "a surrogate pair the wrong way round": b'{"model":"m","input":"\\ude00\\ud83d"}',
    "not a number": b'{"model":"m","input":"a","dimensions":NaN}',
    "brackets without end": b'{"model":"m","input":' + b"[" * 100_000,
    "objects without end": b'{"x":' * 100_000,
}


@check
def wrong_input_is_refused_by_its_place(service: Endpoint) -> None:
    for name, (given, param) in WRONG_INPUTS.items():
        error = refused(service.embed(given))
        expect(error["param"] == param, f"{name}: param {error['param']}, not {param}")


@check
def wrong_fields_are_refused_by_name(service: Endpoint) -> None:
    for field, value in WRONG_FIELDS:
        error = refused(service.embed("a", **{field: value}))
        expect(error["param"] == field, f"{field}={value!r}: param {error['param']}")


@check
def missing_fields_are_refused_by_name(service: Endpoint) -> None:
    for field in ("model", "input"):
        fields = {"model": service.model, "input": "a"}
        del fields[field]
        refused(service.raw(json.dumps(fields).encode()), param=field)
        fields[field] = None  # type: ignore[assignment]  # null is like missing
        refused(service.raw(json.dumps(fields).encode()), param=field)


@check
def wrong_bodies_are_refused(service: Endpoint) -> None:
    for name, body in WRONG_BODIES.items():
        error = refused(service.raw(body))
        expect(error["param"] in (None, "input", "input[0][0]"), f"{name}: {error}")


@check
def an_unknown_model_is_404(service: Endpoint) -> None:
    refused(service.embed("a", model="no-such-model"), status=404, code="model_not_found")
    refused(service.call("GET", "/models/no-such-model"), status=404, code="model_not_found")


@check
def an_unknown_path_is_404_and_a_wrong_method_405(service: Endpoint) -> None:
    refused(service.call("POST", "/nothing-here", b"{}"), status=404)
    refused(service.call("GET", "/embeddings"), status=405)
    refused(service.call("DELETE", "/models"), status=405)


@check
def a_body_too_large_is_413_before_it_is_sent(service: Endpoint) -> None:
    headers = {"content-length": str(2**40)}
    refused(service.call("POST", "/embeddings", b"{", headers), status=413)


@check
def too_many_texts_are_refused_with_the_limit(service: Endpoint) -> None:
    error = refused(service.embed(["a"] * 100_000), param="input")
    expect("100000" in error["message"], f"the number of texts is not told: {error['message']}")


@check
def an_id_outside_the_vocabulary_is_refused_and_the_service_lives_on(service: Endpoint) -> None:
    error = refused(service.embed([[1, 2], [3, 2**31 - 1]]))
    expect(error["param"] in ("input[1]", "input[1][1]"), f"param {error['param']}")
    accepted(service.embed("still alive"), texts=1)


def limit_of(service: Endpoint) -> int:
    limit = service.card.get("max_tokens")
    if not isinstance(limit, int):
        raise Inapplicable("the model's card does not tell the longest text")
    return limit


def overhead_of(service: Endpoint) -> int:
    """Tokens that the service adds to a text."""
    return accepted(service.embed([5])).tokens - 1


@check
def a_text_of_the_limit_fits_and_one_token_more_is_refused(service: Endpoint) -> None:
    limit = limit_of(service)
    most = limit - overhead_of(service)
    if limit <= 4096:  # longer ones take seconds to compute without a GPU
        for count in (most - 1, most):
            answer = accepted(service.embed([5] * count), texts=1)
            expect(answer.tokens == limit - (most - count), f"{answer.tokens} tokens counted")
    error = refused(service.embed([5] * (most + 1)), code="context_length_exceeded")
    for number in (limit, limit + 1):
        expect(str(number) in error["message"], f"{number} is not told: {error['message']}")


@check
def an_over_long_text_is_refused_by_its_place(service: Endpoint) -> None:
    text = "the river " * limit_of(service)
    error = refused(service.embed(["short", text]), code="context_length_exceeded")
    expect("input[1]" in error["message"], f"the place is not told: {error['message']}")


@check
def truncate_cuts_over_long_texts_and_leaves_the_others(service: Endpoint) -> None:
    limit = limit_of(service)
    if limit > 4096:
        raise Inapplicable("a text of the limit takes too long to compute")
    text = "the river " * limit
    short = accepted(service.embed("short"))
    answer = accepted(service.embed(["short", text], truncate=True), texts=2)
    expect(
        answer.tokens == short.tokens + limit,
        f"{answer.tokens} tokens counted, not {short.tokens} and {limit}",
    )
