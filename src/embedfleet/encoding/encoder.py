"""Texts to token ids as the model wants them.

What is computed for a text is its prompt, the text itself, and around both the tokens of the
model's template: an end-of-text token exactly once, whatever tokenizer file, text or ids have there
themselves, or `[CLS]` and `[SEP]`. Over-long texts are cut inside the template, or refused.

Token ids that come in are never decoded: they are checked against the embedding table, since one id
beyond it kills some engines, and otherwise left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from embedfleet.encoding.tokenizer import Steps, Tokenizer, finished
from embedfleet.model.description import ModelDescription
from embedfleet.vocabulary import CallerError, Encoding, PackedText, Text, TextOrIds

_COUNTED = 4
"""An over-long text is counted up to this many times the limit; of longer ones the error says
"more than"."""


class EncodedText(NamedTuple):
    """One text as the engine gets it."""

    ids: Encoding
    """Token ids, int32, shape [tokens]: the template's around prompt and text."""
    truncated: bool
    """Whether the end of the text was cut off."""


class Encoder:
    """Texts and ids to encodings of one model.

    Threads may share an encoder. The library releases the GIL, so large requests can run in a
    thread while the event loop goes on.
    """

    def __init__(self, description: ModelDescription) -> None:
        """Load the tokenizer of a model; raises ModelError."""
        identity = description.identity
        self._limit = identity.max_tokens
        self._vocabulary = identity.vocabulary
        template = description.template
        self._before = np.array(template.before, np.int32)
        self._after = np.array(template.after, np.int32)
        self._room = self._limit - len(template)
        self._tokenizer = Tokenizer(
            description.tokenizer_file, identity.vocabulary, lowercase=description.lowercase
        )

    def encode(
        self, texts: Sequence[TextOrIds], *, prompt: str, truncate: bool
    ) -> list[EncodedText]:
        """Encode texts (strings or token ids) in order.

        `prompt` goes before each of them.

        Raises CallerError for a blank text, an id outside the vocabulary, and, unless `truncate`,
        a text longer than the model's limit (code `context_length_exceeded`). What lies far beyond
        the limit is not looked at.
        """
        return finished(self.steps(texts, prompt=prompt, truncate=truncate))

    def steps(
        self, texts: Sequence[TextOrIds], *, prompt: str, truncate: bool
    ) -> Steps[list[EncodedText]]:
        """The same in steps of some ten milliseconds: yields the characters tokenised by each."""
        strings: list[Text] = []
        for place, text in enumerate(texts):
            if isinstance(text, str | PackedText):
                strings.append(text)
                if not text or text.isspace():
                    raise _wrong_text(place, "is blank; leave blank texts out", "blank_string")
        most = self._limit if truncate else _COUNTED * self._limit
        bodies: Iterator[Encoding] = iter(())
        try:
            if strings:
                found = yield from self._tokenizer.steps(strings, most=most, before=prompt)
                bodies = iter(found)
        except TypeError:  # the library's word for half of a surrogate pair, which is no Unicode
            raise _no_unicode(texts) from None
        prompt_ids = self._prompt_ids(prompt) if prompt and len(strings) < len(texts) else None
        encoded = []
        for place, text in enumerate(texts):
            if isinstance(text, str | PackedText):
                body = next(bodies)
            else:
                body = self._without_template(self._checked(text[: most + 1], place))
                if prompt_ids is not None and len(prompt_ids):
                    body = np.concatenate((prompt_ids, body))
            encoded.append(self._ended(body, place, prompt, most, truncate=truncate))
        return encoded

    def _prompt_ids(self, prompt: str) -> Encoding:
        return self._tokenizer.ids([prompt], most=self._limit)[0]

    def _checked(self, ids: Sequence[int] | Encoding, place: int) -> Encoding:
        """Check ids against the embedding table; they come from outside as Python integers, those
        of large requests as arrays.
        """
        if not len(ids):
            raise _wrong_text(place, "has no token ids", "empty_array")
        wrong = None
        try:
            # Unsigned, so that negative ids are refused on the way.
            array = (
                ids.astype(np.uint32)
                if isinstance(ids, np.ndarray)
                else np.fromiter(ids, np.uint32, len(ids))
            )
        except OverflowError:
            wrong = next(at for at, one in enumerate(ids) if not 0 <= one < self._vocabulary)
        else:
            # What `max` does, without the function of Python that it is in.
            if np.maximum.reduce(array) >= self._vocabulary:
                wrong = int((array >= self._vocabulary).argmax())
        if wrong is not None:
            complaint = (
                f"has token id {str(ids[wrong])[:24]} at position {wrong}; this model's ids are "
                f"from 0 to {self._vocabulary - 1}"
            )
            raise _wrong_text(place, complaint, "invalid_token_id")
        return array.view(np.int32)

    def _ended(
        self, body: Encoding, place: int, prompt: str, most: int, *, truncate: bool
    ) -> EncodedText:
        """Put the template around, after cutting or refusing what is too long."""
        # With more than `most` tokens the rest was not looked at, so these may not be the last.
        length = len(body) if len(body) > most else self._without_end(body, len(body))
        truncated = length > self._room
        if truncated:
            if not truncate:
                raise self._too_long(length + len(self._before) + len(self._after), place)
            self._check_room(prompt)
            length = self._without_end(body, self._room)
        begin = len(self._before)
        ids = np.empty(begin + length + len(self._after), dtype=np.int32)
        ids[:begin] = self._before
        ids[begin : begin + length] = body[:length]
        ids[begin + length :] = self._after
        return EncodedText(ids, truncated)

    def _without_end(self, body: Encoding, length: int) -> int:
        """Leave out end-of-text tokens that the caller put at the end: one is computed.

        Between `[CLS]` and `[SEP]` such a token is one of the text, as upstream.
        """
        if len(self._before) or len(self._after) != 1:
            return length
        while length and body[length - 1] == self._after[0]:
            length -= 1
        return length

    def _without_template(self, ids: Encoding) -> Encoding:
        """Leave out what callers who tokenise themselves put around their text; the end-of-text
        token alone is left out later."""
        before, after = len(self._before), len(self._after)
        if not before:
            return ids
        if np.array_equal(ids[:before], self._before):
            ids = ids[before:]
        if after and np.array_equal(ids[-after:], self._after):
            ids = ids[:-after]
        return ids

    def _too_long(self, tokens: int, place: int) -> CallerError:
        count = str(tokens)
        around = "special tokens" if len(self._before) else "end-of-text token"
        if tokens > _COUNTED * self._limit:  # counting stopped there
            count = f"more than {_COUNTED * self._limit}"
        return CallerError(
            f"This model's maximum context length is {self._limit} tokens, but `input[{place}]` "
            f"has {count} with prompt and {around}. Shorten or split it, or send "
            '"truncate": true to have its end cut off.',
            param="input",
            code="context_length_exceeded",
        )

    def _check_room(self, prompt: str) -> None:
        """Refuse to cut so much that only the prompt would be embedded."""
        if prompt and len(self._prompt_ids(prompt)) >= self._room:
            raise CallerError(
                "The instruction leaves no room for the text in this model's context of "
                f"{self._limit} tokens.",
                param="instruction",
                code="context_length_exceeded",
            )


def _wrong_text(place: int, complaint: str, code: str) -> CallerError:
    param = f"input[{place}]"
    return CallerError(f"`{param}` {complaint}.", param=param, code=code)


def _no_unicode(texts: Sequence[TextOrIds]) -> CallerError:
    for place, text in enumerate(texts):
        try:
            if isinstance(text, str):
                text.encode()
        except UnicodeEncodeError as error:
            complaint = f"has half of a surrogate pair at character {error.start}"
            return _wrong_text(place, complaint, "invalid_unicode")
    return CallerError("The prompt is not valid Unicode.", code="invalid_unicode")
