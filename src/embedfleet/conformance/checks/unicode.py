"""Checks of texts with every kind of character: none is dropped, changed or a server error."""

from __future__ import annotations

import json

from embedfleet.conformance.check import Suite
from embedfleet.conformance.exchange import (
    Answer,
    Violation,
    accepted,
    expect,
    refused,
    same,
    unit_length,
)
from embedfleet.conformance.service import Service

suite = Suite("unicode")

TEXTS = {
    "emoji": "👩‍👩‍👧‍👦 went to the beach 🏖️",
    "outside the basic plane": "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 and 𠜎𠜱",
    "right to left": "مرحبا بالعالم, שלום עולם",
    "marks of direction": "abc \u202eright to left\u202c \u2067isolated\u2069",
    "combining marks": "e\u0301a\u0308o\u0302 Z\u0351\u036b\u0343a\u0300l\u0334g\u0321o\u0310",
    "zero width": "zero\u200bwidth\u200d\ufeffjoined",
    "only invisible": "\u200b\u2060",
    "control characters": "a\x00b\x01c\x7f",
    "line ends": "one\r\ntwo\rthree\u2028four",
    "unassigned and private": "\U000e0fff\uffff\ue000\U0010fffd",
}

HALVES = {
    "a first half alone": b'"\\ud83d"',
    "a second half alone": b'"a \\ude00 b"',
    "a pair the wrong way round": b'"\\ude00\\ud83d"',
    "in a list": b'["a", "\\ud83d"]',
}
"""Halves of surrogate pairs, which JSON can write and Unicode does not have."""


@suite.required
async def any_unicode_has_a_vector(service: Service) -> None:
    for text in TEXTS.values():
        unit_length(accepted(await service.embed(text), texts=1), within=1e-3)


@suite.required
async def escapes_and_utf_8_are_the_same_text(service: Service) -> None:
    for name, text in TEXTS.items():
        escaped = accepted(await service.embed(text))
        body = json.dumps({"model": service.model, "input": text}, ensure_ascii=False)
        plain = accepted(await service.raw(body.encode()))
        right = f"{name}: escapes and UTF-8 must give one vector"
        same(plain, escaped, right)
        expect(plain.tokens == escaped.tokens, f"{right} and one usage", plain.answer)


@suite.required
async def half_of_a_surrogate_pair_is_no_error_of_the_server(service: Service) -> None:
    for answer in await with_halves(service):
        if answer.status != 200:
            refused(answer)


@suite.extension
async def half_of_a_surrogate_pair_is_refused_in_words(service: Service) -> None:
    for answer in await with_halves(service):
        got = refused(answer)
        if "surrogate" not in got.message:
            raise Violation("the message must say that half of a surrogate pair is there", answer)


async def with_halves(service: Service) -> list[Answer]:
    model = json.dumps(service.model).encode()
    return [
        await service.raw(b'{"model":%b,"input":%b}' % (model, half)) for half in HALVES.values()
    ]
