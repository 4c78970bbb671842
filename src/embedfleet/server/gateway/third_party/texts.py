"""Decodes token ids back to text, for engines that accept only text.

An encoding is sent as text only if the engine's tokenizer would produce the same ids from it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders

from embedfleet.models.description import Template
from embedfleet.models.tokenizer_file import load_tokenizer
from embedfleet.vocabulary import Encoding

UNKNOWN = "\U000f0000"
"""A character for private use, which is in nobody's vocabulary: it stands for one that was not."""


class TextForm:
    """The texts that stand for encodings of one model."""

    def __init__(self, tokenizer_file: Path, template: Template) -> None:
        self._tokenizer = load_tokenizer(tokenizer_file)
        if self._tokenizer.decoder is None:
            self._tokenizer.decoder = decoders.ByteLevel()
        self._template = template
        self._unknown = _unknown(self._tokenizer)

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
        text: str = self._tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        if self._is(text, ids):
            return text
        if self._unknown and self._unknown in text:
            text = text.replace(self._unknown, UNKNOWN)
            return text if self._is(text, ids) else None
        return None

    def _is(self, text: str, ids: Encoding) -> bool:
        """Whether these are the tokens of a text."""
        again = self._tokenizer.encode(text, add_special_tokens=False).ids
        return bool(text) and np.array_equal(again, ids)

    @property
    def probe(self) -> Encoding:
        """The encoding of a short text."""
        ids = self._tokenizer.encode("the sea", add_special_tokens=False).ids
        return np.array([*self._template.before, *ids, *self._template.after], np.int32)


def _unknown(tokenizer: Tokenizer) -> str:
    """The token for characters that a vocabulary lacks, as it is decoded; empty without one."""
    model = json.loads(tokenizer.model.__getstate__())
    named, number = model.get("unk_token"), model.get("unk_id")
    found = tokenizer.id_to_token(number) if isinstance(number, int) else named
    return found or ""
