"""Token ids back to text, for engines that tokenise everything themselves.

Decides whether an encoding is one that its engine would make of a text again. Refuses to know HTTP.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import decoders

from embedfleet.model.description import Template
from embedfleet.model.tokenizer_file import load_tokenizer
from embedfleet.vocabulary import Encoding


class TextForm:
    """The texts that stand for encodings of one model."""

    def __init__(self, tokenizer_file: Path, template: Template) -> None:
        self._tokenizer = load_tokenizer(tokenizer_file)
        if self._tokenizer.decoder is None:
            self._tokenizer.decoder = decoders.ByteLevel()
        self._template = template

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
        again = self._tokenizer.encode(text, add_special_tokens=False).ids
        return text if text and np.array_equal(again, ids) else None

    @property
    def probe(self) -> Encoding:
        """The encoding of a short text."""
        ids = self._tokenizer.encode("the sea", add_special_tokens=False).ids
        return np.array([*self._template.before, *ids, *self._template.after], np.int32)
