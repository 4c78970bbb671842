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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias, get_args

import msgspec

from embedfleet.vocabulary import CallerError, Role

EncodingFormat: TypeAlias = Literal["float", "base64"]
"""How vectors are written into the answer."""

ENCODING_FORMATS: tuple[EncodingFormat, ...] = get_args(EncodingFormat)

LEAST_DIMENSIONS = 32
"""Qwen3-Embedding is trained for dimensions from 32 to its width."""

LARGEST_ID = 2**31 - 1
"""Token ids travel as 32-bit integers; the encoder knows the real bound, the vocabulary."""

_QUOTED = 60
"""Characters of a caller's value that an error message repeats."""


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
    inputs: tuple[str | Sequence[int], ...]
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


_decoder = msgspec.json.Decoder(_Body)

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


def parse_request(body: bytes, limits: RequestLimits) -> EmbeddingRequest:
    """Read the body of `POST /v1/embeddings`.

    Raises CallerError with `param` and `code`, nothing else, whatever the bytes are.
    """
    fields = _decode(body)
    if not fields.model:
        raise _empty("model", _RIGHT["model"])
    return EmbeddingRequest(
        model=fields.model,
        inputs=_inputs(fields.input, limits),
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
        raise CallerError(
            f"`input` has {len(given)} texts; at most {limits.max_texts} may be sent at once.",
            param="input",
            code="array_above_max_length",
        )
    for position, one in enumerate(given):
        if isinstance(one, str):
            if not one or one.isspace():
                _check_text(one, f"input[{position}]")
        elif not one:
            raise _empty(f"input[{position}]", "at least one token id", code="empty_array")
    return tuple(given)  # type: ignore[arg-type]  # all of one kind, and that is not int


def _check_text(text: str, param: str) -> None:
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


def _decode(body: bytes) -> _Body:
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _wrong_field(str(error)) from None
    except msgspec.DecodeError as error:
        raise _no_json(body, str(error)) from None
    except UnicodeDecodeError:
        raise _no_utf8(body) from None
    except RecursionError:
        raise CallerError("The body is nested too deeply.", code="invalid_json") from None


_PATH = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_GOT = re.compile(r"got `(?P<kind>[^`]*)`$")
_ENUM = re.compile(r"^Invalid enum value (?P<value>'.*')$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<field>[^`]*)`$")


def _wrong_field(complaint: str) -> CallerError:
    """Turn msgspec's `Expected X, got Y - at $.path` into words about the parameter."""
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


def _no_json(body: bytes, complaint: str) -> CallerError:
    if not body:
        return CallerError("The body is empty; it must be a JSON object.", code="invalid_json")
    match = _BYTE.match(complaint)
    what, at = (match["what"], match["at"]) if match else (complaint, None)
    if at is None:  # msgspec says "Input data was truncated" and means the end, with one exception
        what, at = "it ends too early", str(len(body))
        if half := _HALF_PAIR.search(body):
            what, at = "an escaped half of a surrogate pair", str(half.start())
    return CallerError(f"The body is not valid JSON: {what}, at byte {at}.", code="invalid_json")


def _no_utf8(body: bytes) -> CallerError:
    where = ""
    try:
        body.decode()
    except UnicodeDecodeError as error:  # msgspec counts within the string, callers in the body
        where = f", at byte {error.start}"
    return CallerError(f"The body is not valid UTF-8{where}.", code="invalid_utf8")
