"""A request for vectors, whichever API it came through: its texts, limits and dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import msgspec

from embedfleet.api.formats.vector_forms import FLOATS, PACKED, Form, check_packable
from embedfleet.vocabulary import CallerError, Role, TextOrIds, Truncation

LEAST_DIMENSIONS = 32
"""Qwen3-Embedding is trained for dimensions from 32 to its width."""

Integer: TypeAlias = int | float
"""A field that counts, as JSON has it: 64.0 is an integer there, and some languages write no
other."""


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What one request may hold, and what becomes of odd ones."""

    max_texts: int = 2048
    """Texts in one request; OpenAI's own limit."""
    max_instruction_characters: int = 4096
    """Length of `instruction`, which is put before every text of the request."""
    blank_texts: bool = True
    """Whether texts of white space alone are embedded, else refused."""
    unknown_fields: bool = True
    """Whether unknown fields are ignored and reported, or refused."""
    input_ids: Literal["accept", "check", "refuse"] = "accept"
    """What becomes of token ids: any are taken, those of another tokenizer are refused, or all."""
    by_item: bool = False
    """Whether a text that is wrong is answered with an error in its place and the others with their
    vectors, where the request does not say."""


class EmbeddingRequest(msgspec.Struct, frozen=True):
    """One request for vectors, checked as far as that goes without knowing the model."""

    model: str
    """The requested name; empty where the API has none, and one model is served."""
    inputs: tuple[TextOrIds, ...]
    """The texts in order: strings or token ids, at least one of each. Those with a fault are left
    out. None at all where the API lets nothing be asked for."""
    dimensions: int | None = None
    """Wanted length of the vectors, to be checked with `check_dimensions`; None: full width."""
    forms: tuple[Form, ...] = (FLOATS,)
    """What is wanted of each vector, at least one; all but some APIs have one only."""
    role: Role | None = None
    """What the texts are for; None: they are embedded as they are."""
    instruction: str | None = None
    """The task that the texts are queries for; takes the place of the role's own prompt."""
    queries: tuple[str, ...] = ()
    """Makes it a request for scores: the query of all texts, or one for each of them."""
    truncate: Truncation | None = None
    """What becomes of over-long texts; None leaves it to the pool."""
    cut: Truncation | None = None
    """Which end of a text is cut where it is; None is its end."""
    user: str | None = None
    by_item: bool = False
    """Whether a text that is wrong is answered with an error in its place."""
    faults: tuple[CallerError, ...] = ()
    """What is wrong with single texts, in their order; empty where the request is answered whole or
    not at all."""
    places: tuple[int, ...] | None = None
    """The place of each of `inputs` in the request; None where all are there."""
    faulty: tuple[int, ...] = ()
    """The place of each of `faults`."""
    field: str = "input"
    """What the API calls its texts, for messages."""
    ignored: tuple[str, ...] = ()
    """Fields that mean nothing here."""

    @property
    def form(self) -> Form:
        return self.forms[0]

    @property
    def texts(self) -> int:
        """How many texts were sent."""
        return len(self.inputs) + len(self.faults)


def check_dimensions(request: EmbeddingRequest, width: int) -> None:
    """Raise CallerError unless a model of this width has vectors of the wanted length and form.

    Any number from 32 to `width` is right; for a model narrower than 32 only its width is.
    """
    wanted = request.dimensions
    least = min(LEAST_DIMENSIONS, width)
    if wanted is None or least <= wanted <= width:
        for form in request.forms:
            if form.kind in PACKED:
                check_packable(form, wanted or width)
        return
    code = "integer_below_min_value" if wanted < least else "integer_above_max_value"
    raise CallerError(
        f"`dimensions` must be from {least} to {width} for this model; got {wanted}.",
        param="dimensions",
        code=code,
    )
