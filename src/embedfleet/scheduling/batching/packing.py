"""Chooses which waiting texts form the next batch: by token budget, lane and urgency. Pure."""

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

    @property
    def urgency(self) -> float: ...

    @property
    def alone(self) -> bool:
        """Whether it must not share a batch, because it may be what kills engines."""
        ...


T = TypeVar("T", bound=Packable)

LOOKAHEAD = 64
"""How many texts that do not fit are looked past before a batch is closed.

Enough to fill the gap that one long text leaves, few enough that forming a batch stays cheap
however many texts wait."""


def pack(waiting: Iterable[T], budget_tokens: int) -> list[T]:
    """The texts of the next batch, shortest first.

    Interactive texts come before bulk ones, and the more urgent (`urgency.py`) before the less.
    The first always goes, even if it alone is over the budget, so that nothing waits for ever;
    after it, texts are taken in order while they fit. A text that must run alone does.
    """
    chosen: list[T] = []
    room = budget_tokens
    passed = 0
    for text in sorted(waiting, key=_order):
        if chosen and (text.tokens > room or text.alone):
            passed += 1
            if passed >= LOOKAHEAD:
                break
            continue
        chosen.append(text)
        room -= text.tokens
        if room <= 0 or text.alone:
            break
    chosen.sort(key=lambda text: text.tokens)
    return chosen


def _order(text: Packable) -> tuple[bool, float]:
    return text.lane is not Lane.INTERACTIVE, text.urgency
