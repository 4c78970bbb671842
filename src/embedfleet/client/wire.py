"""Bytes of requests and answers, as a client sees them. Pure.

Vectors never become Python floats: base64 is decoded into rows of the matrix that is handed out.
Numbers in JSON are read where a service knows no base64.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
import numpy as np
import orjson
import pybase64
from numpy.typing import NDArray

from embedfleet.client.errors import AnswerError, RefusedError

Texts: TypeAlias = Sequence[str] | Sequence[Sequence[int]] | NDArray[Any]
"""Texts, or a list of token ids for each; not both in one request."""

MOST_SHOWN = 300
"""Characters of a service's words that an error repeats."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is asked for beside the texts; None leaves a field out."""

    dimensions: int | None = None
    input_type: str | None = None
    instruction: str | None = None
    truncate: bool = False

    def fields(self) -> dict[str, Any]:
        """As they stand in a request."""
        given = {
            "dimensions": self.dimensions,
            "input_type": self.input_type,
            "instruction": self.instruction,
            "truncate": self.truncate or None,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that a service lists."""

    name: str
    dimensions: int | None = None
    """Width of a full vector; None where the service does not tell."""
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The vectors of one request, in the order of its texts."""

    vectors: NDArray[np.float32]
    """Shape [texts, dimensions]."""
    tokens: int
    """What the service counted; 0 where it did not."""


class _Item(msgspec.Struct):
    embedding: msgspec.Raw
    index: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0


class _Body(msgspec.Struct):
    data: list[_Item]
    usage: _Usage | None = None


class _Model(msgspec.Struct):
    id: str
    dimensions: int | None = None
    max_tokens: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


class _Counted(msgspec.Struct):
    usage: _Usage


class _Error(msgspec.Struct):
    message: str = ""
    code: Any = None
    param: Any = None


class _Refusal(msgspec.Struct):
    error: _Error | str


_BODY = msgspec.json.Decoder(_Body)
_MODELS = msgspec.json.Decoder(_Models)
_COUNTED = msgspec.json.Decoder(_Counted)
_REFUSAL = msgspec.json.Decoder(_Refusal)


def as_input(text: str | Sequence[int] | NDArray[Any]) -> str | list[int]:
    """A text as JSON has it. Raises RefusedError for half of a surrogate pair, TypeError for what
    is neither a string nor ids.
    """
    if isinstance(text, str):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RefusedError(
                f"the text holds half of a surrogate pair at character {error.start}",
                code="invalid_unicode",
            ) from None
        return str(text)
    if isinstance(text, np.ndarray) and text.ndim == 1 and text.dtype.kind in "iu":
        ids: list[int] = text.tolist()
        return ids
    if isinstance(text, Sequence) and all(isinstance(one, int | np.integer) for one in text):
        return [int(one) for one in text]
    raise TypeError(f"a text must be a string or a list of token ids, not {type(text).__name__}")


def size_of(text: str | list[int]) -> int:
    """Bytes of a text in UTF-8; of ids, their number."""
    if isinstance(text, str):
        return len(text) if text.isascii() else len(text.encode())
    return len(text)


def request_body(model: str, texts: Sequence[str | list[int]], wishes: Wishes) -> bytes:
    """The body of `POST /v1/embeddings`."""
    return orjson.dumps(
        {"model": model, "input": texts, "encoding_format": "base64", **wishes.fields()}
    )


def read_answer(body: bytes, texts: int) -> Answer:
    """The answer to a request of so many texts. Raises AnswerError."""
    try:
        found = _BODY.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise AnswerError(f"the answer is none of OpenAI's format: {error}") from error
    if len(found.data) != texts:
        raise AnswerError(f"{len(found.data)} vectors came back for {texts} texts")
    rows: list[NDArray[np.float32] | None] = [None] * texts
    for place, item in enumerate(found.data):
        at = place if item.index is None else item.index
        if not 0 <= at < texts or rows[at] is not None:
            raise AnswerError(f"the answer numbers a vector {at} that was not asked for, or twice")
        rows[at] = _row(item.embedding)
    widths = {len(row) for row in rows if row is not None}
    if len(widths) > 1 or 0 in widths:
        raise AnswerError(f"the answer holds vectors of {sorted(widths)} dimensions")
    vectors = np.stack([row for row in rows if row is not None])
    if not np.isfinite(vectors).all():
        raise AnswerError("the answer holds numbers that are not finite")
    tokens = 0 if found.usage is None else found.usage.prompt_tokens
    return Answer(vectors, tokens)


def read_models(body: bytes) -> list[ServedModel]:
    """The answer to `GET /v1/models`. Raises AnswerError."""
    try:
        found = _MODELS.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise AnswerError(f"the list of models is none of OpenAI's format: {error}") from error
    return [ServedModel(each.id, each.dimensions, each.max_tokens) for each in found.data]


def read_tokens(body: bytes) -> int:
    """Tokens of all texts of a request to count them. Raises AnswerError."""
    try:
        return _COUNTED.decode(body).usage.prompt_tokens
    except (msgspec.DecodeError, RecursionError) as error:
        raise AnswerError(f"the answer counts no tokens: {error}") from error


def read_refusal(status: int, body: bytes) -> RefusedError:
    """What a service says with a status that is no success; its own words where it has some."""
    try:
        error = _REFUSAL.decode(body).error
    except (msgspec.DecodeError, RecursionError):
        error = body[: 4 * MOST_SHOWN].decode("utf-8", "replace")
    if isinstance(error, str):
        error = _Error(error)
    words = " ".join("".join(c if c.isprintable() else " " for c in error.message).split())
    return RefusedError(
        f"status {status}: {words[:MOST_SHOWN] or 'no reason given'}",
        http_status=status,
        code=error.code if isinstance(error.code, str) else None,
        param=error.param if isinstance(error.param, str) else None,
    )


def named_text(error: RefusedError, texts: int) -> int | None:
    """The text that a refusal points at by `input[i]`, in `param` or early in the message."""
    told = f"{error.param or ''} {error.message[:80]}"
    found = re.search(r"input\[(\d{1,6})\]", told)
    return int(found[1]) if found and int(found[1]) < texts else None


def lower(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers by lower-case names."""
    return {name.lower(): value for name, value in headers.items()}


def _row(raw: msgspec.Raw) -> NDArray[np.float32]:
    held = bytes(memoryview(raw))
    try:
        if held[:1] == b"[":
            return np.array(orjson.loads(held), np.float32)
        if held[:1] != b'"':
            raise AnswerError("a vector is neither base64 nor a list of numbers")
        escaped = b"\\" in held  # some writers escape every slash
        coded = orjson.loads(held) if escaped else memoryview(held)[1:-1]
        numbers = np.frombuffer(pybase64.b64decode(coded, validate=True), "<f4")
        return numbers.astype(np.float32, copy=False)
    except (ValueError, TypeError, binascii.Error) as error:
        raise AnswerError(f"a vector can't be read: {error}") from error
