"""Parses request bodies of every API: fields by declaration, texts by shared rules.

An API declares its fields as a `msgspec.Struct` and names those that hold texts. Small bodies are
parsed at once, large ones in pieces (`large_bodies`), with identical results and errors. Whatever
the bytes are, only CallerError is raised.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from embedfleet.api.formats import large_bodies as large
from embedfleet.api.formats import refusals
from embedfleet.api.formats.embedding_request import RequestLimits
from embedfleet.api.formats.large_bodies import Body, Step, TextItem
from embedfleet.vocabulary import CallerError, Encoding, Text, TextOrIds, of_several

SMALL_BYTES = 16 * 2**10
"""Bodies up to this size are parsed at once, which takes two milliseconds at most."""

MEDIUM_BYTES = 2**20
MEDIUM_VALUES = 16_384
"""So are bodies up to so many bytes with so few commas and brackets: it is these that take time."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Some editors and Windows programs begin with it; RFC 8259 lets readers skip it."""

TEXTS_OR_IDS = "a string, a list of strings, a list of token ids, or a list of lists of token ids"
TEXTS = "a string or a list of strings"

Fields = TypeVar("Fields", bound=msgspec.Struct)

Given = str | Sequence[str | int | Sequence[int] | TextItem]
"""Texts as a parser gives them."""


class Texts(msgspec.Struct, frozen=True):
    """The texts of a request."""

    good: tuple[TextOrIds, ...]
    faults: tuple[tuple[int, CallerError], ...] = ()
    """The position and error of each invalid text; these are not among the good ones."""
    places: tuple[int, ...] | None = None
    """The position of each good one; None where all are good."""


class Read(msgspec.Struct, Generic[Fields], frozen=True):
    """The contents of a body."""

    fields: Fields
    """Ignore that of the texts: `texts` has them."""
    texts: Texts
    further: Mapping[str, msgspec.Raw]
    """Unknown fields, in order."""


def is_quickly_read(body: Body) -> bool:
    """Whether a body takes milliseconds to parse; else it is to be read in pieces, in a thread."""
    if len(body) <= SMALL_BYTES:
        return True
    return len(body) <= MEDIUM_BYTES and body.count(b",") + body.count(b"[") <= MEDIUM_VALUES


class Reader(Generic[Fields]):
    """Reads bodies of one API."""

    def __init__(
        self,
        fields: type[Fields],
        texts: str,
        right: Mapping[str, str],
        *,
        may_be_empty: bool = False,
        takes_items: bool = False,
    ) -> None:
        """`fields` forbids unknown fields, `texts` is the name of the one with the texts, and
        `right` says what each must be, in the words of error messages. `may_be_empty` where the API
        answers a request without texts with no vectors, `takes_items` where a text may be a
        `TextItem`.
        """
        described = msgspec.structs.fields(fields)
        self.names = frozenset(each.encode_name for each in described)
        self._texts = texts
        self._refusals = refusals.Refusals(texts, right)
        self._may_be_empty = may_be_empty
        self._takes_items = takes_items
        self._exact = msgspec.json.Decoder(fields)
        named = f"{fields.__name__}Lenient"
        lenient = msgspec.defstruct(named, [], bases=(fields,), forbid_unknown_fields=False)
        self._lenient: msgspec.json.Decoder[Any] = msgspec.json.Decoder(lenient)
        self._raw = msgspec.json.Decoder(dict[str, msgspec.Raw])
        beside = msgspec.defstruct(
            f"{fields.__name__}Beside",
            [_beside(each, texts) for each in described],
            kw_only=True,
        )
        self._beside: msgspec.json.Decoder[Any] = msgspec.json.Decoder(beside)

    def read(self, body: Body, limits: RequestLimits) -> Read[Fields]:
        """Read a body that `is_quickly_read`; raises CallerError with `param` and `code`."""
        body = body.removeprefix(BYTE_ORDER_MARK)
        further: Mapping[str, msgspec.Raw] = {}
        try:
            fields = self._exact.decode(body)
        except msgspec.DecodeError as error:
            if not str(error).startswith(refusals.UNKNOWN_FIELD):
                raise self._refusals.parse_error(body, error) from None
            fields, further = self._widely(body)
        except (UnicodeDecodeError, RecursionError) as error:
            raise self._refusals.parse_error(body, error) from None
        given = getattr(fields, self._texts)
        texts = Texts(()) if given is None else self.texts_of(given, limits)
        return Read(fields, texts, further)

    def read_large(
        self, body: Body, limits: RequestLimits, step: Step = lambda: None
    ) -> Read[Fields]:
        """Read any body in pieces, for a thread of its own.

        As `read`, but for texts, which are packed, token ids, which are arrays, and all fields
        beside the texts, which may take a mebibyte together. `step` is called between pieces, some
        milliseconds apart at most, and ends the work by raising an error, which comes out.
        """
        try:
            found = large.split(body, limits.max_texts, step, self._texts)
            fields, further = self._read_beside(found, len(body))
            return Read(fields, self._large_texts(body, found, limits, step), further)
        except large.TooMuchError as error:
            if error.what == "texts":
                raise self._refusals.too_many(error.count, limits) from None
            raise CallerError(
                f"The fields beside `{self._texts}` take more than {large.MAX_BESIDE} bytes "
                "together; leave out what is not needed.",
                code="fields_too_large",
            ) from None
        except large.UnreadableError as error:
            raise self._refusals.unreadable(body, error) from None

    def _widely(self, body: Body) -> tuple[Fields, Mapping[str, msgspec.Raw]]:
        """Read a body with unknown fields; requests without any take the faster path."""
        try:
            fields = self._lenient.decode(body)
            every = self._raw.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._refusals.parse_error(body, error) from None
        return fields, {name: raw for name, raw in every.items() if name not in self.names}

    def _read_beside(
        self, found: large.Fields, size: int
    ) -> tuple[Fields, Mapping[str, msgspec.Raw]]:
        try:
            fields: Fields = self._beside.decode(found.beside)
            every = self._raw.decode(found.beside)
        except msgspec.ValidationError as error:
            raise self._refusals.wrong_field(str(error)) from None
        except msgspec.DecodeError as error:
            cut = size - len(found.beside)
            raise refusals.invalid_json(found.beside, str(error), found.start, cut) from None
        except UnicodeDecodeError:
            raise refusals.invalid_utf8(found.beside) from None
        except RecursionError:
            raise refusals.too_deep() from None
        return fields, {name: raw for name, raw in every.items() if name not in self.names}

    # ---- texts ---------------------------------------------------------------------------

    def texts_of(self, given: Given, limits: RequestLimits) -> Texts:
        """Bring the forms of texts into one; refuse empty lists, mixed kinds and too many."""
        if not given and self._may_be_empty:
            return Texts(())
        if isinstance(given, str):
            return self._one(given, limits)
        if not given:
            raise self._refusals.nothing()
        kind = type(given[0])
        if len(set(map(type, given))) > 1:
            raise self._refusals.mixed(given)
        if kind is int:
            ids: Any = given
            return self._one(ids, limits)
        texts: Any = _texts_of_items(given) if kind is TextItem else given
        if len(texts) > limits.max_texts:
            raise self._refusals.too_many(len(texts), limits)
        faults: list[tuple[int, CallerError]] = []
        for place, one in enumerate(texts):
            if one and limits.blank_texts and kind is str:
                continue
            if fault := text_fault(one, f"{self._texts}[{place}]", limits):
                faults.append((place, fault))
        return _sorted(texts, faults)

    def _large_texts(
        self, body: Body, found: large.Fields, limits: RequestLimits, step: Step
    ) -> Texts:
        first, last = found.start, found.end
        opening = body[first : first + 1]
        if opening == b'"':
            text = large.read_text(body, first, last, step)
            return self._one(text, limits)
        if opening != b"[":
            raise self._refusals.wrong_kind(bytes(body[first : first + refusals.QUOTED]))
        if body[last - 1 : last] != b"]":
            raise large.UnreadableError("expected the end of a list", last - 1)
        opening = body[(at := large.past_space(body, first + 1, last)) : at + 1]
        if opening == b"]":
            return self.texts_of([], limits)
        if opening == b'"' or (opening == b"{" and self._takes_items):
            each: Iterator[TextOrIds] = _strings(body, found, step)
        elif opening == b"[":
            each = _lists(body, found, step)
        else:
            return self._one(large.read_ids(body, first + 1, last - 1, step), limits)
        texts: list[TextOrIds] = []
        faults: list[tuple[int, CallerError]] = []
        for place, one in enumerate(each):
            texts.append(one)
            if fault := text_fault(one, f"{self._texts}[{place}]", limits):
                faults.append((place, fault))
        return _sorted(texts, faults)

    def _one(self, text: TextOrIds, limits: RequestLimits) -> Texts:
        if fault := text_fault(text, self._texts, limits):
            return Texts((), ((0, fault),), ())
        return Texts((text,))


def checked(texts: Texts, *, by_item: bool) -> Texts:
    """The same; raises one CallerError for all texts that are none, unless they are answered one
    by one.
    """
    if texts.faults and not by_item:
        raise of_several([fault for _, fault in texts.faults])
    return texts


def text_fault(
    text: Text | Sequence[int] | Encoding, param: str, limits: RequestLimits
) -> CallerError | None:
    """What is wrong with a text or token ids, as far as it can be checked without the model."""
    if not len(text):
        if isinstance(text, Text):
            return refusals.empty(param, "a text of at least one character")
        return refusals.empty(param, "at least one token id", code="empty_array")
    if limits.input_ids == "refuse" and not isinstance(text, Text):
        return refusals.no_ids(param)
    if limits.blank_texts or not isinstance(text, Text) or not text.isspace():
        return None
    return refusals.blank(param)


def _texts_of_items(items: Any) -> list[str]:
    return [item.text for item in items]


def _sorted(given: Sequence[TextOrIds], faults: Sequence[tuple[int, CallerError]]) -> Texts:
    if not faults:
        return Texts(tuple(given))
    wrong = {place for place, _ in faults}
    places = tuple(place for place in range(len(given)) if place not in wrong)
    return Texts(tuple(given[place] for place in places), tuple(faults), places)


def _beside(field: msgspec.structs.FieldInfo, texts: str) -> tuple[str, Any] | tuple[str, Any, Any]:
    """A field of a body whose texts are cut out."""
    kind = msgspec.Raw if field.encode_name == texts else field.type
    if field.required:
        return (field.name, kind)
    return (field.name, kind, field.default)


def _strings(body: Body, found: large.Fields, step: Step) -> Iterator[TextOrIds]:
    for _, texts in large.read_texts(body, found, step):
        yield from texts


def _lists(body: Body, found: large.Fields, step: Step) -> Iterator[Encoding]:
    for place, (first, last) in enumerate(large.elements(body, found)):
        if body[first : first + 1] != b"[" or body[last - 1 : last] != b"]":
            some = bytes(body[first : min(last, first + refusals.QUOTED)])
            raise large.UnreadableError(refusals.kind_error(some, "array"), first, place)
        yield large.read_ids(body, first + 1, last - 1, step, place)
