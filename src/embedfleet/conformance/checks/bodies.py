"""Checks of request bodies: null and unknown fields, invalid JSON, chunked bodies."""

from __future__ import annotations

import json

from embedfleet.conformance.check import Suite
from embedfleet.conformance.checks.inputs import TEXTS
from embedfleet.conformance.exchange import accepted, expect, refused, same
from embedfleet.conformance.service import Service

suite = Suite("body")

MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"model=m&input=a",
    "half of the JSON": b'{"model":"m","input":"a',
    "a trailing comma": b'{"model":"m","input":"a",}',
    "single quotes": b"{'model':'m','input':'a'}",
    "invalid UTF-8": b'{"model":"m","input":"\xff\xfe"}',
    "a surrogate in UTF-8": b'{"model":"m","input":"\xed\xa0\x80"}',
    "not a number": b'{"model":"m","input":"a","dimensions":NaN}',
    "two objects": b'{"model":"m","input":"a"}{"model":"m","input":"a"}',
}

OF_ANOTHER_KIND: dict[str, bytes] = {
    "a list": b"[]",
    "a string": b'"a"',
    "a number": b"1",
    "null": b"null",
}

DEEP: dict[str, bytes] = {
    "brackets without end": b'{"model":"m","input":' + b"[" * 100_000,
    "objects without end": b'{"x":' * 100_000,
    "brackets that end": b'{"model":"m","input":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}

OPTIONAL = ("dimensions", "encoding_format", "user", "input_type", "instruction", "truncate")


@suite.required
async def malformed_json_is_refused(service: Service) -> None:
    for body in MALFORMED.values():
        refused(await service.raw(body))


@suite.required
async def json_that_is_no_object_is_refused(service: Service) -> None:
    for body in OF_ANOTHER_KIND.values():
        refused(await service.raw(body))


@suite.required
async def deeply_nested_json_is_refused_and_the_service_lives_on(service: Service) -> None:
    for body in DEEP.values():
        refused(await service.raw(body))
    accepted(await service.embed("still alive"), texts=1)


@suite.required
async def the_field_user_changes_nothing(service: Service) -> None:
    named = accepted(await service.embed(TEXTS[0], user="someone"))
    same(named, accepted(await service.embed(TEXTS[0])), "`user` must not change the vector")


@suite.required
async def white_space_and_the_order_of_fields_mean_nothing(service: Service) -> None:
    turned = {"encoding_format": "float", "input": TEXTS[0], "model": service.model}
    body = json.dumps(turned, indent=4).replace("\n", "\r\n").encode()
    found = accepted(await service.raw(b"\n\t " + body + b" \r\n"))
    same(found, accepted(await service.embed(TEXTS[0])), "they must not change the vector")


@suite.required
async def a_content_type_may_name_its_character_set(service: Service) -> None:
    headers = {"content-type": "application/json; charset=utf-8"}
    accepted(await service.call("POST", "/embeddings", service.body(TEXTS[0]), headers=headers))


@suite.required
async def a_body_may_come_in_pieces(service: Service) -> None:
    body = service.body([TEXTS[0] * 20, TEXTS[1]])
    pieces = accepted(await service.call("POST", "/embeddings", body, chunked=True), texts=2)
    same(pieces, accepted(await service.raw(body)), "pieces must be read as one body")


@suite.required
async def a_client_may_wait_for_leave_to_send_its_body(service: Service) -> None:
    # curl does so with every body beyond a megabyte.
    headers = {"expect": "100-continue"}
    accepted(await service.call("POST", "/embeddings", service.body(TEXTS[0]), headers=headers))


@suite.extension
async def null_fields_are_absent_fields(service: Service) -> None:
    nulls = accepted(await service.embed(TEXTS[0], **dict.fromkeys(OPTIONAL)))
    same(nulls, accepted(await service.embed(TEXTS[0])), "null must be like no field")


@suite.extension
async def unknown_fields_are_ignored(service: Service) -> None:
    extra = accepted(await service.embed(TEXTS[0], zz_unknown={"a": [1, None]}, stream=False))
    same(extra, accepted(await service.embed(TEXTS[0])), "they must not change the vector")


@suite.extension
async def malformed_json_is_refused_by_its_byte(service: Service) -> None:
    answer = await service.raw(b'{"model":"m","input":"a",}')
    error = refused(answer, code="invalid_json")
    expect("byte 25" in error.message, "the message must say that byte 25 is wrong", answer)
