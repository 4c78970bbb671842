"""Decodes token ids back to text, for engines that accept only text.

An encoding is sent as text only if the engine's tokenizer would produce the same ids from it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from embedfleet.models.description import Template
from embedfleet.models.tokenizer_file import load_tokenizer
from embedfleet.vocabulary import Encoding

UNKNOWN = "\U000f0000"
"""A character for private use, which is in nobody's vocabulary: it stands for one that was not."""


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

    def _is(self, text: str, ids: Encoding) -> bool:
        """Whether these are the tokens of a text."""
        (again,) = self._tokenizer.ids([text])
        return bool(text) and np.array_equal(again, ids)

    @property
    def probe(self) -> Encoding:
        """The encoding of a short text."""
        (ids,) = self._tokenizer.ids(["the sea"])
        return np.array([*self._template.before, *ids, *self._template.after], np.int32)
