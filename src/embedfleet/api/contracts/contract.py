"""The contract protocol: how one API requests vectors, and how it is answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

import msgspec
import orjson
import pybase64

from embedfleet.api.formats.embedding_request import EmbeddingRequest, RequestLimits
from embedfleet.api.formats.large_bodies import Body, Step
from embedfleet.api.formats.vector_forms import Form, as_bytes, as_numbers, derive, rounded
from embedfleet.transport.asgi import Response
from embedfleet.vocabulary import EmbedfleetError, Vector, Vectors

_NUMPY = orjson.OPT_SERIALIZE_NUMPY


class Asked(msgspec.Struct, frozen=True, gc=False):
    """What is known of a request beside its body."""

    path: str
    limits: RequestLimits


class Answer(msgspec.Struct):
    """The content of a response, before it is rendered."""

    request: EmbeddingRequest
    full: Vectors | Sequence[Vector]
    """Vectors of full width of all texts that have one, in order."""
    tokens: int
    """Of all of them, prompts and end-of-text tokens included."""
    queue_s: float = 0.0
    """Longest wait of one of the texts."""
    compute_s: float = 0.0
    """Longest computation of a batch with one of them."""
    hits: int | None = None
    """Texts that were cached; None without a cache."""
    places: Sequence[int] | None = None
    """The places of the vectors in the request; None if all texts have one."""
    truncated: AbstractSet[int] = frozenset()
    """Places of texts that were cut."""
    faults: dict[int, EmbedfleetError] = {}
    """The error of each other place."""
    name: str = ""
    """The request's id."""
    seconds: float = 0.0
    """How long it took so far."""

    @property
    def vectors(self) -> Vectors | Sequence[Vector]:
        """Of the requested dimensions, float32."""
        return derive(self.full, self.request.dimensions)

    def listed(
        self,
        form: Form,
        wrong: Callable[[int, EmbedfleetError], bytes],
        around: bytes = b"%b",
    ) -> bytes:
        """A JSON list of all vectors in one form, with what `around` puts around each and what
        `wrong` writes at places that have none.
        """
        numbers = rounded(self.vectors, form.kind)
        if form.layout == "base64":
            rows = as_bytes(numbers, big_endian=form.big_endian)
            written = [b'"%b"' % pybase64.b64encode(row) for row in rows]
        else:
            # One by one: the interpreter is held for a text at most, not for all of them.
            written = [orjson.dumps(row, option=_NUMPY) for row in as_numbers(numbers)]
        if around != b"%b":
            written = [around % row for row in written]
        if self.faults:
            places = range(len(written)) if self.places is None else self.places
            found = dict(zip(places, written, strict=True))
            found |= {place: wrong(place, fault) for place, fault in self.faults.items()}
            written = [found[place] for place in sorted(found)]
        return b"[%b]" % b",".join(written)


class Contract(Protocol):
    """One API. All of it is pure."""

    @property
    def name(self) -> str:
        """What metrics and pages call it."""
        ...

    def read(self, body: Body, asked: Asked) -> EmbeddingRequest:
        """Read a body that is quickly read; raises CallerError, in the API's own words."""
        ...

    def read_large(self, body: Body, asked: Asked, step: Step) -> EmbeddingRequest:
        """Read any body, in pieces and in a thread."""
        ...

    def write(self, answer: Answer) -> Response:
        """Render an answer, in a thread if it is large."""
        ...

    def refuse(self, error: EmbedfleetError) -> bytes:
        """Write the body of an error."""
        ...


class ByBody:
    """One request at a path of two APIs, whose body tells which of them is meant: its errors have
    the form of the API that it turns out to be of.
    """

    def __init__(self, paths: TwoApis) -> None:
        self.meant = paths.usual
        """The usual one until the body is read."""
        self.name = paths.usual.name
        self._paths = paths

    def read(self, body: Body, asked: Asked) -> EmbeddingRequest:
        return self._of(body).read(body, asked)

    def read_large(self, body: Body, asked: Asked, step: Step) -> EmbeddingRequest:
        return self._of(body).read_large(body, asked, step)

    def write(self, answer: Answer) -> Response:
        return self.meant.write(answer)

    def refuse(self, error: EmbedfleetError) -> bytes:
        return self.meant.refuse(error)

    def _of(self, body: Body) -> Contract:
        if self._paths.is_other(body):
            self.meant = self._paths.other
        return self.meant


@dataclass(frozen=True, slots=True)
class TwoApis:
    """What is asked for at a path of two APIs."""

    usual: Contract
    other: Contract
    is_other: Callable[[Body], bool]
    """Whether a body is the other's; what can't be read is the usual one's to refuse."""

    def begin(self) -> ByBody:
        """The contract of one request."""
        return ByBody(self)

    def refuse(self, error: EmbedfleetError) -> bytes:
        """The body of an error before anything is read."""
        return self.usual.refuse(error)
