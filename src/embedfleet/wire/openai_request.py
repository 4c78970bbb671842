"""What an embeddings request of OpenAI's API means, and what is wrong with one that means nothing.

This module decides which bodies are accepted, and words each refusal so that it names the
parameter and says what would be right. It refuses to know models, tokens and HTTP: whether an id is
in the vocabulary or a text too long is the encoder's to say.

Beyond OpenAI's fields it reads `input_type`, `instruction` and `truncate`, which SDKs send through
`extra_body`. A field that is null is absent. Other fields are ignored, as client libraries send
many; so is what stands in them. Of a field that occurs twice the last one counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias, get_args

import msgspec

from embedfleet.vocabulary import CallerError, Encoding, Role, Text, TextOrIds
from embedfleet.wire import openai_large as large
from embedfleet.wire.openai_large import LARGEST_ID, Body, Step

EncodingFormat: TypeAlias = Literal["float", "base64"]
"""How vectors are written into the answer."""

ENCODING_FORMATS: tuple[EncodingFormat, ...] = get_args(EncodingFormat)

LEAST_DIMENSIONS = 32
"""Qwen3-Embedding is trained for dimensions from 32 to its width."""

SMALL_BYTES = 16 * 2**10
"""Bodies up to this are parsed as they are: whatever is in them, it takes two milliseconds."""

MEDIUM_BYTES = 2**20
MEDIUM_VALUES = 16_384
"""So are bodies up to so many bytes with so few commas and brackets: it is these that take time."""

_QUOTED = 60
"""Characters of a caller's value that an error message repeats."""

_COMPLAINT = 200
"""Characters of either end of the parser's message that are looked at."""


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What one request may hold."""

    max_texts: int = 2048
    """Texts in one request; OpenAI's own limit."""
    max_instruction_characters: int = 4096
    """Length of `instruction`, which is put before every text of the request."""


class EmbeddingRequest(msgspec.Struct, frozen=True):
    """One embeddings request, checked as far as that goes without knowing the model."""

    model: str
    inputs: tuple[TextOrIds, ...]
    """The texts in order, at least one: strings that are not blank, or token ids, at least one."""
    dimensions: int | None = None
    """Wanted length of the vectors, to be checked with `check_dimensions`; None: full width."""
    encoding_format: EncodingFormat = "float"
    role: Role | None = None
    """From `input_type`; None: the texts are embedded as they are."""
    instruction: str | None = None
    """The task that the texts are queries for; takes the place of the role's own prompt."""
    truncate: bool = False
    """Whether over-long texts are cut (True) or refused."""
    user: str | None = None


_TokenId: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_ID)]
_Dimensions: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=LARGEST_ID)]


class _Body(msgspec.Struct, gc=False):
    """The fields that are read. msgspec allows one list in a union; the rest is checked by hand."""

    model: str
    input: str | list[str | _TokenId | list[_TokenId]]
    dimensions: _Dimensions | None = None
    encoding_format: EncodingFormat | None = None
    user: str | None = None
    input_type: Literal["query", "document"] | None = None
    instruction: str | None = None
    truncate: bool | None = None


class _Beside(msgspec.Struct, gc=False):
    """The same without `input`, which is read by itself."""

    model: str
    input: msgspec.Raw
    dimensions: _Dimensions | None = None
    encoding_format: EncodingFormat | None = None
    user: str | None = None
    input_type: Literal["query", "document"] | None = None
    instruction: str | None = None
    truncate: bool | None = None


_decoder = msgspec.json.Decoder(_Body)
_beside_decoder = msgspec.json.Decoder(_Beside)

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Some editors and Windows programs begin with it; RFC 8259 lets readers skip it."""

_INPUT_FORMS = "a string, a list of strings, a list of token ids, or a list of lists of token ids"

_RIGHT = {
    "model": "a string, the name of a served model",
    "input": _INPUT_FORMS,
    "dimensions": f"an integer from {LEAST_DIMENSIONS} to the model's width",
    "encoding_format": 'one of "float" and "base64"',
    "user": "a string",
    "input_type": 'one of "query" and "document"',
    "instruction": "a string",
    "truncate": "true or false",
}
"""What each field must be, in the words of error messages."""


def is_quickly_read(body: Body) -> bool:
    """Whether `parse_request` takes milliseconds, else `parse_large_request` is for it."""
    if len(body) <= SMALL_BYTES:
        return True
    return len(body) <= MEDIUM_BYTES and body.count(b",") + body.count(b"[") <= MEDIUM_VALUES


def parse_request(body: Body, limits: RequestLimits) -> EmbeddingRequest:
    """Read the body of `POST /v1/embeddings`.

    Raises CallerError with `param` and `code`, nothing else, whatever the bytes are.
    """
    fields = _decode(body.removeprefix(BYTE_ORDER_MARK))
    return _request(fields, _inputs(fields.input, limits), limits)


def parse_large_request(
    body: Body, limits: RequestLimits, step: Step = lambda: None
) -> EmbeddingRequest:
    """Read the body of `POST /v1/embeddings` in pieces, for a thread of its own.

    As `parse_request`, but for texts, which are packed, token ids, which are arrays, and all fields
    beside `input`, which may take a mebibyte together. `step` is called between pieces, some
    milliseconds apart at most, and ends the work by raising an error, which comes out.
    """
    try:
        fields = large.split(body, limits.max_texts, step)
        beside = _decode_beside(fields, len(body))
        return _request(beside, _large_inputs(body, fields, step), limits)
    except large.TooMuchError as error:
        if error.what == "texts":
            raise _too_many_texts(error.count, limits) from None
        raise CallerError(
            f"The fields beside `input` take more than {large.MAX_BESIDE} bytes together; leave "
            "out what is not needed.",
            code="fields_too_large",
        ) from None
    except large.UnreadableError as error:
        raise _unreadable(body, error) from None


def _request(
    fields: _Body | _Beside, inputs: tuple[TextOrIds, ...], limits: RequestLimits
) -> EmbeddingRequest:
    if not fields.model:
        raise _empty("model", _RIGHT["model"])
    return EmbeddingRequest(
        model=fields.model,
        inputs=inputs,
        dimensions=fields.dimensions,
        encoding_format=fields.encoding_format or "float",
        role=None if fields.input_type is None else Role(fields.input_type),
        instruction=_instruction(fields.instruction, limits),
        truncate=bool(fields.truncate),
        user=fields.user,
    )


def check_dimensions(request: EmbeddingRequest, width: int) -> None:
    """Raise CallerError unless a model of this width has vectors of the wanted length.

    Any number from 32 to `width` is right; for a model narrower than 32 only its width is.
    """
    wanted = request.dimensions
    least = min(LEAST_DIMENSIONS, width)
    if wanted is None or least <= wanted <= width:
        return
    code = "integer_below_min_value" if wanted < least else "integer_above_max_value"
    raise CallerError(
        f"`dimensions` must be from {least} to {width} for this model; got {wanted}.",
        param="dimensions",
        code=code,
    )


def _inputs(
    given: str | list[str | int | list[int]], limits: RequestLimits
) -> tuple[str | Sequence[int], ...]:
    """Bring the four forms of `input` into one; refuse empty, blank, mixed and too many."""
    if isinstance(given, str):
        _check_text(given, "input")
        return (given,)
    if not given:
        raise _empty("input", f"{_INPUT_FORMS}, with something in it", code="empty_array")
    kind = type(given[0])
    if len(set(map(type, given))) > 1:
        raise _mixed(given)
    if kind is int:
        return (given,)  # type: ignore[return-value]  # all of one kind: a list of ids
    if len(given) > limits.max_texts:
        raise _too_many_texts(len(given), limits)
    for position, one in enumerate(given):
        if isinstance(one, str):
            if not one or one.isspace():
                _check_text(one, f"input[{position}]")
        elif not one:
            raise _empty(f"input[{position}]", "at least one token id", code="empty_array")
    return tuple(given)  # type: ignore[arg-type]  # all of one kind, and that is not int


def _large_inputs(body: Body, fields: large.Fields, step: Step) -> tuple[TextOrIds, ...]:
    first, last = fields.start, fields.end
    opening = body[first : first + 1]
    if opening == b'"':
        text = large.read_text(body, first, last, step)
        _check_text(text, "input")
        return (text,)
    if opening != b"[":
        raise _wrong_kind(bytes(body[first : first + _QUOTED]))
    if body[last - 1 : last] != b"]":
        raise large.UnreadableError("expected the end of a list", last - 1)
    opening = body[(at := large.past_space(body, first + 1, last)) : at + 1]
    if opening == b"]":
        raise _empty("input", f"{_INPUT_FORMS}, with something in it", code="empty_array")
    if opening == b'"':
        return tuple(_large_texts(body, fields, step))
    if opening == b"[":
        return tuple(_large_lists(body, fields, step))
    return (large.read_ids(body, first + 1, last - 1, step),)


def _large_texts(body: Body, fields: large.Fields, step: Step) -> Iterator[TextOrIds]:
    for position, texts in large.read_texts(body, fields, step):
        for at, text in enumerate(texts, position):
            _check_text(text, f"input[{at}]")
            yield text


def _large_lists(body: Body, fields: large.Fields, step: Step) -> Iterator[Encoding]:
    for position, (first, last) in enumerate(large.elements(body, fields)):
        if body[first : first + 1] != b"[" or body[last - 1 : last] != b"]":
            some = bytes(body[first : min(last, first + _QUOTED)])
            raise large.UnreadableError(_kind_error(some, "array"), first, position)
        ids = large.read_ids(body, first + 1, last - 1, step, position)
        if not len(ids):
            raise _empty(f"input[{position}]", "at least one token id", code="empty_array")
        yield ids


def _too_many_texts(texts: int, limits: RequestLimits) -> CallerError:
    return CallerError(
        f"`input` has {texts} texts; at most {limits.max_texts} may be sent at once.",
        param="input",
        code="array_above_max_length",
    )


def _check_text(text: Text, param: str) -> None:
    if not text:
        raise _empty(param, "a text of at least one character that is not white space")
    if text.isspace():
        raise CallerError(
            f"`{param}` is blank: only white space. Leave blank texts out.",
            param=param,
            code="blank_string",
        )


def _instruction(instruction: str | None, limits: RequestLimits) -> str | None:
    if instruction is None:
        return None
    if not instruction or instruction.isspace():
        raise _empty("instruction", "the task in words; leave it out to send none")
    if len(instruction) > limits.max_instruction_characters:
        raise CallerError(
            f"`instruction` has {len(instruction)} characters; at most "
            f"{limits.max_instruction_characters} are accepted.",
            param="instruction",
            code="string_above_max_length",
        )
    return instruction


def _empty(param: str, right: str, *, code: str = "empty_string") -> CallerError:
    return CallerError(f"`{param}` is empty; it must be {right}.", param=param, code=code)


def _mixed(given: Sequence[str | int | list[int]]) -> CallerError:
    names = {str: "a string", int: "a token id", list: "a list of token ids"}
    kind = type(given[0])
    at = next(position for position, one in enumerate(given) if type(one) is not kind)
    return CallerError(
        f"`input[{at}]` is {names[type(given[at])]} and `input[0]` {names[kind]}; "
        f"`input` must be {_INPUT_FORMS}.",
        param=f"input[{at}]",
        code="invalid_type",
    )


def _decode_beside(fields: large.Fields, size: int) -> _Beside:
    try:
        return _beside_decoder.decode(fields.beside)
    except msgspec.ValidationError as error:
        raise _wrong_field(str(error)) from None
    except msgspec.DecodeError as error:
        cut = size - len(fields.beside)
        raise _no_json(fields.beside, str(error), fields.start, cut) from None
    except UnicodeDecodeError:
        raise _no_utf8(fields.beside) from None
    except RecursionError:
        raise _too_deep() from None


def _unreadable(body: Body, error: large.UnreadableError) -> CallerError:
    """Word the complaint about a slice as if it were about the whole body."""
    if isinstance(error.error, msgspec.ValidationError):
        path = "$.input" if error.outer is None else f"$.input[{error.outer}]"
        told = _ELEMENT.sub(lambda match: f"{path}[{error.first + int(match[1])}]", str(error), 1)
        return _wrong_field(told)
    if isinstance(error.error, UnicodeDecodeError):
        return _no_utf8(body)
    if isinstance(error.error, RecursionError):
        return _too_deep()
    if str(error) == "not an object":
        kind = large.KINDS.get(chr(body[error.start]) if error.start < len(body) else "")
        if kind is not None:
            return CallerError(
                f"The body must be a JSON object; got {_KINDS.get(kind, kind)}.",
                code="invalid_type",
            )
        return _no_json(body, f"expected an object (byte {error.start})")
    what = _BYTE.match(str(error))
    at = error.start + int(what["at"] or 0) if what else error.start
    return _no_json(body, f"{what['what'] if what else error} (byte {at})")


_ELEMENT = re.compile(r"\$\[(\d+)\]")


def _wrong_kind(value: bytes) -> CallerError:
    return _wrong_field(f"{_kind_error(value, 'str | array', '$.input')}")


def _kind_error(value: bytes, expected: str, path: str = "$[0]") -> msgspec.DecodeError:
    """What the parser says of a value of another kind, which may be too long to give to it."""
    kind = large.KINDS.get(value[:1].decode("latin-1"))
    if kind is None:
        return msgspec.DecodeError("invalid character (byte 0)")
    return msgspec.ValidationError(f"Expected `{expected}`, got `{kind}` - at `{path}`")


def _too_deep() -> CallerError:
    return CallerError("The body is nested too deeply.", code="invalid_json")


def _decode(body: Body) -> _Body:
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _wrong_field(str(error)) from None
    except msgspec.DecodeError as error:
        raise _no_json(body, str(error)) from None
    except UnicodeDecodeError:
        raise _no_utf8(body) from None
    except RecursionError:
        raise _too_deep() from None


_PATH = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_GOT = re.compile(r"got `(?P<kind>[^`]*)`$")
_ENUM = re.compile(r"^Invalid enum value (?P<value>'.*')$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<field>[^`]*)`$")


def _wrong_field(complaint: str) -> CallerError:
    """Turn msgspec's `Expected X, got Y - at $.path` into words about the parameter."""
    if len(complaint) > 2 * _COMPLAINT:  # it repeats values of callers, which may be long
        complaint = complaint[:_COMPLAINT] + complaint[-_COMPLAINT:]
    match = _PATH.match(complaint)
    what, path = (match["what"], match["path"]) if match else (complaint, None)
    if missing := _MISSING.match(what):
        field = missing["field"]
        return CallerError(
            f"`{field}` is missing; it must be {_RIGHT.get(field, 'given')}.",
            param=field,
            code="missing_required_parameter",
        )
    if not path:
        got = _got(what)
        return CallerError(f"The body must be a JSON object{got}.", code="invalid_type")
    if enum := _ENUM.match(what):
        return CallerError(
            f"`{path}` must be {_RIGHT.get(path, 'one of the known values')}; "
            f"got {enum['value'][:_QUOTED]}.",
            param=path,
            code="invalid_value",
        )
    field, bracket, _ = path.partition("[")
    right = _right_element(path, what) if bracket else _RIGHT.get(field, what)
    code = "invalid_type" if "got `" in what else "invalid_value"
    return CallerError(f"`{path}` must be {right}{_got(what)}.", param=path, code=code)


def _right_element(path: str, what: str) -> str:
    """Say what an element of `input` must be; a number out of bounds was meant as an id."""
    if path.count("[") > 1 or "got `" not in what:
        return f"a token id, an integer from 0 to {LARGEST_ID}"
    return f"a string, a token id or a list of token ids, as `input` is {_INPUT_FORMS}"


_KINDS = {
    "str": "a string",
    "int": "an integer",
    "float": "a number with a fraction or exponent",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
}


def _got(what: str) -> str:
    match = _GOT.search(what)
    return f"; got {_KINDS.get(match['kind'], match['kind'])}" if match else ""


_BYTE = re.compile(r"^(?:JSON is malformed: )?(?P<what>.*?)(?: \(byte (?P<at>\d+)\))?$", re.DOTALL)

_HALF_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")


def _no_json(
    body: Body, complaint: str, left_out_at: int | None = None, left_out: int = 0
) -> CallerError:
    """`left_out` bytes are missing in `body`, from `left_out_at` on."""
    if not body:
        return CallerError("The body is empty; it must be a JSON object.", code="invalid_json")
    match = _BYTE.match(complaint)
    what, at = (match["what"], match["at"]) if match else (complaint, None)
    if at is None:  # msgspec says "Input data was truncated" and means the end, with one exception
        what, at = "it ends too early", str(len(body))
        if half := _HALF_PAIR.search(body):
            what, at = "an escaped half of a surrogate pair", str(half.start())
    if "surrogate" in what:
        what = "an escaped half of a surrogate pair"
    if left_out_at is not None and int(at) > left_out_at:
        at = str(int(at) + left_out)
    return CallerError(f"The body is not valid JSON: {what}, at byte {at}.", code="invalid_json")


def _no_utf8(body: Body) -> CallerError:
    where = ""
    try:
        body.decode()
    except UnicodeDecodeError as error:  # msgspec counts within the string, callers in the body
        where = f", at byte {error.start}"
    return CallerError(f"The body is not valid UTF-8{where}.", code="invalid_utf8")
