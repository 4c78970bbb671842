"""Parses large embeddings requests incrementally, so that no step holds the GIL for long.

A JSON parser builds an object per value, so a body of one-number lists takes seconds and thirty
times its size. Here a lexical scan (NumPy, which releases the GIL) finds where fields, elements and
strings end; limits that can be checked by counting are checked before anything is parsed. The rest
is passed to the parser in bounded slices: the parser alone decides what is valid JSON.

Texts are kept as UTF-8 (`PackedText`) and token ids as int32 arrays, since strings may take four
times and integers ten times their size in the body.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Annotated, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedfleet.vocabulary import Encoding, PackedText

Body: TypeAlias = bytes | bytearray

CHUNK = 256 * 2**10
"""Bytes that are scanned at once."""

SLICE = 32 * 2**10
"""Bytes of lists that are parsed at once: 16,384 numbers, half a millisecond."""

PIECE = 256 * 2**10
"""Bytes of a text that are parsed at once, and are kept as one."""

MAX_BESIDE = 2**20
"""Bytes that all fields but the texts may take together."""

LARGEST_ID = 2**31 - 1

_OPEN, _COMMA, _COLON = np.frombuffer(b"[,:", np.uint8)
_QUOTE, _BACKSLASH = np.frombuffer(b'"\\', np.uint8)

_STRUCTURAL = np.zeros(256, np.bool_)
_STRUCTURAL[list(b"[]{},:")] = True
_STEP = np.zeros(256, np.int8)
_STEP[list(b"[{")] = 1
_STEP[list(b"]}")] = -1

Step: TypeAlias = Callable[[], None]
"""Called between pieces; raises to end the work."""


class UnreadableError(Exception):
    """The parser's complaint about a slice of the body."""

    def __init__(
        self, error: Exception | str, start: int, first: int = 0, outer: int | None = None
    ) -> None:
        """`start` is where the slice begins in the body, `first` the position of its first element
        in `input`, or in the list which is element `outer` of it."""
        super().__init__(str(error))
        self.error, self.start, self.first, self.outer = error, start, first, outer


class TooMuchError(Exception):
    """Refused by counting; `what` is "texts", or "beside" for bytes of other fields."""

    def __init__(self, what: str, count: int) -> None:
        super().__init__(what)
        self.what, self.count = what, count


class Structure(NamedTuple):
    """Where the parts of a body end, strings left out."""

    marks: NDArray[np.int64]
    """Positions of the colons and commas between the fields, and of the closing brace."""
    commas: NDArray[np.int64]
    """Positions of the commas between elements of fields that are lists; not all of them where
    there are more than `most`."""
    elements: int
    """How many such commas there are."""


class Fields(NamedTuple):
    """A body whose texts are cut out."""

    beside: bytes
    """The body with null in its place."""
    start: int
    end: int
    """Where their value stands, white space left out; equal where there is none."""
    commas: NDArray[np.int64]
    """Positions of the commas between its elements."""


def scan(body: Body, most: int, step: Step) -> Structure:
    """Find the structure of an object; UnreadableError where brackets do not match.

    At most `most` positions of each kind are kept.
    """
    marks: list[NDArray[np.int64]] = []
    commas: list[NDArray[np.int64]] = []
    counted = fields = depth = 0
    inside, escaped = False, False
    for start in range(0, len(body), CHUNK):
        step()
        end = min(start + CHUNK, len(body))
        found, inside, escaped = _outside(body, start, end, inside=inside, escaped=escaped)
        if not len(found):
            continue
        kinds = np.frombuffer(body, np.uint8, end - start, start)[found]
        depths = depth + np.cumsum(_STEP[kinds], dtype=np.int64)
        depth = int(depths[-1])
        if (closed := np.flatnonzero(depths <= 0)).size:
            last = start + int(found[closed[0]])
        at = found.astype(np.int64) + start
        between = kinds == _COMMA
        top = at[((depths == 1) & (between | (kinds == _COLON))) | (depths <= 0)]
        second = at[(depths == 2) & between]
        fields += len(top)
        if fields <= most:
            marks.append(top)
        if counted <= most:
            commas.append(second)
        counted += len(second)
        if closed.size:
            if bytes(body[last + 1 : end]).strip(b" \t\r\n") or not _blank(body, end, len(body)):
                raise UnreadableError("trailing characters", last + 1)
            break
    else:
        raise UnreadableError("it ends too early", len(body))
    if fields > most:
        raise TooMuchError("beside", fields)
    return Structure(_joined(marks), _joined(commas), counted)


def _joined(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _outside(
    body: Body, start: int, end: int, *, inside: bool, escaped: bool
) -> tuple[NDArray[np.intp], bool, bool]:
    """Where brackets, commas and colons stand outside of strings, from `start` on.

    Also whether the end is inside of a string, and whether the next byte is escaped there.
    """
    some = np.frombuffer(body, np.uint8, end - start, start)
    quotes = np.flatnonzero(some == _QUOTE)
    slashes = body.find(b"\\", start, end) >= 0
    if slashes or escaped:
        # A quote after an odd number of backslashes is part of its string.
        slash = some == _BACKSLASH
        places = np.arange(1, len(some) + 1, dtype=np.int32)
        last_other = np.maximum.accumulate(np.where(slash, 0, places))
        # Of those that begin the chunk the byte before says whether the first is escaped itself.
        run = places - last_other + np.where(last_other == 0, int(escaped), 0)
        run = run.astype(np.int32)
        before = np.empty(len(some), np.int32)
        before[0] = int(escaped)
        before[1:] = np.where(slash[:-1], run[:-1], 0)
        quotes = quotes[before[quotes] % 2 == 0]
        escaped = bool(slash[-1]) and bool(run[-1] % 2)
    if not len(quotes):
        if inside:
            return np.empty(0, np.intp), True, escaped
        return np.flatnonzero(_STRUCTURAL[some]), False, escaped
    toggles = np.zeros(len(some), np.uint8)
    toggles[quotes] = 1
    toggles[0] ^= inside
    within = np.bitwise_xor.accumulate(toggles)
    ends_inside = bool(within[-1])
    return np.flatnonzero(_STRUCTURAL[some] & (within == 0)), ends_inside, escaped


def split(body: Body, max_texts: int, step: Step, name: str = "input") -> Fields:
    """Cut the field `name`, the texts, out of a body; TooMuchError, UnreadableError."""
    start = past_space(body, 0, len(body))
    if body[start : start + 1] != b"{":
        raise UnreadableError("not an object", start)
    structure = scan(body, MAX_BESIDE + max_texts, step)
    value = _value_of(name, body, start, structure.marks)
    if value is None:
        raise TooMuchError("beside", len(body))
    first = past_space(body, value[0], value[1])
    last = _before_space(body, first, value[1])
    size = len(body) - (last - first)
    if size > MAX_BESIDE:
        raise TooMuchError("beside", size)
    commas = structure.commas
    commas = commas[(commas >= first) & (commas < last)]
    beside = bytes(body[:first]) + b"null" + bytes(body[last:])
    if body[first : first + 1] == b"[" and len(commas) >= max_texts:
        element = past_space(body, first + 1, last)
        if body[element : element + 1] in (b'"', b"[", b"{"):
            most = MAX_BESIDE + max_texts
            raise TooMuchError(
                "texts", structure.elements + 1 if structure.elements > most else len(commas) + 1
            )
    return Fields(beside, first, last, commas)


def _value_of(
    name: str, body: Body, start: int, marks: NDArray[np.int64]
) -> tuple[int, int] | None:
    """Where the value of the last field of this name stands."""
    found = None
    before = start
    key_end = -1
    for mark in marks.tolist():
        if body[mark] == _COLON:
            if key_end < 0:
                key_end = mark
            continue
        if key_end >= 0 and _is_named(name, body, before + 1, key_end):
            found = (key_end + 1, mark)
        before, key_end = mark, -1
    return found


_LONGEST_KEY = 64


def _is_named(name: str, body: Body, start: int, end: int) -> bool:
    start = past_space(body, start, end)
    end = _before_space(body, start, end)
    if end - start > _LONGEST_KEY:
        return False
    key = bytes(body[start:end])
    try:
        return bool(msgspec.json.decode(key) == name)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


_NOT_SPACE = re.compile(rb"[^ \t\r\n]")


def past_space(body: Body, start: int, end: int) -> int:
    """The first byte that is no white space."""
    for at in range(start, end, CHUNK):
        if found := _NOT_SPACE.search(body, at, min(at + CHUNK, end)):
            return found.start()
    return end


def _before_space(body: Body, start: int, end: int) -> int:
    """The end without the white space before it."""
    while end > start:
        begin = max(start, end - CHUNK)
        left = len(bytes(body[begin:end]).rstrip(b" \t\r\n"))
        if left:
            return begin + left
        end = begin
    return end


def _blank(body: Body, start: int, end: int) -> bool:
    return past_space(body, start, end) == end


_TokenId: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_ID)]
_ids = msgspec.json.Decoder(list[_TokenId])
_texts = msgspec.json.Decoder(list[str])
_text = msgspec.json.Decoder(str)
_LONGEST_NUMBER = 64


def elements(body: Body, fields: Fields) -> Iterator[tuple[int, int]]:
    """Where the elements of a list stand, white space left out."""
    before = fields.start
    for comma in (*fields.commas.tolist(), fields.end - 1):
        first = past_space(body, before + 1, comma)
        yield first, _before_space(body, first, comma)
        before = comma


def read_ids(body: Body, start: int, end: int, step: Step, place: int | None = None) -> Encoding:
    """Token ids between the brackets of a list; UnreadableError.

    `place` is that of the list in `input`, None where the ids are `input` itself.
    """
    commas = 0
    for begin in range(start, end, CHUNK):
        step()
        commas += body.count(b",", begin, min(begin + CHUNK, end))
    found = np.empty(commas + 1, np.int32)
    at, count = start, 0
    while at < end:
        step()
        stop = min(at + SLICE, end)
        if stop < end:
            comma = body.rfind(b",", at, stop)
            stop = comma if comma >= 0 else _number_end(body, at, end)
        some = b"[%b]" % _squeezed(body, at, stop)
        try:
            ids = _ids.decode(some)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UnreadableError(error, at - 1, count, place) from None
        if not ids and (count or stop < end):
            raise UnreadableError("expected a value", stop)
        found[count : count + len(ids)] = ids
        count += len(ids)
        if stop == end - 1 and body[stop : stop + 1] == b",":
            raise UnreadableError("trailing comma in array", stop)
        at = stop + 1
    return found[:count]


def _number_end(body: Body, at: int, end: int) -> int:
    """The comma after a number with much white space around it, or the end."""
    first = past_space(body, at, end)
    for mark in range(first, end, CHUNK):
        comma = body.find(b",", mark, min(mark + CHUNK, end))
        if comma >= 0:
            return comma
    return end


def _squeezed(body: Body, start: int, end: int) -> bytes:
    """A slice with at most one number; what is too long for any number is left out."""
    if end - start <= SLICE:
        return bytes(body[start:end])
    first = past_space(body, start, end)
    last = _before_space(body, first, end)
    return bytes(body[first : min(last, first + _LONGEST_NUMBER)])


class TextItem(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A text as an object, as Jina has it: what stands beside it would be another input."""

    text: str
    type: Literal["text"] = "text"


class _ItemWithoutText(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    text: None
    type: Literal["text"] = "text"


_items = msgspec.json.Decoder(list[TextItem])
_items_without_text = msgspec.json.Decoder(list[_ItemWithoutText])


def read_texts(body: Body, fields: Fields, step: Step) -> Iterator[tuple[int, list[PackedText]]]:
    """The texts of a list of strings or of objects with a `text`, whichever its first element is,
    in runs, each with the position of its first.
    """
    first = past_space(body, fields.start + 1, fields.end)
    parse, read_one = (
        (_parse_items, read_item) if body[first : first + 1] == b"{" else (_texts.decode, read_text)
    )
    run: list[tuple[int, int]] = []
    size, place = 0, 0
    for first, last in elements(body, fields):
        if last - first > SLICE:
            if run:
                yield place, _run(body, run, place, step, parse)
                place, run, size = place + len(run), [], 0
            yield place, [read_one(body, first, last, step, place)]
            place += 1
            continue
        run.append((first, last))
        size += last - first
        if size >= SLICE:
            yield place, _run(body, run, place, step, parse)
            place, run, size = place + len(run), [], 0
    if run:
        yield place, _run(body, run, place, step, parse)


def _parse_items(some: bytes) -> list[str]:
    return [each.text for each in _items.decode(some)]


def _run(
    body: Body,
    run: list[tuple[int, int]],
    place: int,
    step: Step,
    parse: Callable[[bytes], list[str]],
) -> list[PackedText]:
    step()
    some = b"[%b]" % b",".join([bytes(body[first:last]) for first, last in run])
    try:
        texts = parse(some)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableError(error, run[0][0] - 1, place) from None
    return [PackedText((text.encode(),)) for text in texts]


KINDS = {"[": "array", "{": "object", "t": "bool", "f": "bool", "n": "null", "-": "int"}
KINDS |= dict.fromkeys("0123456789", "int")


def read_item(body: Body, start: int, end: int, step: Step, place: int = 0) -> PackedText:
    """The text of an object with a `text`; its other fields may take a mebibyte."""
    try:
        found = split(bytes(body[start:end]), 1, step, "text")
        _items_without_text.decode(b"[%b]" % found.beside)
    except UnreadableError as error:
        raise UnreadableError(error.error, start + error.start, place) from None
    except TooMuchError:  # nothing in it is the text
        complaint = "Object missing required field `text` - at `$[0]`"
        raise UnreadableError(msgspec.ValidationError(complaint), start, place) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableError(error, start - 1, place) from None
    first = start + found.start
    kind = KINDS.get(body[first : first + 1].decode("latin-1"))
    if kind is not None:
        complaint = f"Expected `str`, got `{kind}` - at `$[0].text`"
        raise UnreadableError(msgspec.ValidationError(complaint), first, place)
    return read_text(body, first, start + found.end, step, place)


def read_text(body: Body, start: int, end: int, step: Step, place: int = 0) -> PackedText:
    """A string, from one of its quotes to the other."""
    if (kind := KINDS.get(body[start : start + 1].decode("latin-1"))) is not None:
        raise UnreadableError(
            msgspec.ValidationError(f"Expected `str`, got `{kind}` - at `$[0]`"), start, place
        )
    if body[start : start + 1] != b'"' or body[end - 1 : end] != b'"' or end - start < 2:
        some = bytes(body[start : min(end, start + _LONGEST_NUMBER)])
        try:
            _text.decode(some)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UnreadableError(error, start) from None
        raise UnreadableError("expected a comma or the end of a string", start)
    parts: list[bytes] = []
    at, end = start + 1, end - 1
    while at < end:
        step()
        stop = min(at + PIECE, end)
        piece = bytes(body[at:stop])
        if stop < end:
            piece = piece[: cut(piece, body[stop])]
        try:
            parts.append(_text.decode(b'"%b"' % piece).encode())
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnreadableError(error, at - 1) from None
        at += len(piece)
    return PackedText(tuple(parts))


_HALVES = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\Z")


def cut(piece: bytes, following: int) -> int:
    """How much of a string's beginning can be read on its own: no escape, pair of them or character
    is torn. `following` is the byte after it."""
    end = len(piece)
    if (at := piece.rfind(b"\\", max(0, end - 12))) >= 0 and _begins(piece, at):
        # Six bytes at most; whole ones are left to the next piece all the same.
        end = at
    if _HALVES.search(piece, max(0, end - 6), end) and _begins(piece, end - 6):
        end -= 6
    if end < len(piece):
        following = piece[end]
    for _ in range(3):
        if following & 0xC0 != 0x80 or end <= 1:  # a continuation byte of UTF-8
            break
        end -= 1
        following = piece[end]
    return end or len(piece)


def _begins(piece: bytes, at: int) -> bool:
    """Whether the backslash there begins an escape: an even number of them stands before it."""
    head = piece[:at]
    return (at - len(head.rstrip(b"\\"))) % 2 == 0
