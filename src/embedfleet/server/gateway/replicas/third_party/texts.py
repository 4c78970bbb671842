"""Decodes token ids back to text, for engines that accept only text.

An encoding is sent as text only if the engine's tokenizer would produce the same ids from it. Of a
pair that is query and document, where the engine writes the pair by the same template.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from embedfleet.models.description import Template
from embedfleet.models.reranker import PAIR
from embedfleet.models.tokenizer_file import load_tokenizer
from embedfleet.vocabulary import Encoding

UNKNOWN = "\U000f0000"
"""A character for private use, which is in no vocabulary: it stands for one that was not."""

MOST_DROPPED = 8
"""Tokens at the end of a text that was cut which an engine of texts may be sent less."""


class TextForm:
    """The texts that stand for encodings of one model."""

    def __init__(self, tokenizer_file: Path, template: Template) -> None:
        self._tokenizer = load_tokenizer(tokenizer_file)
        self.linear = not self._tokenizer.kind.unproven
        """Whether it takes time in proportion to a text; others wait for a process."""
        self._template = template
        unknown = self._tokenizer.kind.unknown
        if isinstance(unknown, int):
            unknown = self._tokenizer.token_of(unknown)
        self._unknown = unknown or ""
        """The token for characters that a vocabulary lacks, as it is decoded."""

    def of(self, encoding: Encoding) -> str | None:
        """The text whose tokens these are; None where there is none.

        Ids that callers choose need not be what any text is encoded as, and some are no valid
        UTF-8. The engine puts the template's tokens itself.
        """
        before, after = self._template.before, self._template.after
        ids = encoding
        if after and tuple(ids[-len(after) :]) == after:
            ids = ids[: -len(after)]
        if before and tuple(ids[: len(before)]) == before:
            ids = ids[len(before) :]
        text = self._tokenizer.decode(ids.tolist())
        spelled = [text]
        if self._unknown and self._unknown in text:
            spelled.append(text.replace(self._unknown, UNKNOWN))
        # Decoders of SentencePiece's kind drop one blank at the beginning.
        candidates = (each for one in spelled for each in (one, f" {one}"))
        return next((each for each in candidates if self._is(each, ids)), None)

    def shortened(self, encoding: Encoding) -> Iterator[Encoding]:
        """The encoding without its last tokens within the template, one fewer at a time: of a text
        that was cut in the middle of a character or word.
        """
        end = len(encoding) - len(self._template.after)
        for dropped in range(1, MOST_DROPPED + 1):
            yield np.concatenate((encoding[: end - dropped], encoding[end:]))

    def _is(self, text: str, ids: Encoding) -> bool:
        """Whether these are the tokens of a text."""
        (again,) = self._tokenizer.ids([text])
        return bool(text) and np.array_equal(again, ids)

    def again(self, text: str) -> str:
        """A text as its tokens spell it: normalised, lower-cased perhaps."""
        (ids,) = self._tokenizer.ids([text])
        return self._tokenizer.decode(ids.tolist())

    def encoding(self, text: str) -> Encoding:
        """The encoding of a text that is short enough."""
        (ids,) = self._tokenizer.ids([text])
        return np.array([*self._template.before, *ids, *self._template.after], np.int32)


class Pair(NamedTuple):
    """What a pair is made of."""

    instruction: str
    """Empty where the model's template has none."""
    query: str
    document: str


class PairForm:
    """Queries and documents that stand for encodings of one reranker's pairs."""

    def __init__(self, texts: TextForm, prompts: Mapping[str, str]) -> None:
        """`prompts` are the reranker's, with the template of its pairs."""
        self._texts = texts
        parts = re.split(r"\{(instruction|query)\}", prompts[PAIR])
        named = {"instruction": "(?P<instruction>.*?)", "query": "(?P<query>.*?)"}
        seen: set[str] = set()
        pattern = ""
        for place, part in enumerate(parts):
            if place % 2 == 0:
                # Tokenizers that lower-case texts do so with the template.
                pattern += f"(?:{re.escape(part)}|{re.escape(texts.again(part))})"
            else:
                pattern += f"(?P={part})" if part in seen else named[part]
                seen.add(part)
        self._pattern = re.compile(f"{pattern}(?P<document>.*)", re.DOTALL)

    def of(self, encoding: Encoding) -> Pair | None:
        """The pair whose tokens these are; None where there is none.

        A query may contain what the template puts behind it. Where it is divided does not matter:
        the engine puts the parts together again.
        """
        text = self._texts.of(encoding)
        found = None if text is None else self._pattern.fullmatch(text)
        if found is None:
            return None
        parts = found.groupdict()
        return Pair(parts.get("instruction", ""), parts["query"], parts["document"])
