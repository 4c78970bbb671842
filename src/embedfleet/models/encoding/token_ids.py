"""Detects token ids that the model's own tokenizer would not have produced.

Clients made for OpenAI may send ids of OpenAI's own tokenizer. They all exist in a larger model's
vocabulary, where they stand for other words. Ids are decoded and encoded again: a byte-level BPE
reproduces its own output, also for a part of a text, except for white space at the end, which
depends on what follows it, and for a character that was cut in two. Another tokenizer's output
decodes to words put together by chance, which this one would have merged or split differently.

Fewer than one in ten thousand parts of valid sequences raise a false alarm. Short sequences that
happen to be whole words are missed, the more of them the larger the vocabulary
(`benchmarks.token_ids` has the numbers); a request of many texts, or of a long one, is detected.
"""

from __future__ import annotations

from collections.abc import Sequence

from embedfleet.models.tokenizer_library import Library, TokenizerError

MOST_LOOKED_AT = 128
"""Most tokens of a text that are examined; a part of a sequence suffices."""

_TORN = "\ufffd"
"""What bytes that are no character decode to."""

_MOST_TORN = 4
"""Tokens that a character may be torn into, at either end."""


class OwnIds:
    """What one tokenizer would have made."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self.knows = library.kind.decoder == "ByteLevel"
        """Whether it can be told: only where decoding loses nothing."""

    def __call__(self, ids: Sequence[int]) -> bool:
        """Whether these ids may be of a text, or of a part of one; True where it can't be told."""
        if not self.knows:
            return True
        try:
            return self._made(ids)
        except TokenizerError:
            return True

    def _made(self, ids: Sequence[int]) -> bool:
        ids = ids[:MOST_LOOKED_AT]
        start, end = 0, len(ids)
        text = self._decoded(ids)
        while start < min(_MOST_TORN, end) and text.startswith(_TORN):
            start += 1
            text = self._decoded(ids[start:end])
        while len(ids) - end < _MOST_TORN and start < end and text.endswith(_TORN):
            end -= 1
            text = self._decoded(ids[start:end])
        again = self._library.spell(text)
        if again.ids == list(ids[start:end]):
            return True
        words = again.words
        if not words or words[0] == words[-1]:
            return (
                True  # one word or one run of signs, as people make up to try: too little to tell
            )
        if not text[-1].isspace():
            return False
        whole = words.index(words[-1])
        return again.ids[:whole] == list(ids[start : start + whole])

    def _decoded(self, ids: Sequence[int]) -> str:
        return self._library.decode(ids)
