"""Turns texts into token ids, with prompt and template, truncated or refused when too long.

A text is computed as prompt, text, and the tokens of the model's template around both: exactly one
end-of-text token, whatever the tokenizer file, the text or the ids contain themselves, or `[CLS]`
and `[SEP]`. Over-long texts are cut inside the template and behind the prompt, at the requested
end.

Token ids from clients are checked against the embedding table, since an id beyond it crashes some
engines, and on request for another tokenizer's ids (`own_ids`); otherwise they are left unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias, cast

import msgspec
import numpy as np

from embedfleet.models.description import ModelDescription
from embedfleet.models.encoding.tokenizer import SpelledToken, Steps, Tokenizer, finished
from embedfleet.vocabulary import (
    CallerError,
    Encoding,
    PackedText,
    Task,
    TextOrIds,
    Truncation,
    of_several,
)

Ids: TypeAlias = Sequence[int] | Encoding

_COUNTED = 4
"""An over-long text is counted up to this many times the limit; of longer ones the error says
"more than"."""

_ALL = 2**62
"""Tokens of any text: where the last ones count, all have to be found."""


class EncodedText(msgspec.Struct, frozen=True):
    """One text as the engine gets it."""

    ids: Encoding
    """Token ids, int32, shape [tokens]: the template's around prompt and text."""
    truncated: bool
    """Whether an end of the text was cut off."""


class Encoder:
    """Texts and ids to encodings of one model.

    Threads may share an encoder. The library releases the GIL, so large requests can run in a
    thread while the event loop goes on. Only where it is `linear` may small ones run on the loop
    (`Tokenizer`).
    """

    def __init__(self, description: ModelDescription) -> None:
        """Load the tokenizer of a model; raises ModelError."""
        identity = description.identity
        self._limit = identity.max_tokens
        self._vocabulary = identity.vocabulary
        self.template = template = description.template
        """What is computed around each text."""
        # A pair's end is its document's, and what a document ends with is part of it.
        self._one_end = identity.task is Task.EMBED and not template.before
        self._one_end = self._one_end and len(template.after) == 1
        self._before = np.array(template.before, np.int32)
        self._after = np.array(template.after, np.int32)
        self._room = self._limit - len(template)
        self._tokenizer = Tokenizer(
            description.tokenizer_file, identity.vocabulary, lowercase=description.lowercase
        )
        self.linear = self._tokenizer.linear

    def close(self) -> None:
        """End the process of a tokenizer that has one."""
        self._tokenizer.close()

    def encode(
        self, texts: Sequence[TextOrIds], *, prompt: str, truncate: Truncation
    ) -> list[EncodedText]:
        """Encode texts (strings or token ids) in order.

        `prompt` goes before each of them.

        Raises CallerError for an empty text, an id outside the vocabulary, and, where `truncate`
        says so, a text longer than the model's limit (code `context_length_exceeded`). What lies
        far beyond the limit is looked at only where the end of a text is to be kept.
        """
        found = finished(self.steps(texts, prompt=prompt, truncate=truncate))
        if faults := [each for each in found if isinstance(each, CallerError)]:
            raise of_several(faults)
        return [each for each in found if isinstance(each, EncodedText)]

    def steps(
        self,
        texts: Sequence[TextOrIds],
        *,
        prompt: str,
        truncate: Truncation,
        name: Callable[[int], str] = "input[{}]".format,
        own_ids: bool = False,
    ) -> Steps[list[EncodedText | CallerError]]:
        """The same in steps of some ten milliseconds: yields the characters tokenised by each.

        What is wrong with a text comes in its place; `name` is what its sender calls the text at a
        place. With `own_ids`, so do ids that another tokenizer has made. Raises CallerError where
        it is the prompt that is wrong.
        """
        strings = [text for text in texts if isinstance(text, str | PackedText)]
        most = _COUNTED * self._limit
        if truncate is not Truncation.NONE:
            most = self._limit if truncate is Truncation.END else _ALL
        bodies: Iterator[Encoding] = iter(())
        try:
            if strings:
                found = yield from self._tokenizer.steps(strings, most=most, before=prompt)
                bodies = iter(found)
        except TypeError:  # the library's word for half of a surrogate pair, which is no Unicode
            raise _no_unicode(texts, name) from None
        prompt_ids = _NO_IDS
        if prompt and (len(strings) < len(texts) or truncate is not Truncation.NONE):
            prompt_ids = self._prompt_ids(prompt)
        encoded: list[EncodedText | CallerError] = []
        for place, text in enumerate(texts):
            body = next(bodies) if isinstance(text, str | PackedText) else None
            try:
                _check_length(text)
                if body is None:
                    ids = self._checked(cast("Ids", text)[: most + 1])
                    self._check_own(ids, own_ids=own_ids)
                    body = self._without_template(ids)
                    body = np.concatenate((prompt_ids, body)) if len(prompt_ids) else body
                encoded.append(self._ended(body, prompt_ids, most, truncate))
            except _TextError as error:
                encoded.append(error.of(name(place)))
        return encoded

    def spelled(
        self,
        texts: Sequence[PackedText | str],
        *,
        prompt: str,
        template: bool,
        name: Callable[[int], str] = "input[{}]".format,
    ) -> Steps[list[list[SpelledToken]]]:
        """Tokens of strings with their texts and places, in steps as `steps`; with `template` those
        that stand around each. Raises CallerError for texts with over four times as many tokens as
        the model takes.
        """
        most, found = _COUNTED * self._limit, []
        before, after = (
            [SpelledToken(one, self._tokenizer.spelling(one)) for one in ids] if template else []
            for ids in (self.template.before, self.template.after)
        )
        for place, text in enumerate(texts):
            try:
                _check_length(text)
                body = yield from self._tokenizer.spelled(text, most=most, before=prompt)
            except _TextError as error:
                raise error.of(name(place)) from None
            except TypeError:
                raise _no_unicode(texts, name) from None
            if len(body) > most:
                raise self._too_long(len(body)).of(name(place))
            found.append([*before, *body, *after])
        return found

    def _prompt_ids(self, prompt: str) -> Encoding:
        return self._tokenizer.ids([prompt], most=self._limit)[0]

    def _checked(self, ids: Ids) -> Encoding:
        """Check ids against the embedding table; they come from outside as Python integers, those
        of large requests as arrays.
        """
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
            raise _TextError(complaint, "invalid_token_id")
        return array.view(np.int32)

    def _check_own(self, ids: Encoding, *, own_ids: bool) -> None:
        if own_ids and not self._tokenizer.made(ids):
            raise _TextError(_FOREIGN, "foreign_token_ids")

    def _ended(
        self, body: Encoding, prompt_ids: Encoding, most: int, truncate: Truncation
    ) -> EncodedText:
        """Put the template around, after cutting or refusing what is too long."""
        # With more than `most` tokens the rest was not looked at, so these may not be the last.
        length = len(body) if len(body) > most else self._without_end(body, len(body))
        truncated = length > self._room
        if truncated:
            if truncate is Truncation.NONE:
                raise self._too_long(length + len(self._before) + len(self._after))
            if len(prompt_ids) >= self._room:
                raise self._no_room()
            if truncate is Truncation.START:
                last = body[length - (self._room - len(prompt_ids)) : length]
                body, length = np.concatenate((prompt_ids, last)), self._room
            else:
                length = self._without_end(body, self._room)
        begin = len(self._before)
        ids = np.empty(begin + length + len(self._after), dtype=np.int32)
        ids[:begin] = self._before
        ids[begin : begin + length] = body[:length]
        ids[begin + length :] = self._after
        if not len(ids):
            raise _TextError("has no tokens for this model", "blank_string")
        return EncodedText(ids, truncated)

    def _without_end(self, body: Encoding, length: int) -> int:
        """Leave out end-of-text tokens that the caller put at the end: one is computed.

        Between `[CLS]` and `[SEP]` such a token is one of the text, as upstream, and in a pair one
        of the document: else one that is nothing but end-of-text tokens would take the template's
        with it.
        """
        if not self._one_end:
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

    def _too_long(self, tokens: int) -> _TextError:
        count = str(tokens)
        around = "special tokens" if len(self._before) else "end-of-text token"
        if tokens > _COUNTED * self._limit:  # counting stopped there
            count = f"more than {_COUNTED * self._limit}"
        return _TextError(
            f"has {count} with prompt and {around}. Shorten or split it, or send "
            '"truncate": "end" or "start" to have that end of it cut off.',
            "context_length_exceeded",
            before=f"This model's maximum context length is {self._limit} tokens, but ",
        )

    def _no_room(self) -> CallerError:
        """The refusal to cut so much that only the prompt would be embedded."""
        return CallerError(
            "The instruction or query leaves no room for the text in this model's context of "
            f"{self._limit} tokens.",
            param="instruction",
            code="context_length_exceeded",
        )


_NO_IDS = np.empty(0, np.int32)

_FOREIGN = (
    "has token ids that this model's tokenizer makes of no text: they are those of another one, "
    "and their vector would mean nothing. Send texts, with LangChain by check_embedding_ctx_length="
    'False; gateway.input_ids = "accept" takes any ids'
)


class _TextError(Exception):
    """What is wrong with a text, whose sender's name for it is not known here."""

    def __init__(self, complaint: str, code: str, *, before: str = "") -> None:
        super().__init__(complaint)
        self._complaint, self._code, self._before = complaint, code, before

    def of(self, param: str) -> CallerError:
        told = f"{self._before}`{param}` {self._complaint}"
        return CallerError(told.rstrip(".") + ".", param=param, code=self._code)


def _check_length(text: TextOrIds) -> None:
    if not len(text):
        code = "empty_string" if isinstance(text, str | PackedText) else "empty_array"
        raise _TextError("is empty; leave it out", code)


def _no_unicode(texts: Sequence[TextOrIds], name: Callable[[int], str]) -> CallerError:
    for place, text in enumerate(texts):
        try:
            if isinstance(text, str):
                text.encode()
        except UnicodeEncodeError as error:
            complaint = f"has half of a surrogate pair at character {error.start}"
            return _TextError(complaint, "invalid_unicode").of(name(place))
    return CallerError("The prompt is not valid Unicode.", code="invalid_unicode")
