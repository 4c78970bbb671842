"""One call of the client: splits its texts into requests and collects each text's result."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedfleet.client import wire
from embedfleet.client.errors import AnswerError, RefusedError
from embedfleet.client.flow_control import ConcurrencyLimit, RequestSizer
from embedfleet.client.wire import Answer, Texts
from embedfleet.runtime.background import BoundedTasks

TEXT_FAILS = frozenset({"invalid_vector", "replica_failed"})
"""Error codes of the service for which a text of the request may be the cause."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a call."""

    texts: int
    done: int
    """Texts that have a vector or an error."""
    tokens: int
    """As the service counted them."""
    seconds: float
    """Since the call began."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors, and errors for the texts that have none."""

    vectors: NDArray[Any]
    """Shape [texts, dimensions], [texts, dimensions / 8] of bits. In the rows of texts with an
    error, NaN of floats and 0 of integers."""
    errors: dict[int, RefusedError] = field(default_factory=dict)
    """By the place of the text."""
    tokens: int = 0
    scale: float | None = None
    """The scale of integers: int8 q is `scale * q`, uint8 q is `scale * (q - 128)`. None for floats
    and bits."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Documents ranked by relevance to a query."""

    scores: NDArray[np.float64]
    """Of all documents, in the order in which they were given."""
    order: NDArray[np.intp]
    """Places of documents, best first; at most `top_n`. Ties keep the order given."""
    tokens: int = 0
    """As the service counted them."""


Arrived: TypeAlias = Callable[[Sequence[int], NDArray[Any]], None]
"""Called with the places of some texts and their vectors as soon as they arrive."""


Ask: TypeAlias = Callable[[Sequence[str | list[int]]], Awaitable[Answer]]
"""Sends one request."""


class Callbacks(NamedTuple):
    """What is called while a call is in progress."""

    progress: Callable[[Progress], None] | None = None
    arrived: Arrived | None = None


class Call:
    """The requests of one call; each text is answered or refused by itself."""

    def __init__(
        self,
        ask: Ask,
        sizer: RequestSizer,
        concurrency: ConcurrencyLimit,
        texts: Texts,
        callbacks: Callbacks,
        *,
        whole: bool,
        beside: int = 0,
    ) -> None:
        """With `whole` the first refusal ends the call. `beside` are the bytes that are added to
        each text: those of the query, for documents.
        """
        self._ask = ask
        self._sizer = sizer
        self._concurrency = concurrency
        self._callbacks = callbacks
        self._whole = whole
        self._scale: float | None = None
        self._began = time.monotonic()
        self._errors: dict[int, RefusedError] = {}
        self._inputs = [self._input(at, each) for at, each in enumerate(texts)]
        self._sizes = [wire.size_of(each) + beside for each in self._inputs]
        self._vectors: NDArray[Any] | None = None
        self._tokens = self._done = 0

    async def run(self, dimensions: int, dtype: np.dtype[Any]) -> Embedded:
        """`dimensions` and `dtype` are those of the matrix if no text has a vector."""
        every = range(len(self._inputs))
        await self._all([at for at in every if at not in self._errors] if self._errors else every)
        if self._vectors is None:
            self._vectors = np.zeros((len(self._inputs), dimensions), dtype)
        if self._vectors.dtype.kind not in "iu":
            self._vectors[list(self._errors)] = np.nan
        return Embedded(self._vectors, self._errors, self._tokens, self._scale)

    def _input(self, at: int, text: Any) -> str | list[int]:
        try:
            return wire.as_input(text)
        except RefusedError as error:
            error.index = at
            if self._whole:
                raise
            self._errors[at] = error
            return ""

    async def _all(self, places: Sequence[int]) -> None:
        """Send requests for all of these, at most one more than may be in flight: the later a
        request is cut, the better the estimate of its tokens.
        """
        at = 0
        async with BoundedTasks(lambda: int(self._concurrency.limit) + 1) as tasks:
            while at < len(places):
                ahead = places[at : at + self._sizer.most_texts]
                count = self._sizer.fitting([self._sizes[each] for each in ahead])
                await tasks.start(self._some(ahead[:count]))
                at += count

    async def _some(self, places: Sequence[int]) -> None:
        """Send one request; if it is refused, bisect it to find the text that is the cause."""
        try:
            self._take(places, await self._ask([self._inputs[at] for at in places]))
        except RefusedError as error:
            several = len(places) > 1
            if several and _is_of_the_size(error):
                self._sizer.smaller(len(places))
                await self._halves(places)
                return
            named = wire.named_text(error, len(places)) if several else 0
            error.index = None if named is None else places[named]
            if self._whole or not _is_of_a_text(error):
                raise
            if not several:
                self._errors[places[0]] = error
                self._count(1)
            elif named is None:
                await self._halves(places)
            else:
                # Alone, to be sure that it is the cause, and the others without it.
                await self._some([places[named]])
                await self._some([*places[:named], *places[named + 1 :]])

    async def _halves(self, places: Sequence[int]) -> None:
        middle = len(places) // 2
        await self._some(places[:middle])
        await self._some(places[middle:])

    def _take(self, places: Sequence[int], answer: Answer) -> None:
        width = answer.vectors.shape[1]
        if self._vectors is None:
            self._vectors = np.zeros((len(self._inputs), width), answer.vectors.dtype)
            self._scale = answer.scale
        if width != self._vectors.shape[1]:
            raise AnswerError(
                f"the service answered vectors of {self._vectors.shape[1]} dimensions before and "
                f"{width} now: it serves another model"
            )
        in_a_row = isinstance(places, range)
        self._vectors[slice(places[0], places[-1] + 1) if in_a_row else places] = answer.vectors
        self._tokens += answer.tokens
        self._sizer.learn(sum([self._sizes[at] for at in places]), answer.tokens)
        if self._callbacks.arrived is not None:
            self._callbacks.arrived(places, answer.vectors)
        self._count(len(places))

    def _count(self, texts: int) -> None:
        self._done += texts
        if self._callbacks.progress is not None:
            seconds = time.monotonic() - self._began
            self._callbacks.progress(Progress(len(self._inputs), self._done, self._tokens, seconds))


def _is_of_the_size(error: RefusedError) -> bool:
    return error.http_status == 413 or error.code == "array_above_max_length"


def _is_of_a_text(error: RefusedError) -> bool:
    """Whether another text in its place might have been accepted."""
    if error.code in TEXT_FAILS:
        return True
    if error.http_status not in {400, 413, 422}:
        return False
    return error.param is None or error.param.partition("[")[0] in {"input", "documents"}
