"""The tokenizer of a model, bounded in time and memory for any text.

Follows the tokenizer file except for its post-processor (the encoder adds the template), and works
in pieces, so that cost is bounded by the tokens that are wanted and not by the text.

Special tokens spelled out in a text (`<|im_end|>`) are read as the tokens they name, as by default
in the library and in every other engine; they can only change the vector of that text. Tokens
without a row in the embedding table are treated as ordinary text.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np

from embedfleet.models.encoding.token_ids import OwnIds
from embedfleet.models.tokenizer_file import load_tokenizer
from embedfleet.models.tokenizer_kind import TokenizerKind
from embedfleet.vocabulary import Encoding, Text

Result = TypeVar("Result")

Steps: TypeAlias = Generator[int, None, Result]
"""Work in pieces; each yields its size."""


class SpelledToken(NamedTuple):
    """A token, and where in the text it is."""

    id: int
    text: str
    start: int | None = None
    """Its first character; None of a token that the template adds."""
    stop: int | None = None
    """The one behind its last."""


_PIECE = 16_384
"""Characters after which a text is cut for tokenising. The library needs some 200 bytes of memory
for each, for as long as the call takes."""

_LONGEST_WORD = 8 * _PIECE
"""Characters after which a word is cut if it does not end. Upstream would merge on; nothing that
people write is that long."""

_TOGETHER = 2 * _PIECE
"""Characters tokenised in one call of the library: some ten milliseconds."""

_AT_WORDS = re.compile(r"[^\W\d_](?=[ \n,.;:?!\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f])")
"""Where a text may be cut so that the tokens of the pieces are the tokens of the whole: a letter
before white space or common punctuation ends a word for every byte-level tokenizer of the GPT-2
family, Qwen's included, and for BERT's. None of their patterns has a letter followed by one of
these in a match, and no special token has such a place."""

_AT_BLANKS = re.compile(r"[^\W\d_](?= )")
"""The same where words begin with their blank (SentencePiece): a piece that began with anything
else would be taken for the beginning of a word."""

_NOWHERE = re.compile(r"(?!)")
"""The same where nothing is known of a tokenizer: only after the longest word."""


def _cut(kind: TokenizerKind) -> re.Pattern[str]:
    """Where texts may be cut for a tokenizer."""
    kinds = kind.pre_tokenizers
    if "Metaspace" in kinds:
        return _AT_BLANKS
    return _AT_WORDS if kinds & {"ByteLevel", "BertPreTokenizer"} else _NOWHERE


class Tokenizer:
    """Text to token ids. Threads may share one: the library is thread-safe and releases the GIL.

    A `linear` one is of a known kind and takes time in proportion to a text. What others take
    nobody knows: they work in a process of their own, and each call waits for that.
    """

    def __init__(self, path: Path, vocabulary: int, *, lowercase: bool = False) -> None:
        """Load `tokenizer.json`; ids will be below `vocabulary`. Raises ModelError.

        `lowercase`: whether texts are lower-cased before, prompts included.
        """
        self._library = load_tokenizer(path, vocabulary)
        self.linear = not self._library.kind.unproven
        self._cut = _cut(self._library.kind)
        self._own_ids = OwnIds(self._library)
        self._lowercase = lowercase

    def ids(self, texts: Sequence[Text], *, most: int) -> list[Encoding]:
        """Tokenise texts, without any token added.

        A text of more than `most` tokens may be given up after that many: its result has more than
        `most` tokens, a beginning of all of them.
        """
        return finished(self.steps(texts, most=most))

    def made(self, ids: Encoding) -> bool:
        """Whether ids may be what this tokenizer made of a text, or a part of that."""
        return self._own_ids(ids.tolist())

    def steps(self, texts: Sequence[Text], *, most: int, before: str = "") -> Steps[list[Encoding]]:
        """As `ids`, with `before` in front of each text, in steps of some ten milliseconds; yields
        the characters tokenised by each step."""
        found: list[Encoding | None] = [None] * len(texts)
        together: list[int] = []
        whole: list[str] = []
        characters = 0
        for position, text in enumerate(texts):
            if len(text) + len(before) > _PIECE:
                found[position] = yield from self._steps_of_long(before, text, most)
                continue
            string = self._cased(f"{before}{text}")
            if characters + len(string) > _TOGETHER:
                self._fill(found, whole, together)
                yield characters
                together, whole, characters = [], [], 0
            together.append(position)
            whole.append(string)
            characters += len(string)
        self._fill(found, whole, together)
        yield characters
        return [one for one in found if one is not None]

    def spelled(self, text: Text, *, most: int, before: str = "") -> Steps[list[SpelledToken]]:
        """The tokens of `before` and a text with their places in both together, in steps as
        `steps`; given up after `most`.
        """
        found: list[SpelledToken] = []
        at = 0
        for piece in _pieces(map(self._cased, chain((before,), _strings(text))), self._cut):
            spelling = self._library.spell(piece)
            for number, (start, stop) in zip(spelling.ids, spelling.places, strict=True):
                found.append(SpelledToken(number, piece[start:stop], at + start, at + stop))
            at += len(piece)
            yield len(piece)
            if len(found) > most:
                break
        return found

    def spelling(self, token: int) -> str:
        """How the tokenizer file writes a token."""
        return self._library.token_of(token) or ""

    def close(self) -> None:
        """End the process of a tokenizer that has one."""
        self._library.close()

    def _fill(
        self, found: list[Encoding | None], texts: Sequence[str], positions: Sequence[int]
    ) -> None:
        if not positions:
            return
        for position, ids in zip(positions, self._library.ids(texts), strict=True):
            found[position] = ids

    def _steps_of_long(self, before: str, text: Text, most: int) -> Steps[Encoding]:
        parts: list[Encoding] = []
        count = 0
        strings = map(self._cased, chain((before,), _strings(text)))
        for piece in _pieces(strings, self._cut):
            parts += self._library.ids([piece])
            count += len(parts[-1])
            yield len(piece)
            if count > most:
                break
        return np.concatenate(parts)

    def _cased(self, string: str) -> str:
        return string.lower() if self._lowercase else string


def _strings(text: Text) -> Iterator[str]:
    if isinstance(text, str):
        yield text
    else:
        for piece in text.pieces:
            yield piece.decode()


def _pieces(
    strings: Iterable[str], cut: re.Pattern[str] = _AT_WORDS, *, piece: int = _PIECE
) -> Iterator[str]:
    """Cut a text, which comes in strings, where a word ends, after at least `piece` characters
    each."""
    rest, start = "", 0
    for string in strings:
        rest, start = (rest[start:] + string if start < len(rest) else string), 0
        # What ends a word may only come with the next string.
        while len(rest) - start > _LONGEST_WORD:
            end = _end_of_piece(rest, start, piece, cut)
            yield rest[start:end]
            start = end
    while len(rest) - start > piece:
        end = _end_of_piece(rest, start, piece, cut)
        yield rest[start:end]
        start = end
    if start < len(rest):
        yield rest[start:]


def _end_of_piece(text: str, start: int, piece: int, cut: re.Pattern[str]) -> int:
    found = cut.search(text, start + piece - 1, start + _LONGEST_WORD)
    return found.end() if found else start + _LONGEST_WORD


def finished(steps: Generator[int, None, Result]) -> Result:
    """What comes of steps, all taken at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
