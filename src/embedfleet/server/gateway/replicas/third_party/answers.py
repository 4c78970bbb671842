"""Strict readers for the embeddings responses of third-party engines.

Vectors are brought to our contract: float32, unit length, in the order of the texts. The text for
which an engine refuses a whole request is found by bisection.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated

import msgspec
import numpy as np
import pybase64
from numpy.typing import NDArray

from embedfleet.transport.frames import MOST_TEXTS, MOST_WIDTH
from embedfleet.transport.untrusted import parsed, shown
from embedfleet.vocabulary import ReplicaError, Vectors

_SHORTEST = 1e-12
"""Length below which numbers are rounding errors and no vector; raw ones are longer than 1."""


class _Row(msgspec.Struct):
    index: Annotated[int, msgspec.Meta(ge=0, lt=MOST_TEXTS)]
    embedding: Annotated[list[float | None], msgspec.Meta(max_length=MOST_WIDTH)] | str


class _Answer(msgspec.Struct):
    data: Annotated[list[_Row], msgspec.Meta(max_length=MOST_TEXTS)]


_decoder = msgspec.json.Decoder(_Answer)


@dataclass(frozen=True, slots=True)
class Rows:
    """The vectors of one request."""

    vectors: Vectors
    """[texts, width], rows of unit length where `right`."""
    right: NDArray[np.bool_]
    """Which rows are vectors at all: finite and of a length. Shape [texts]."""


def read_vectors(body: bytes, texts: int) -> Rows:
    """The vectors of an answer in OpenAI's format, floats or base64; ReplicaError on nonsense."""
    answer = parsed("it answers no embeddings", _decoder.decode, body)
    if sorted(row.index for row in answer.data) != list(range(texts)):
        raise ReplicaError(
            f"it returned {len(answer.data)} vectors for {texts} texts, or wrong indices"
        )
    rows = [_vector(row.embedding) for row in sorted(answer.data, key=lambda row: row.index)]
    widths = {len(row) for row in rows}
    if len(widths) != 1 or 0 in widths:
        few = ", ".join(map(str, sorted(widths)[:4]))
        raise ReplicaError(f"its vectors have {few} dimensions, not one same number")
    if widths.pop() > MOST_WIDTH:
        raise ReplicaError(f"its vectors have more than {MOST_WIDTH} dimensions")
    return unit(np.stack(rows))


def unit(vectors: Vectors) -> Rows:
    """Bring rows to unit length in float32.

    Engines that normalise in bf16 are off by about 1e-3; some do not normalise at all.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    right: NDArray[np.bool_] = np.isfinite(lengths) & (lengths > _SHORTEST)
    safe = np.where(right, lengths, 1.0)  # in float64: some lengths are no float32 numbers
    scaled = np.where(right[:, None], vectors, np.float32(0)) / safe[:, None]
    return Rows(scaled.astype(np.float32, copy=False), right)


def _vector(embedding: list[float | None] | str) -> NDArray[np.float32]:
    if isinstance(embedding, str):
        return parsed("its base64 holds no float32 numbers", _floats, embedding)
    # null, for what was NaN, becomes NaN again; too large numbers become infinite.
    with np.errstate(over="ignore"):
        return np.array(embedding, np.float32)


def _floats(text: str) -> NDArray[np.float32]:
    """ValueError for what is no base64, or no whole number of floats."""
    return np.frombuffer(pybase64.b64decode(text, validate=True), "<f4")


class Refusal(Enum):
    """What it means that an engine did not answer 200."""

    KEY = "key"
    """It wants an API key, or another one."""
    BUSY = "busy"
    """It has too much to do; the same request may be taken later."""
    TEXT = "text"
    """It takes something in the request for wrong: of many texts, perhaps only one."""
    BROKEN = "broken"
    """Anything else: the engine is not well."""


def judge_refusal(status: int) -> Refusal:
    """Read a status; engines agree on these, and not on bodies."""
    if status in {401, 403}:
        return Refusal.KEY
    if status in {429, 503}:
        return Refusal.BUSY
    if status in {400, 413, 422}:
        return Refusal.TEXT
    return Refusal.BROKEN


def message_of(body: bytes) -> str:
    """The message in an error's body, whatever its form: OpenAI's, SGLang's, TEI's, FastAPI's."""
    try:
        found = parsed("no JSON", msgspec.json.decode, body)
    except ReplicaError:
        found = None
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    return shown(found if isinstance(found, str) else body.decode("utf-8", "replace"))


@dataclass(slots=True)
class Search:
    """The search for the text that an engine refuses a whole request for."""

    halvings_left: int
    answered: int = 0

    @classmethod
    def among(cls, texts: int) -> Search:
        """Enough to find two bad texts, and few enough to leave an engine that refuses all."""
        return cls(2 * texts.bit_length() + 2)

    def may_halve(self) -> bool:
        self.halvings_left -= 1
        return self.halvings_left >= 0
