"""The batcher's queue: when a batch is formed, and of which texts. Pure.

The condition depends on token counts alone; texts are chosen by token budget, lane and urgency.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from embedfleet.vocabulary import Lane
from embedfleet.work import CostModel


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


QUICK_BATCH_S: Final = 0.003
"""A batch of bulk beside which interactive texts come. Up to three are ahead of such a text, which
takes as long as one of them alone."""


@dataclass(frozen=True, slots=True)
class Rhythm:
    """When an engine takes batches."""

    budget_tokens: int
    """Of one batch; a longer text is a batch of its own."""
    in_flight: int = 1
    """Batches that the engine computes at once."""
    enough_tokens: int | None = None
    """Waiting tokens that are worth a further batch while one is there; None: a full batch."""
    long_beside: bool = False
    """Whether one text over the budget computes beside the batches."""

    @property
    def most(self) -> int:
        """Batches that may be there: one beyond the first is fixed early, in no case more."""
        return max(2, self.in_flight)

    @property
    def enough(self) -> int:
        return self.budget_tokens if self.enough_tokens is None else self.enough_tokens

    def budget(self, cost: CostModel, *, mixed: bool) -> int:
        """Tokens of the next batch; `mixed`: while texts of both lanes come.

        An interactive text waits for the batches that were given to the device before it. Where
        short batches are as fast a token as long ones, those that bulk fills are kept short.
        """
        if not mixed or self.enough_tokens is None or not cost.per_token_s:
            return self.budget_tokens
        quick = int((QUICK_BATCH_S - cost.per_batch_s) / cost.per_token_s)
        return min(self.budget_tokens, max(self.enough_tokens, quick))


class BatchQueue(Generic[T]):
    """Texts in the order they came, those that compute beside batches apart from the others."""

    def __init__(self, rhythm: Rhythm) -> None:
        self.rhythm = rhythm
        self.tokens = 0
        """Of all that wait."""
        self._texts: dict[int, T] = {}
        self._texts_tokens = 0
        self._long: dict[int, T] = {}
        self.long_tokens = 0
        """Of those that compute beside batches."""

    def __len__(self) -> int:
        return len(self._texts) + len(self._long)

    def __iter__(self) -> Iterator[T]:
        yield from self._texts.values()
        yield from self._long.values()

    def is_beside(self, text: T) -> bool:
        """Whether a text computes beside batches instead of in one."""
        return self.rhythm.long_beside and text.tokens > self.rhythm.budget_tokens

    def add(self, texts: Iterable[T]) -> None:
        for text in texts:
            self.tokens += text.tokens
            if self.is_beside(text):
                self._long[id(text)] = text
                self.long_tokens += text.tokens
            else:
                self._texts[id(text)] = text
                self._texts_tokens += text.tokens

    def remove(self, texts: Iterable[T]) -> int:
        """Forget those that are here; how many they were."""
        removed = 0
        for text in texts:
            if self._long.pop(id(text), None) is not None:
                self.tokens -= text.tokens
                self.long_tokens -= text.tokens
                removed += 1
            elif self._texts.pop(id(text), None) is not None:
                self.tokens -= text.tokens
                self._texts_tokens -= text.tokens
                removed += 1
        return removed

    def ready(self, batches: int, *, long_runs: bool) -> bool:
        """Whether a batch is to be formed now.

        `batches` are there already, and so is a text beside them if `long_runs`. With none there
        one is formed of whatever waits: no timer. With one there, another is formed of `enough`
        tokens: waiting for more gains nothing, and the device never stops between the two.
        """
        rhythm = self.rhythm
        if self._long and not long_runs:
            return True
        if not batches:
            return bool(self._texts)
        return batches < rhythm.most and self._texts_tokens >= rhythm.enough

    def take(self, budget: int | None = None, *, long_runs: bool) -> list[T]:
        """The next batch, and forget its texts; to be called when it is `ready`."""
        chosen = self._long if self._long and not long_runs else self._texts
        batch = pack(chosen.values(), budget or self.rhythm.budget_tokens)
        self.remove(batch)
        return batch
