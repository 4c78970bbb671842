"""Builds requests and parses responses on the client's side. Pure.

Vectors never become Python floats: base64 is decoded into rows of the result matrix, and a body of
raw bytes is that matrix. JSON numbers are read where a service does not support base64.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, get_args
from urllib.parse import urlsplit

import ml_dtypes
import msgspec
import numpy as np
import orjson
import pybase64
from numpy.typing import NDArray

from embedfleet.client.errors import AnswerError, RefusedError

Texts: TypeAlias = Sequence[str] | Sequence[Sequence[int]] | NDArray[Any]
"""Texts, or a list of token ids for each; not both in one request."""

OutputDtype: TypeAlias = Literal[
    "float32",
    "float16",
    "bfloat16",
    "fp8_e4m3",
    "fp8_e5m2",
    "int8",
    "uint8",
    "binary",
    "ubinary",
]
"""The type of a vector's numbers, named as in the API. Floats that NumPy has no type for are those
of ml_dtypes. `binary` and `ubinary` hold eight dimensions to a byte."""

EncodingFormat: TypeAlias = Literal["base64", "float", "bytes"]
"""The encoding of vectors on the wire: base64 or numbers in JSON, or one body of bytes, which is
fastest and an extension of this service."""

DTYPES: Final[dict[OutputDtype, np.dtype[Any]]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "fp8_e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
    "fp8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "binary": np.dtype(np.int8),
    "ubinary": np.dtype(np.uint8),
}

_ON_THE_WIRE: Final[dict[EncodingFormat, str]] = {
    "base64": "base64",
    "float": "float",
    "bytes": "bytes_only",
}

MALFORMED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What the parser raises of bytes that are not what they should be."""

MOST_SHOWN = 300
"""Characters of a service's message that an error repeats."""


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """Parameters of a request for vectors; None leaves a field out."""

    dimensions: int | None = None
    input_type: str | None = None
    instruction: str | None = None
    truncate: bool = False
    output_dtype: OutputDtype = "float32"

    def __post_init__(self) -> None:
        if self.output_dtype not in DTYPES:
            known = ", ".join(get_args(OutputDtype))
            raise ValueError(f"output_dtype is {self.output_dtype!r}; it must be one of: {known}")

    @property
    def columns(self) -> int | None:
        """Numbers in a row of the answer; None if the request does not determine it."""
        packed = self.output_dtype in {"binary", "ubinary"}
        return self.dimensions // 8 if self.dimensions and packed else self.dimensions

    def fields(self) -> dict[str, Any]:
        """The fields of the request's body."""
        given = {
            "dimensions": self.dimensions,
            "input_type": self.input_type,
            "instruction": self.instruction,
            "truncate": self.truncate or None,
            "output_dtype": None if self.output_dtype == "float32" else self.output_dtype,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that a service lists."""

    name: str
    dimensions: int | None = None
    """Width of a full vector; None if the service does not tell, and for a reranker."""
    max_tokens: int | None = None
    task: Literal["embed", "rerank"] = "embed"
    output_dtypes: tuple[str, ...] = ()
    """The values that `output_dtype` may have; empty if the service does not tell."""
    encoding_formats: tuple[str, ...] = ()
    scales: Mapping[int, float] = field(default_factory=dict)
    """By dimensions, the scale of int8."""
    space: str | None = None
    """The space of its vectors."""

    @property
    def knows_bytes(self) -> bool:
        """Whether it can answer with one body of bytes."""
        return "bytes_only" in self.encoding_formats


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request, in the order of its texts."""

    vectors: NDArray[Any]
    """Shape [texts, dimensions], [texts, dimensions / 8] of bits, [texts, 1] of scores."""
    tokens: int
    """As the service counted them; 0 if it did not."""
    scale: float | None = None
    """The scale of integers, if the service reports it."""


class _Item(msgspec.Struct):
    embedding: msgspec.Raw
    index: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0


class _Body(msgspec.Struct):
    data: list[_Item]
    usage: _Usage | None = None
    output_dtype: str = "float32"
    scale: float | None = None


class _Ranked(msgspec.Struct):
    index: int
    relevance_score: float


class _Ranking(msgspec.Struct):
    results: list[_Ranked]
    usage: _Usage | None = None


class _Model(msgspec.Struct):
    id: str
    dimensions: int | None = None
    max_tokens: int | None = None
    task: str = "embed"
    output_dtypes: tuple[str, ...] = ()
    encoding_formats: tuple[str, ...] = ()
    scales: dict[int, float] = {}
    space: str | None = None


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
_RANKING = msgspec.json.Decoder(_Ranking)
_USAGE = msgspec.json.Decoder(_Usage)
_MODELS = msgspec.json.Decoder(_Models)
_COUNTED = msgspec.json.Decoder(_Counted)
_REFUSAL = msgspec.json.Decoder(_Refusal)


def base_of(url: str) -> str:
    """The address of a service without `/v1`. Raises ValueError for what is none."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # brackets, or a port that is no number
        fits = False
    if not fits:
        raise ValueError(f"{url!r} is not an address such as http://127.0.0.1:8080")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def as_input(text: str | Sequence[int] | NDArray[Any]) -> str | list[int]:
    """A text as a JSON value. Raises RefusedError for a lone surrogate, TypeError for anything but
    a string or token ids.
    """
    if isinstance(text, str):
        try:
            if not text.isascii():
                text.encode()
        except UnicodeEncodeError as error:
            raise RefusedError(
                f"the text has a lone surrogate at character {error.start}",
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


def request_body(
    model: str,
    texts: Sequence[str | list[int]],
    options: EmbedOptions,
    encoding_format: EncodingFormat = "base64",
) -> bytes:
    """The body of `POST /v1/embeddings`."""
    how = _ON_THE_WIRE[encoding_format]
    return orjson.dumps(
        {"model": model, "input": texts, "encoding_format": how, **options.fields()}
    )


def rerank_body(
    model: str, query: str, documents: Sequence[str | list[int]], more: Mapping[str, object]
) -> bytes:
    """The body of `POST /v1/rerank`; `more` are fields beside these."""
    return orjson.dumps({"model": model, "query": query, "documents": documents, **more})


def read_answer(body: bytes, texts: int, output_dtype: OutputDtype = "float32") -> Answer:
    """The answer to a request of so many texts. Raises AnswerError, and RefusedError where it holds
    other numbers than were requested.
    """
    try:
        found = _BODY.decode(body)
    except MALFORMED as error:
        raise AnswerError(f"the response is not in OpenAI's format: {error}") from error
    if len(found.data) != texts:
        raise AnswerError(f"{len(found.data)} vectors came back for {texts} texts")
    _check_dtype(found.output_dtype, output_dtype)
    dtype = DTYPES[output_dtype].newbyteorder("<")
    rows: list[bytes | None] = [None] * texts
    for place, item in enumerate(found.data):
        at = place if item.index is None else item.index
        if not 0 <= at < texts or rows[at] is not None:
            raise AnswerError(f"the response has an unexpected or repeated index {at}")
        rows[at] = _row(item.embedding, dtype)
    full = [row for row in rows if row is not None]
    lengths = set(map(len, full))
    if len(lengths) > 1 or 0 in lengths or any(size % dtype.itemsize for size in lengths):
        widths = ", ".join(f"{size / dtype.itemsize:g}" for size in sorted(lengths))
        raise AnswerError(f"the answer holds vectors of [{widths}] dimensions")
    vectors = np.frombuffer(b"".join(full), dtype).reshape(texts, -1)
    tokens = 0 if found.usage is None else found.usage.prompt_tokens
    return Answer(_finite(vectors.astype(DTYPES[output_dtype], copy=False)), tokens, found.scale)


def read_bytes(
    headers: Mapping[str, str], body: bytes, texts: int, output_dtype: OutputDtype = "float32"
) -> Answer:
    """The answer of raw bytes, which `headers` (by lower-case names) describe. Raises as
    `read_answer` does.
    """
    if "x-embedfleet-shape" not in headers:
        raise RefusedError("the service does not answer in bytes; leave `encoding_format` out")
    _check_dtype(headers.get("x-embedfleet-dtype", "float32"), output_dtype)
    dtype = DTYPES[output_dtype].newbyteorder("<")
    try:
        rows, width = map(int, headers["x-embedfleet-shape"].split(","))
        tokens = _USAGE.decode(headers.get("x-embedfleet-usage", "{}")).prompt_tokens
        scale = headers.get("x-embedfleet-scale")
        step = None if scale is None else float(scale)
    except (ValueError, *MALFORMED) as error:
        raise AnswerError(f"the headers of the answer can't be read: {error}") from error
    if rows != texts:
        raise AnswerError(f"{rows} vectors came back for {texts} texts")
    if width < 1 or len(body) != rows * width * dtype.itemsize:
        raise AnswerError(f"{len(body)} bytes are not {rows} vectors of {width} numbers")
    vectors = np.frombuffer(body, dtype).reshape(rows, width)
    return Answer(_finite(vectors.astype(DTYPES[output_dtype], copy=False)), tokens, step)


def read_scores(body: bytes, documents: int) -> Answer:
    """Scores [documents, 1] of the answer to `POST /v1/rerank`, in the order of the documents, in
    float64. Raises AnswerError.
    """
    try:
        found = _RANKING.decode(body)
    except MALFORMED as error:
        raise AnswerError(f"the response is not in Jina's format: {error}") from error
    if len(found.results) != documents:
        raise AnswerError(f"{len(found.results)} scores came back for {documents} documents")
    scores = np.full((documents, 1), np.nan)
    for each in found.results:
        if not 0 <= each.index < documents or not np.isnan(scores[each.index, 0]):
            raise AnswerError(f"the response has an unexpected or repeated index {each.index}")
        scores[each.index, 0] = each.relevance_score
    return Answer(scores, 0 if found.usage is None else found.usage.prompt_tokens)


def read_models(body: bytes) -> list[ServedModel]:
    """The answer to `GET /v1/models`. Raises AnswerError."""
    try:
        found = _MODELS.decode(body)
    except MALFORMED as error:
        raise AnswerError(f"the list of models is not in OpenAI's format: {error}") from error
    return [
        ServedModel(
            each.id,
            each.dimensions,
            each.max_tokens,
            "rerank" if each.task == "rerank" else "embed",
            each.output_dtypes,
            each.encoding_formats,
            each.scales,
            each.space,
        )
        for each in found.data
    ]


def read_tokens(body: bytes) -> int:
    """Tokens of all texts of a request to count them. Raises AnswerError."""
    try:
        return _COUNTED.decode(body).usage.prompt_tokens
    except MALFORMED as error:
        raise AnswerError(f"the response has no token counts: {error}") from error


def read_refusal(status: int, body: bytes) -> RefusedError:
    """The error for a response with a status other than success, with the service's message."""
    try:
        error = _REFUSAL.decode(body).error
    except MALFORMED:
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
    """The text that a refusal names as `input[i]` or `documents[i]`, in `param` or at the beginning
    of the message.
    """
    told = f"{error.param or ''} {error.message[:80]}"
    found = re.search(r"(?:input|documents)\[(\d{1,6})\]", told)
    return int(found[1]) if found and int(found[1]) < texts else None


def lower(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers by lower-case names."""
    return {name.lower(): value for name, value in headers.items()}


def _check_dtype(told: str, wanted: OutputDtype) -> None:
    if told != wanted:
        raise RefusedError(
            f"the service answers in {told[:MOST_SHOWN]}, not in {wanted}; it may not know "
            "`output_dtype`",
            param="output_dtype",
        )


def _finite(vectors: NDArray[Any]) -> NDArray[Any]:
    if vectors.dtype.kind not in "iu" and not np.isfinite(vectors).all():
        raise AnswerError("the response holds numbers that are not finite")
    return vectors


def _row(raw: msgspec.Raw, dtype: np.dtype[Any]) -> bytes:
    """The numbers of a vector in `dtype`."""
    held = memoryview(raw)
    try:
        if held[0] == ord("["):
            numbers = np.array(orjson.loads(held), dtype)
            if numbers.ndim != 1:
                raise AnswerError("a vector is a list of values that are not numbers")
            return numbers.tobytes()
        if held[0] != ord('"'):
            raise AnswerError("a vector is neither base64 nor a list of numbers")
        try:
            return pybase64.b64decode(held[1:-1], validate=True)
        except binascii.Error:  # some writers escape every slash
            return pybase64.b64decode(orjson.loads(held), validate=True)
    except (ValueError, TypeError, OverflowError) as error:  # binascii.Error is a ValueError
        raise AnswerError(f"a vector can't be read: {error}") from error
