"""Which waiting texts run together in the next batch.

Pure: decides over token counts, lanes and the order of arrival. Refuses to know what an engine
is, when it is free and who waits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from embedfleet.vocabulary import Lane


class Packable(Protocol):
    """What packing needs to know of a text."""

    @property
    def tokens(self) -> int: ...

    @property
    def lane(self) -> Lane: ...


T = TypeVar("T", bound=Packable)

LOOKAHEAD = 64
"""How many texts that do not fit are looked past before a batch is closed.

Enough to fill the gap that one long text leaves, few enough that forming a batch stays cheap
however many texts wait."""


def pack(waiting: Iterable[T], budget_tokens: int) -> list[T]:
    """The texts of the next batch, shortest first; `waiting` is in order of arrival.

    Interactive texts come before bulk ones. The first text always goes, even if it alone is over
    the budget, so that nothing waits for ever; after it, texts are taken in order while they fit.
    """
    chosen: list[T] = []
    room = budget_tokens
    passed = 0
    for text in _interactive_first(waiting):
        if chosen and text.tokens > room:
            passed += 1
            if passed >= LOOKAHEAD:
                break
            continue
        chosen.append(text)
        room -= text.tokens
        if room <= 0:
            break
    chosen.sort(key=lambda text: text.tokens)
    return chosen


def _interactive_first(waiting: Iterable[T]) -> Iterable[T]:
    bulk: list[T] = []
    for text in waiting:
        if text.lane is Lane.INTERACTIVE:
            yield text
        else:
            bulk.append(text)
    yield from bulk
