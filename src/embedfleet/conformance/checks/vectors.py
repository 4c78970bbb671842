"""Checks of vector formats and dimensions, bit by bit where that is possible."""

from __future__ import annotations

import numpy as np

from embedfleet.conformance.check import Suite
from embedfleet.conformance.checks.inputs import TEXTS
from embedfleet.conformance.exchange import (
    Embedded,
    Floats,
    Inapplicable,
    Violation,
    accepted,
    expect,
    same,
    unit_length,
)
from embedfleet.conformance.service import Service

suite = Suite("vectors")

ATTEMPTS = 3
"""A text may be computed anew, in another batch, with other last digits; one attempt has
the same."""

LEAST_DIMENSIONS = 32
"""Qwen3-Embedding's shortest vector."""


async def written(service: Service, form: str | None, **fields: object) -> Embedded:
    answer = await service.embed(list(TEXTS), encoding_format=form, **fields)
    return accepted(answer, texts=len(TEXTS))


@suite.required
async def floats_are_the_default(service: Service) -> None:
    found = accepted(await service.embed(TEXTS[0]))
    expect(not found.packed, "without encoding_format a list of numbers must come", found.answer)


@suite.required
async def floats_are_given_where_floats_are_asked_for(service: Service) -> None:
    found = await written(service, "float")
    expect(not found.packed, "a list of numbers must come", found.answer)


@suite.required
async def base64_is_given_where_base64_is_asked_for(service: Service) -> None:
    found = await written(service, "base64")
    expect(
        found.packed, "OpenAI's clients request base64 by default: a string must come", found.answer
    )


@suite.required
async def base64_and_floats_are_the_same_vectors(service: Service) -> None:
    packed, floats = await written(service, "base64"), await written(service, "float")
    same(packed, floats, "base64 must hold little-endian float32, the numbers of the floats")


@suite.required
async def base64_holds_the_very_bits_of_the_floats(service: Service) -> None:
    repeats = False
    for _ in range(ATTEMPTS):
        first, packed, second = [
            await written(service, form) for form in ("float", "base64", "float")
        ]
        if packed.vectors.tobytes() in (first.vectors.tobytes(), second.vectors.tobytes()):
            return
        if first.vectors.tobytes() == second.vectors.tobytes():
            repeats = True
    if not repeats:
        raise Inapplicable("a text has other last digits each time that it is computed")
    nearest = np.abs(first.vectors - packed.vectors).max()
    raise Violation(
        "base64 must hold the numbers that the floats round to in float32, bit by bit; "
        f"they differ by up to {nearest:.2g}",
        packed.answer,
    )


@suite.required
async def dimensions_cut_the_vector_and_bring_it_to_length_1(service: Service) -> None:
    full = (await written(service, "float")).vectors
    width = full.shape[1]
    for wanted in (width // 2, width):
        for form in ("float", "base64"):
            found = await written(service, form, dimensions=wanted)
            check_cut(found, full, wanted, within=1e-3)


@suite.extension
async def any_dimensions_from_32_to_the_width_are_given(service: Service) -> None:
    full = (await written(service, "float")).vectors
    width = full.shape[1]
    if width <= LEAST_DIMENSIONS:
        raise Inapplicable(f"vectors of {width} dimensions can't be shortened")
    for wanted in sorted({LEAST_DIMENSIONS, LEAST_DIMENSIONS + 1, width - 1, width}):
        check_cut(await written(service, "base64", dimensions=wanted), full, wanted, within=1e-5)


def check_cut(found: Embedded, full: Floats, wanted: int, *, within: float) -> None:
    """Expect the first numbers of the full vectors, of length 1."""
    got = found.vectors.shape[1]
    expect(got == wanted, f"vectors must have {wanted} dimensions, not {got}", found.answer)
    unit_length(found, within=within)
    same(found, full[:, :wanted], f"{wanted} dimensions must be the first of the full vector")


@suite.extension
async def vectors_have_unit_length_in_float32(service: Service) -> None:
    unit_length(await written(service, "base64"), within=1e-5)


@suite.extension
async def vectors_are_as_wide_as_the_card_tells(service: Service) -> None:
    got = service.card.get("dimensions")
    found = accepted(await service.embed("x"))
    width = found.vectors.shape[1]
    expect(got == width, f"the card tells {got} dimensions, vectors have {width}", found.answer)
