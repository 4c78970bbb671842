"""Tokenises a request's texts without blocking other requests.

Small requests are tokenised on the event loop, the others in slices on a few threads. A request
whose client has disconnected, or whose deadline has passed, gets no further slice. A tokenizer of
no known kind, whose small texts may take long, has a thread and a queue of its own.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from embedfleet.api.formats.embedding_request import EmbeddingRequest
from embedfleet.api.served_model import ServedModel, prompt_of, truncation
from embedfleet.api.tokenizer_queue import Ticket, TokenizerQueue
from embedfleet.models.encoding.encoder import EncodedText, Encoder
from embedfleet.models.encoding.tokenizer import SpelledToken, finished
from embedfleet.scheduling.texts import Caller
from embedfleet.vocabulary import (
    CallerError,
    EmbedfleetError,
    PackedText,
    TextOrIds,
    of_several,
)

Done = TypeVar("Done")

INLINE_CHARACTERS = 4096
"""Requests with no more text than this, prompts included, are tokenised on the event loop if their
tokenizer is linear: they take well under a millisecond there, and a hop to a thread and back would
cost more than that."""

SLICE_S = 0.01
"""A slice ends with the step in which so much time is over."""

CHARACTERS_PER_S = 1e6
"""What one thread tokenises a second, until it was measured."""

CHARACTERS_PER_TOKEN = 16
"""An estimate of tokens from characters that is hardly ever too high."""


class _Job(NamedTuple):
    steps: Generator[int, None, Any]
    done: asyncio.Future[Any]


class Tokenizing:
    """Encodings of requests, with a few threads of its own."""

    def __init__(self, threads: int, most_characters: int, *, own_ids: bool = False) -> None:
        """`most_characters` may wait to be tokenised before requests are refused. With `own_ids`,
        token ids that another tokenizer has made are refused.
        """
        self._own_ids = own_ids
        self._most_characters = most_characters
        self._turns = _Turns(threads, most_characters)
        self._own_turns: WeakKeyDictionary[Encoder, _Turns] = WeakKeyDictionary()
        """Of each encoder that is not linear: it can delay only its own callers."""
        self._beside = ThreadPoolExecutor(2, "bodies")
        """For what is no tokenising: reading bodies, writing answers, making keys."""

    async def encode(
        self,
        model: ServedModel,
        parsed: EmbeddingRequest,
        texts: Sequence[TextOrIds],
        caller: Caller,
        reserve: Callable[[int], None],
        places: Sequence[int] | None = None,
    ) -> list[EncodedText | CallerError]:
        """Encode `texts`, all of a request's or some of them, as it wants them encoded.

        Where that costs more than next to nothing, `reserve` is told before of how many tokens
        there are at least, and may raise. `places` says where in the request's `inputs` they are.
        What is wrong with a text comes in its place. Raises OverloadedError where too much waits
        already. Cancelling ends it with the slice that is worked on.
        """
        prompt = prompt_of(model, parsed)
        # The prompt stands before every text. Ids count as well, though they are only checked.
        characters = sum(map(len, texts)) + len(prompt) * len(texts)
        if characters > INLINE_CHARACTERS:
            reserve(_least_tokens(texts, len(prompt), model.identity.max_tokens))
        steps = model.encoder.steps(
            texts,
            prompt=prompt,
            truncate=truncation(model, parsed),
            name=partial(_named, parsed, places),
            own_ids=self._own_ids,
        )
        return await self._run(model.encoder, steps, characters, caller)

    async def spell(
        self,
        model: ServedModel,
        parsed: EmbeddingRequest,
        caller: Caller,
        reserve: Callable[[int], None],
        *,
        template: bool,
    ) -> list[list[SpelledToken]]:
        """Tokens of a request's texts, which are strings, with their places; see `Encoder.spelled`.
        `reserve` is told as by `encode`. Raises CallerError, and OverloadedError as `encode` does.
        """
        texts = [text for text in parsed.inputs if isinstance(text, str | PackedText)]
        prompt = prompt_of(model, parsed)
        characters = sum(map(len, texts)) + len(prompt) * len(texts)
        if characters > INLINE_CHARACTERS:
            reserve(_least_tokens(texts, len(prompt), model.identity.max_tokens))
        steps = model.encoder.spelled(
            texts,
            prompt=prompt,
            template=template,
            name=partial(_named, parsed, None),
        )
        return await self._run(model.encoder, steps, characters, caller)

    async def _run(
        self, encoder: Encoder, steps: Generator[int, None, Done], characters: int, caller: Caller
    ) -> Done:
        """Small work at once, the rest in slices."""
        if encoder.linear:
            if characters <= INLINE_CHARACTERS:
                return finished(steps)
            return await self._turns.run(steps, characters, caller)
        turns = self._own_turns.get(encoder)
        if turns is None:
            turns = self._own_turns[encoder] = _Turns(1, self._most_characters)
            weakref.finalize(encoder, turns.close)
        return await turns.run(steps, characters, caller)

    async def apart(self, work: Callable[[], Done]) -> Done:
        """Do other work on texts, tokens or vectors in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._beside, work)

    def close(self) -> None:
        self._turns.close()
        for encoder, turns in self._own_turns.items():
            turns.close()
            encoder.close()
        self._beside.shutdown(wait=False, cancel_futures=True)


class _Turns:
    """Threads, and the requests that take turns at them."""

    def __init__(self, threads: int, most_characters: int) -> None:
        self._threads = ThreadPoolExecutor(threads, "tokenize")
        self._free = threads
        self._queue: TokenizerQueue[_Job] = TokenizerQueue(
            most_characters, CHARACTERS_PER_S * threads
        )
        self._closed = False

    async def run(self, steps: Generator[int, None, Done], characters: int, caller: Caller) -> Done:
        """Work in slices; raises OverloadedError, and what the work raises."""
        now = time.monotonic()
        self._queue.admit(characters, caller.lane, caller.deadline - now)
        job = _Job(steps, asyncio.get_running_loop().create_future())
        who = caller.key or caller.address
        ticket = Ticket(job, caller.lane, who, characters, now, caller.deadline)
        self._queue.put(ticket)
        self._pump()
        try:
            done: Done = await job.done
        finally:
            self._queue.remove(ticket)
            # The error's traceback holds this frame, which would hold the error: a reference cycle.
            del ticket, job, steps
        return done

    def close(self) -> None:
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _pump(self) -> None:
        """Give every free thread a slice."""
        loop = asyncio.get_running_loop()
        while self._free and self._queue and not self._closed:
            ticket = self._queue.take()
            if ticket.work.done.done():  # cancelled while it waited
                self._queue.back(ticket, 0, 0.0, done=True)
                continue
            self._free -= 1
            slice_ = loop.run_in_executor(self._threads, _slice, ticket.work)
            slice_.add_done_callback(partial(self._end, ticket))

    def _end(self, ticket: Ticket[_Job], ended: asyncio.Future[_Sliced]) -> None:
        self._free += 1
        done = ticket.work.done
        if ended.cancelled():
            self._queue.back(ticket, 0, 0.0, done=True)
            done.cancel()
            return
        sliced = ended.result()
        over = sliced.over or done.done()
        self._queue.back(ticket, sliced.characters, sliced.seconds, done=over)
        if sliced.over and not done.done():
            if sliced.error is not None:
                done.set_exception(sliced.error)
            else:
                done.set_result(sliced.result)
        self._pump()


def whole(encoded: Sequence[EncodedText | CallerError]) -> list[EncodedText]:
    """The texts; raises one CallerError for all of them that are none."""
    texts = [each for each in encoded if isinstance(each, EncodedText)]
    if len(texts) < len(encoded):
        raise of_several([each for each in encoded if isinstance(each, CallerError)])
    return texts


def _least_tokens(texts: Sequence[TextOrIds], prompt: int, most: int) -> int:
    """A lower bound of the number of tokens, known before tokenising.

    `prompt` is the length of what stands before each, `most` the tokens of the longest one.
    """
    tokens = 0
    for text in texts:
        if isinstance(text, PackedText):  # bytes, up to four a character
            least = (len(text) // 4 + prompt) // CHARACTERS_PER_TOKEN
        elif isinstance(text, str):
            least = (len(text) + prompt) // CHARACTERS_PER_TOKEN
        else:
            least = len(text)
        tokens += min(max(1, least), most)
    return tokens


def _named(parsed: EmbeddingRequest, places: Sequence[int] | None, at: int) -> str:
    """What the sender of a request calls one of its texts."""
    place = at if places is None else places[at]
    return f"{parsed.field}[{place if parsed.places is None else parsed.places[place]}]"


class _Sliced(NamedTuple):
    """What came of a slice."""

    characters: int
    seconds: float
    over: bool
    result: Any = None
    error: BaseException | None = None


def _slice(job: _Job) -> _Sliced:
    """In a thread: take steps until the slice is over."""
    began = time.monotonic()
    characters = 0
    while True:
        try:
            characters += next(job.steps)
        except StopIteration as end:
            return _Sliced(characters, time.monotonic() - began, over=True, result=end.value)
        except EmbedfleetError as error:
            # Without its frames, which know this job, which knows the error: texts would stay until
            # the garbage collector comes.
            error = error.with_traceback(None)
            return _Sliced(characters, time.monotonic() - began, over=True, error=error)
        except BaseException as error:  # noqa: BLE001  any error belongs to the request
            return _Sliced(characters, time.monotonic() - began, over=True, error=error)
        seconds = time.monotonic() - began
        if seconds >= SLICE_S or job.done.done():
            return _Sliced(characters, seconds, over=False)
