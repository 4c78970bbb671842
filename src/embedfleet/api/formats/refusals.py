"""The refusals of request bodies, in words: what is wrong, where, and what would be right.

Pure: from what a parser says to a CallerError with `param` and `code` (`error_codes`). Of a
caller's values a message repeats at most `QUOTED` characters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from embedfleet.api.formats import large_bodies as large
from embedfleet.api.formats.embedding_request import RequestLimits
from embedfleet.api.formats.large_bodies import LARGEST_ID, Body, TextItem
from embedfleet.vocabulary import CallerError

QUOTED = 60
"""Characters of a caller's value that an error message repeats."""

_COMPLAINT = 200
"""Characters of either end of the parser's message that are looked at."""

UNKNOWN_FIELD = "Object contains unknown field"
"""Begins the parser's message about a field that is not described."""

_ELEMENT = re.compile(r"\$\[(\d+)\]")
_PATH = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_GOT = re.compile(r"got `(?P<kind>[^`]*)`$")
_ENUM = re.compile(r"^Invalid enum value (?P<value>'.*')$", re.DOTALL)
_ODD = re.compile(r"^Object contains unknown field `(?P<field>[^`]*)`$")
_MISSING = re.compile(r"^Object missing required field `(?P<field>[^`]*)`$")
_BYTE = re.compile(r"^(?:JSON is malformed: )?(?P<what>.*?)(?: \(byte (?P<at>\d+)\))?$", re.DOTALL)
_HALF_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")

KIND_NAMES = {
    "str": "a string",
    "int": "an integer",
    "float": "a number with a fraction or exponent",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
}


@dataclass(frozen=True, slots=True)
class Refusals:
    """The refusals of one API's bodies."""

    texts: str
    """The name of the field that holds the texts."""
    right: Mapping[str, str]
    """What each field must be, in the words of error messages."""

    def nothing(self) -> CallerError:
        """An empty list where texts are required."""
        right = f"{self.right[self.texts]}, with something in it"
        return empty(self.texts, right, code="empty_array")

    def too_many(self, texts: int, limits: RequestLimits) -> CallerError:
        return CallerError(
            f"`{self.texts}` has {texts} texts; at most {limits.max_texts} may be sent at once.",
            param=self.texts,
            code="array_above_max_length",
        )

    def mixed(self, given: Sequence[object]) -> CallerError:
        """A list of elements of several kinds; names the first that differs from element 0."""
        names = {
            str: "a string",
            int: "a token id",
            list: "a list of token ids",
            TextItem: "an object",
        }
        kind = type(given[0])
        at = next(place for place, one in enumerate(given) if type(one) is not kind)
        texts = self.texts
        return CallerError(
            f"`{texts}[{at}]` is {names[type(given[at])]} and `{texts}[0]` {names[kind]}; "
            f"`{texts}` must be {self.right[texts]}.",
            param=f"{texts}[{at}]",
            code="invalid_type",
        )

    def parse_error(self, body: Body, error: Exception) -> CallerError:
        """Translate an error of the parser about a whole body."""
        match error:
            case msgspec.ValidationError():
                return self.wrong_field(str(error))
            case msgspec.DecodeError():
                return invalid_json(body, str(error))
            case UnicodeDecodeError():
                return invalid_utf8(body)
            case _:
                return too_deep()

    def unreadable(self, body: Body, error: large.UnreadableError) -> CallerError:
        """Translate an error about a slice, with positions in the whole body."""
        if isinstance(error.error, msgspec.ValidationError):
            path = f"$.{self.texts}"
            path = path if error.outer is None else f"{path}[{error.outer}]"
            place = _ELEMENT.sub(
                lambda match: f"{path}[{error.first + int(match[1])}]", str(error), 1
            )
            return self.wrong_field(place)
        if isinstance(error.error, UnicodeDecodeError):
            return invalid_utf8(body)
        if isinstance(error.error, RecursionError):
            return too_deep()
        if str(error) == "not an object":
            kind = large.KINDS.get(chr(body[error.start]) if error.start < len(body) else "")
            if kind is not None:
                return CallerError(
                    f"The body must be a JSON object; got {KIND_NAMES.get(kind, kind)}.",
                    code="invalid_type",
                )
            return invalid_json(body, f"expected an object (byte {error.start})")
        what = _BYTE.match(str(error))
        at = error.start + int(what["at"] or 0) if what else error.start
        return invalid_json(body, f"{what['what'] if what else error} (byte {at})")

    def wrong_kind(self, value: bytes) -> CallerError:
        """A value in the place of the texts that is neither a string nor a list."""
        return self.wrong_field(f"{kind_error(value, 'str | array', f'$.{self.texts}')}")

    def wrong_field(self, complaint: str) -> CallerError:
        """Translate msgspec's `Expected X, got Y - at $.path` into an error of the parameter."""
        if len(complaint) > 2 * _COMPLAINT:  # it repeats values of callers, which may be long
            complaint = complaint[:_COMPLAINT] + complaint[-_COMPLAINT:]
        match = _PATH.match(complaint)
        what, path = (match["what"], match["path"]) if match else (complaint, None)
        if path and (odd := _ODD.match(what)):
            return no_text(path, odd["field"])
        if absent := _MISSING.match(what):
            field = absent["field"]
            if path:
                return no_text(path)
            return missing(field, self.right.get(field, "given"))
        if not path:
            return CallerError(f"The body must be a JSON object{_got(what)}.", code="invalid_type")
        if enum := _ENUM.match(what):
            return CallerError(
                f"`{path}` must be {self.right.get(path, 'one of the known values')}; "
                f"got {enum['value'][:QUOTED]}.",
                param=path,
                code="invalid_value",
            )
        field, bracket, _ = path.partition("[")
        right = self.right.get(field, what)
        if bracket and field == self.texts:
            right = self._right_element(path, what)
        code = "invalid_type" if "got `" in what else "invalid_value"
        return CallerError(f"`{path}` must be {right}{_got(what)}.", param=path, code=code)

    def _right_element(self, path: str, what: str) -> str:
        """Say what an element must be; a number out of bounds was meant as an id."""
        right = self.right[self.texts]
        if not right.endswith("token ids"):
            return f"a string, as `{self.texts}` is {right}"
        if path.count("[") > 1 or "got `" not in what:
            return f"a token id, an integer from 0 to {LARGEST_ID}"
        return f"a string, a token id or a list of token ids, as `{self.texts}` is {right}"


def blank(param: str) -> CallerError:
    """The refusal of a text of white space alone (`gateway.blank_texts`)."""
    return CallerError(
        f"`{param}` is blank: only white space. Leave blank texts out.",
        param=param,
        code="blank_string",
    )


def no_text(param: str, field: str = "") -> CallerError:
    """The refusal of an object among the texts that is not a `TextItem`."""
    what = f"`{param}` has the field `{field[:QUOTED]}`" if field else f"`{param}` is not a text"
    return CallerError(
        f'{what}; an object must be {{"text": "…"}} and nothing else, as only texts have vectors.',
        param=param,
        code="unsupported_parameter" if field else "missing_required_parameter",
    )


def no_ids(param: str) -> CallerError:
    return CallerError(
        f"`{param}` has token ids, but only texts are accepted here (gateway.input_ids); with "
        "LangChain, check_embedding_ctx_length=False sends texts.",
        param=param,
        code="token_ids_refused",
    )


def empty(param: str, right: str, *, code: str = "empty_string") -> CallerError:
    return CallerError(f"`{param}` is empty; it must be {right}.", param=param, code=code)


def missing(param: str, right: str) -> CallerError:
    return CallerError(
        f"`{param}` is missing; it must be {right}.",
        param=param,
        code="missing_required_parameter",
    )


def kind_error(value: bytes, expected: str, path: str = "$[0]") -> msgspec.DecodeError:
    """What the parser says of a value of another kind, which may be too long to give to it."""
    kind = large.KINDS.get(value[:1].decode("latin-1"))
    if kind is None:
        return msgspec.DecodeError("invalid character (byte 0)")
    return msgspec.ValidationError(f"Expected `{expected}`, got `{kind}` - at `{path}`")


def _got(what: str) -> str:
    match = _GOT.search(what)
    return f"; got {KIND_NAMES.get(match['kind'], match['kind'])}" if match else ""


def too_deep() -> CallerError:
    return CallerError("The body is nested too deeply.", code="invalid_json")


def invalid_json(
    body: Body, complaint: str, left_out_at: int | None = None, left_out: int = 0
) -> CallerError:
    """The refusal of malformed JSON; `complaint` is the parser's. `left_out` bytes are missing in
    `body`, from `left_out_at` on, and are counted in positions."""
    if not body:
        return CallerError("The body is empty; it must be a JSON object.", code="invalid_json")
    match = _BYTE.match(complaint)
    what, at = (match["what"], match["at"]) if match else (complaint, None)
    if at is None:  # msgspec says "Input data was truncated" and means the end, with one exception
        what, at = "it ends too early", str(len(body))
        if half := _HALF_PAIR.search(body):
            what, at = "an escaped half of a surrogate pair", str(half.start())
    if left_out_at is not None and int(at) > left_out_at:
        at = str(int(at) + left_out)
    if "surrogate" in what:
        return CallerError(
            f"The body is not valid Unicode: an escaped half of a surrogate pair, at byte {at}.",
            code="invalid_unicode",
        )
    return CallerError(f"The body is not valid JSON: {what}, at byte {at}.", code="invalid_json")


def invalid_utf8(body: Body) -> CallerError:
    where = ""
    try:
        body.decode()
    except UnicodeDecodeError as error:  # msgspec counts within the string, callers in the body
        where = f", at byte {error.start}"
    return CallerError(f"The body is not valid UTF-8{where}.", code="invalid_utf8")
