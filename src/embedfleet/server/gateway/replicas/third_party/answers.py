"""Strict readers for the responses of third-party engines.

Vectors are brought to our contract: float32, unit length, in the order of the texts. So are scores,
as vectors (`vocabulary.SCORE_WIDTH`). The text for which an engine refuses a whole request is found
by bisection.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, TypeAlias, TypeVar

import msgspec
import numpy as np
import pybase64
from numpy.typing import NDArray

from embedfleet.models.scores import rows_of_logits, rows_of_probabilities
from embedfleet.transport.frames import MOST_TEXTS, MOST_WIDTH
from embedfleet.transport.untrusted import parsed
from embedfleet.vocabulary import ReplicaError, Vectors

_SHORTEST = 1e-12
"""Length below which numbers are rounding errors and no vector; raw ones are longer than 1."""

_LONGEST = 1e18
"""Length beyond which they are no vector either, but floats in another byte order perhaps."""


class _Row(msgspec.Struct, gc=False):
    index: Annotated[int, msgspec.Meta(ge=0, lt=MOST_TEXTS)]
    embedding: msgspec.Raw


class _Answer(msgspec.Struct):
    data: Annotated[list[_Row], msgspec.Meta(max_length=MOST_TEXTS)]


_Embedding: TypeAlias = Annotated[list[float | None], msgspec.Meta(max_length=MOST_WIDTH)] | str

_decoder = msgspec.json.Decoder(_Answer)
_row_decoder: msgspec.json.Decoder[_Embedding] = msgspec.json.Decoder(_Embedding)

NUMBER_BYTES = 32
"""Upper bound for a JSON number of a vector, with comma and spaces."""

ROW_BYTES = 1 << 10
"""Upper bound for the JSON around a vector."""

LARGE_BYTES = 64 << 10
"""Answers beyond this size are to be read in a thread: a mebibyte of floats takes 25 ms."""

_PIECE_BYTES = 1 << 20
"""What is looked through at a time, so that other threads can run in between."""

_NESTED, _NESTED_PER_TEXT = 64, 8
"""Objects and arrays that an answer may have, and for each text. Engines write two for each, and a
few about the answer."""

_NESTING = (b"{", b"[")
_RANKED = (b'"index"',)
"""What each rank has one of: vLLM repeats the documents beside them, which may hold any number of
brackets, but no name in quotes, since quotes are escaped in a text."""


_ROUNDING = 1e-5
"""How far beyond 0 and 1 a probability may be that was computed in float32."""

_FAILED = -1e6
"""llama.cpp's score for a pair that it could not compute."""

_MOST_CLASSES = 2

_SUM_ROUNDING = 1e-3
"""How far from 1 the sum of two probabilities may be."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The vectors of one request."""

    vectors: Vectors
    """[texts, width], rows of unit length where `right`."""
    right: NDArray[np.bool_]
    """Which rows are vectors at all: finite and of a length. Shape [texts]."""


def read_vectors(body: bytes, texts: int, width: int = MOST_WIDTH) -> Rows:
    """The vectors of an answer in OpenAI's format, floats or base64; ReplicaError on nonsense.
    A row that is too long for a vector of `width` dimensions is not parsed.

    Row by row: in a thread, it holds the interpreter for one row at a time.
    """
    answer = _decoded("it answers no embeddings", _decoder, body, texts)
    if sorted(row.index for row in answer.data) != list(range(texts)):
        raise ReplicaError(
            f"it returned {len(answer.data)} vectors for {texts} texts, or wrong indices"
        )
    most_bytes = ROW_BYTES + width * NUMBER_BYTES
    if any(memoryview(row.embedding).nbytes > most_bytes for row in answer.data):
        raise ReplicaError(f"its vectors are longer than {width} numbers can be")
    rows = [_vector(row.embedding) for row in sorted(answer.data, key=lambda row: row.index)]
    widths = {len(row) for row in rows}
    if len(widths) != 1 or 0 in widths:
        few = ", ".join(map(str, sorted(widths)[:4]))
        raise ReplicaError(f"its vectors have {few} dimensions, not one same number")
    if widths.pop() > MOST_WIDTH:
        raise ReplicaError(f"its vectors have more than {MOST_WIDTH} dimensions")
    return unit(np.stack(rows))


_Index: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=MOST_TEXTS)]
_Numbers: TypeAlias = Annotated[
    list[float | None], msgspec.Meta(min_length=1, max_length=_MOST_CLASSES)
]


class _Usage(msgspec.Struct):
    prompt_tokens: int = -1
    total_tokens: int = -1


class _Class(msgspec.Struct):
    index: _Index
    probs: _Numbers


class _Classes(msgspec.Struct):
    """vLLM's `/classify`."""

    data: Annotated[list[_Class], msgspec.Meta(max_length=MOST_TEXTS)]
    usage: _Usage = msgspec.field(default_factory=_Usage)


class _LabelScores(msgspec.Struct):
    """SGLang's `/v1/score`."""

    scores: Annotated[list[_Numbers], msgspec.Meta(max_length=MOST_TEXTS)]
    usage: _Usage | None = None


class _Result(msgspec.Struct):
    index: _Index
    relevance_score: float | None


class _Results(msgspec.Struct):
    """Jina's `/v1/rerank`."""

    results: Annotated[list[_Result], msgspec.Meta(max_length=MOST_TEXTS)]
    usage: _Usage | None = None


class _Rank(msgspec.Struct):
    """TEI's `/rerank` answers a list of these."""

    index: _Index
    score: float | None


_class_decoder = msgspec.json.Decoder(_Classes)
_label_decoder = msgspec.json.Decoder(_LabelScores)
_result_decoder = msgspec.json.Decoder(_Results)
_rank_decoder = msgspec.json.Decoder(Annotated[list[_Rank], msgspec.Meta(max_length=MOST_TEXTS)])


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of one request as an engine writes them."""

    numbers: NDArray[np.float64]
    """[pairs], in the order of the request; NaN where there is none."""
    tokens: int = -1
    """Of all pairs together, as the engine counts; negative where it does not."""


def read_classes(body: bytes, texts: int) -> Scores:
    """VLLM's classes of each text: the only one, or the second less the first."""
    answer = _decoded("it answers no classes", _class_decoder, body, texts)
    rows = _in_order([(row.index, row.probs) for row in answer.data], texts)
    return Scores(np.array([_difference(row[::-1]) for row in rows]), answer.usage.prompt_tokens)


def read_label_scores(body: bytes, texts: int) -> Scores:
    """SGLang's numbers for each text: one of a classifier, or the probabilities of "yes" and "no",
    which add up to 1.
    """
    answer = _decoded("it answers no scores", _label_decoder, body, texts)
    rows = _in_order(list(enumerate(answer.scores)), texts)
    used = answer.usage or _Usage()
    return Scores(np.array([_first_of(row) for row in rows]), used.prompt_tokens)


def read_results(body: bytes, texts: int) -> Scores:
    """Jina's results, in any order."""
    answer = _decoded("it answers no results", _result_decoder, body, texts, _RANKED)
    rows = _in_order([(row.index, row.relevance_score) for row in answer.results], texts)
    used = answer.usage or _Usage()
    counted = used.total_tokens if used.prompt_tokens < 0 else used.prompt_tokens
    return Scores(np.array([_number(row) for row in rows]), counted)


def read_ranks(body: bytes, texts: int) -> Scores:
    """TEI's ranks, in any order."""
    answer = _decoded("it answers no ranks", _rank_decoder, body, texts, _RANKED)
    rows = _in_order([(row.index, row.score) for row in answer], texts)
    return Scores(np.array([_number(row) for row in rows]))


def scored_by_logits(logits: NDArray[np.float64]) -> Rows:
    """The rows of logits, [texts]."""
    right: NDArray[np.bool_] = np.isfinite(logits) & (logits != _FAILED)
    return Rows(rows_of_logits(np.where(right, logits, 0.0)), right)


def scored_by_probabilities(numbers: NDArray[np.float64]) -> Rows:
    """The rows of probabilities, [texts]; ReplicaError for numbers that are none."""
    right: NDArray[np.bool_] = np.isfinite(numbers) & (numbers != _FAILED)
    known = np.where(right, numbers, 0.0)
    if known.size and not (known.min() >= -_ROUNDING and known.max() <= 1 + _ROUNDING):
        beyond = known[np.abs(known - 0.5).argmax()]
        raise ReplicaError(f"its score {beyond:.6g} is not a probability")
    return Rows(rows_of_probabilities(np.clip(known, 0.0, 1.0)), right)


Value = TypeVar("Value")


def _decoded(
    what: str,
    decoder: msgspec.json.Decoder[Value],
    body: bytes,
    texts: int,
    marks: tuple[bytes, ...] = _NESTING,
) -> Value:
    """An answer for so many texts; ReplicaError, which begins with `what`, on nonsense.

    The decoder holds the interpreter until it is done. What it makes are objects, so an answer of
    millions of small ones is refused before, by the `marks` of objects that it holds.
    """
    most = _NESTED + _NESTED_PER_TEXT * texts
    for start in range(0, len(body), _PIECE_BYTES):
        end = start + _PIECE_BYTES
        most -= sum(body.count(mark, start, end) for mark in marks)
        if most < 0:
            raise ReplicaError(f"{what}: too many objects for {texts} texts")
    return parsed(what, decoder.decode, body)


def _in_order(found: list[tuple[int, Value]], texts: int) -> list[Value]:
    if sorted(index for index, _ in found) != list(range(texts)):
        raise ReplicaError(f"it returned {len(found)} scores for {texts} pairs, or wrong indices")
    return [value for _, value in sorted(found, key=lambda one: one[0])]


def _number(value: float | None) -> float:
    """null, for what was NaN, becomes NaN again."""
    return math.nan if value is None else value


def _difference(values: list[float | None]) -> float:
    """The only number, or the first less the second."""
    return _number(values[0]) - (_number(values[1]) if len(values) > 1 else 0.0)


def _first_of(values: list[float | None]) -> float:
    numbers = [_number(value) for value in values]
    if (
        len(numbers) > 1
        and not abs(sum(numbers) - 1) < _SUM_ROUNDING
        and not any(map(math.isnan, numbers))
    ):
        raise ReplicaError(f"its two probabilities add up to {sum(numbers):.6g}")
    return numbers[0]


def unit(vectors: Vectors) -> Rows:
    """Bring rows to unit length in float32.

    Engines that normalise in bf16 are off by about 1e-3; some do not normalise at all.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    right: NDArray[np.bool_] = (lengths > _SHORTEST) & (lengths < _LONGEST)
    safe = np.where(right, lengths, 1.0)  # in float64: some lengths are no float32 numbers
    scaled = np.where(right[:, None], vectors, np.float32(0)) / safe[:, None]
    return Rows(scaled.astype(np.float32, copy=False), right)


def _vector(raw: msgspec.Raw) -> NDArray[np.float32]:
    embedding = parsed("it answers no embeddings", _row_decoder.decode, raw)
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
    REDIRECT = "redirect"
    """It answers at another address. That is not followed: keys are for one host."""
    BUSY = "busy"
    """It has too much to do; the same request may be taken later."""
    TEXT = "text"
    """It takes something in the request for wrong: of many texts, perhaps only one."""
    BROKEN = "broken"
    """Anything else: the engine is not well."""


def is_no_json(error: ReplicaError) -> bool:
    """Whether an answer could not be read because of how it is written, which may be one text's:
    Python's own writer makes `NaN` and `Infinity` of a vector that is not finite.
    """
    cause = error.__cause__
    return isinstance(cause, msgspec.DecodeError) and not isinstance(cause, msgspec.ValidationError)


def judge_refusal(status: int) -> Refusal:
    """Read a status; engines agree on these, and not on bodies."""
    if status in {401, 403}:
        return Refusal.KEY
    if status in {301, 302, 303, 307, 308}:
        return Refusal.REDIRECT
    if status in {429, 503}:
        return Refusal.BUSY
    if status in {400, 413, 422}:
        return Refusal.TEXT
    return Refusal.BROKEN


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
