"""Requests and responses of a check, with strict readers of embeddings and errors.

A field that is missing or of the wrong type raises a `Violation` that says what would be right.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import orjson
import pybase64
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
"""Vectors of an answer in the order of its `index`, shape [texts, width]."""

SHOWN = 160
"""Characters of a body that a report repeats."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One HTTP request, to a path below the base URL."""

    method: str
    path: str
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    """In addition to those that every request has, or in place of them."""
    chunked: bool = False
    """Whether the body goes out in pieces and without its length."""
    root: bool = False
    """Whether the path is below the base URL without its `/v1`."""

    @property
    def shown(self) -> str:
        return f"{self.method} {self.path} {clipped(self.body or b'')}".rstrip()


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer."""

    asked: Ask
    status: int
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes

    @property
    def shown(self) -> str:
        return f"{self.status} {clipped(self.body)}".rstrip()

    @property
    def json(self) -> Any:
        """The body's value; Violation if it is no JSON or not said to be."""
        kind = self.headers.get("content-type", "")
        expect(
            kind.partition(";")[0].strip() == "application/json",
            f"the content type must be application/json, not {kind!r}",
            self,
        )
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise Violation(f"the body must be JSON ({error})", self) from None


class Violation(Exception):  # noqa: N818  # what it is in the contract's words
    """The service breaks the contract."""

    def __init__(self, right: str, answer: Answer | None = None) -> None:
        """`right` says what would be right, `answer` shows what came instead."""
        super().__init__(right)
        self.right = right
        self.answer = answer


class Inapplicable(Exception):  # noqa: N818
    """The service does not do, or does not tell, what a check would look at."""


class NoAnswerError(Exception):
    """The connection broke, or nothing came in time; says which."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """An embeddings answer, read."""

    answer: Answer
    vectors: Floats
    tokens: int
    """What `usage` says."""
    packed: bool
    """Whether vectors came in base64."""
    model: str


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error, read."""

    answer: Answer
    message: str
    kind: str
    param: str | None
    code: str | None


def expect(holds: bool, right: str, answer: Answer | None = None) -> None:  # noqa: FBT001
    """Raise a Violation unless it holds."""
    if not holds:
        raise Violation(right, answer)


def clipped(body: bytes) -> str:
    """Shorten a body for a report, to one line; the end of it is left out."""
    text = " ".join(body[: 4 * SHOWN].decode("utf-8", "backslashreplace").split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(body):,} bytes)"


def accepted(answer: Answer, *, texts: int | None = None) -> Embedded:
    """Expect an embeddings answer, of so many texts."""
    expect(answer.status == 200, "the status must be 200", answer)
    found = answer.json
    expect(isinstance(found, dict), "the answer must be an object", answer)
    expect(found.get("object") == "list", '`object` must be "list"', answer)
    expect(isinstance(found.get("model"), str), "`model` must name the model", answer)
    data = found.get("data")
    if not isinstance(data, list):
        raise Violation("`data` must be a list", answer)
    if texts is not None:
        expect(len(data) == texts, f"there must be {texts} vectors, not {len(data)}", answer)
    expect(bool(data), "`data` must hold a vector for each text", answer)
    vectors = [_vector(one, place, answer) for place, one in enumerate(data)]
    widths = {len(one) for one in vectors}
    expect(len(widths) == 1, f"vectors must be of one length, not of {sorted(widths)}", answer)
    expect(widths != {0}, "vectors must have numbers", answer)
    matrix = np.stack(vectors)
    expect(bool(np.isfinite(matrix).all()), "vectors must be finite", answer)
    kinds = {isinstance(one["embedding"], str) for one in data}
    expect(len(kinds) == 1, "all vectors must be written in one format", answer)
    return Embedded(
        answer, matrix, _tokens(found.get("usage"), answer), kinds == {True}, found["model"]
    )


def _vector(one: Any, place: int, answer: Answer) -> Floats:
    expect(isinstance(one, dict), f"`data[{place}]` must be an object", answer)
    expect(one.get("object") == "embedding", f'`data[{place}].object` must be "embedding"', answer)
    index = one.get("index")
    expect(index == place, f"`data[{place}].index` must be {place}, not {index!r}", answer)
    embedding = one.get("embedding")
    if isinstance(embedding, str):
        return _from_base64(embedding, place, answer)
    whole = isinstance(embedding, list) and all(type(each) in (int, float) for each in embedding)
    expect(whole, f"`data[{place}].embedding` must be a list of numbers or base64", answer)
    with np.errstate(over="ignore"):  # what float32 can't hold is found not to be finite
        return np.array(embedding, dtype=np.float32)


def _from_base64(text: str, place: int, answer: Answer) -> Floats:
    where = f"`data[{place}].embedding`"
    try:
        packed = pybase64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Violation(f"{where} must be base64 ({error})", answer) from None
    expect(
        len(packed) % 4 == 0 and bool(packed),
        f"{where} must hold float32 numbers of 4 bytes; it has {len(packed)} bytes",
        answer,
    )
    return np.frombuffer(packed, dtype="<f4")


def _tokens(usage: Any, answer: Answer) -> int:
    right = "`usage` must have prompt_tokens and total_tokens, positive and equal"
    expect(isinstance(usage, dict), right, answer)
    prompt, total = usage.get("prompt_tokens"), usage.get("total_tokens")
    expect(type(prompt) is int and prompt > 0 and prompt == total, right, answer)
    return int(prompt)


def refused(
    answer: Answer,
    *,
    status: int = 400,
    param: str | None = None,
    code: str | None = None,
    kind: str = "invalid_request_error",
) -> ErrorAnswer:
    """Expect an error in OpenAI's shape; `param` and `code` count only where they are given."""
    expect(answer.status == status, f"the status must be {status}", answer)
    document = answer.json
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        raise Violation("the body must be an object with the object `error`", answer)
    missing = {"message", "type", "param", "code"} - set(error)
    expect(not missing, f"`error` must have {', '.join(sorted(missing))} too", answer)
    for key in ("message", "type"):
        expect(bool(error[key]) and isinstance(error[key], str), f"`{key}` must be a text", answer)
    for key in ("param", "code"):
        right = f"`{key}` must be a string or null"
        expect(error[key] is None or isinstance(error[key], str), right, answer)
    expect(error["type"] == kind, f'`type` must be "{kind}"', answer)
    if param is not None:
        expect(error["param"] == param, f'`param` must be "{param}"', answer)
    if code is not None:
        expect(error["code"] == code, f'`code` must be "{code}"', answer)
    return ErrorAnswer(answer, error["message"], error["type"], error["param"], error["code"])


def same(one: Embedded | Floats, other: Embedded | Floats, right: str) -> None:
    """Expect the same vectors, as far as batches of another size change the last digits."""
    first, second = _floats(one), _floats(other)
    answer = one.answer if isinstance(one, Embedded) else None
    expect(
        first.shape == second.shape,
        f"{right}; shapes are {first.shape} and {second.shape}",
        answer,
    )
    least = float(cosines(first, second).min())
    expect(least > 0.998, f"{right}; a cosine is {least:.5f}", answer)


def different(one: Embedded, other: Embedded, right: str) -> None:
    largest = float(cosines(one.vectors, other.vectors).max())
    expect(largest < 0.9999, f"{right}; a cosine is {largest:.5f}", one.answer)


def cosines(one: Floats, other: Floats) -> NDArray[np.float64]:
    """Cosines row by row."""
    first, second = one.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    found: NDArray[np.float64] = (first * second).sum(axis=1) / np.maximum(lengths, 1e-30)
    return found


def unit_length(found: Embedded, *, within: float) -> None:
    """Expect vectors of length 1; engines that normalise in bf16 are wrong by less than 1e-3."""
    lengths = np.linalg.norm(found.vectors.astype(np.float64), axis=1)
    furthest = float(lengths[np.abs(lengths - 1).argmax()])
    expect(
        abs(furthest - 1) < within,
        f"vectors must have length 1; one has {furthest:.6f}",
        found.answer,
    )


def _floats(one: Embedded | Floats) -> Floats:
    return one.vectors if isinstance(one, Embedded) else one
