"""The queue of a pool: all texts that wait for a replica, in order of urgency.

Texts that must avoid some replicas (one failed them, or has them already) wait in classes by the
replicas they avoid, so that a whole class can be skipped at once.
"""

from __future__ import annotations

import heapq
from bisect import insort_left
from collections.abc import Collection, Iterator
from operator import attrgetter
from typing import NamedTuple

from embedfleet.scheduling.texts import NOWHERE, Place, Text
from embedfleet.scheduling.urgency import BULK_LEAD, LANE_SHARES
from embedfleet.vocabulary import Lane

SPAN_S = 1 / 64
"""Texts whose urgencies are this close are put in order together."""


class Bounds(NamedTuple):
    """Replicas that a text may not take."""

    failed: frozenset[str] = NOWHERE
    """Names of replicas that failed it: it takes one of them only where there is no other."""
    held: frozenset[str] = NOWHERE
    """Cores on which it is leased already (`Load.cores`): it never takes a second one there."""


FREE = Bounds()


def bounds_of(text: Text) -> Bounds:
    """Which replicas it may not take."""
    if not text.failed and not text.leases:
        return FREE
    return Bounds(text.failed, frozenset(lease.cores for lease in text.leases))


_urgency = attrgetter("urgency")


def _lateness(text: Text) -> float:
    return -text.urgency


class TextClass:
    """Texts of one lane with the same bounds, by urgency: a calendar of short spans of time.

    The texts of a span are only put in order when it is the first one. So a text costs the same
    whether a hundred wait or a million, where a heap compares as many texts as it is deep, most of
    them far apart in memory. A text that is discarded stays until it is the first.
    """

    __slots__ = ("_days", "_order", "_ordered", "bounds", "lane", "texts")

    def __init__(self, lane: _Lane, bounds: Bounds) -> None:
        self.lane = lane
        self.bounds = bounds
        self.texts = 0
        """How many wait."""
        self._days: dict[int, list[Text]] = {}
        """By the number of a span; once in order, the first is at the end."""
        self._order: list[int] = []
        """A heap of the spans' numbers."""
        self._ordered: set[int] = set()
        """Spans whose texts are in order."""

    def __iter__(self) -> Iterator[Text]:
        waiting = {text: None for day in self._days.values() for text in day if text.place is self}
        return iter(waiting)

    def put(self, text: Text) -> None:
        number = int(text.urgency / SPAN_S)
        day = self._days.get(number)
        if day is None:
            self._days[number] = [text]
            heapq.heappush(self._order, number)
        elif number in self._ordered:
            insort_left(day, text, key=_lateness)
        else:
            day.append(text)
        text.place = self
        self.texts += 1
        self.lane.texts += 1
        self.lane.tokens += text.tokens

    def first(self) -> Text:
        """The most urgent text, of equal ones the one that came first; there must be one."""
        while True:
            number = self._order[0]
            day = self._days[number]
            if number not in self._ordered:
                day.sort(key=_urgency)
                day.reverse()
                self._ordered.add(number)
            while day and day[-1].place is not self:
                day.pop()
            if day:
                return day[-1]
            heapq.heappop(self._order)
            self._ordered.discard(number)
            del self._days[number]

    def take(self) -> None:
        """Take out the text that `first` gave just now."""
        text = self._days[self._order[0]].pop()
        lane, tokens = self.lane, text.tokens
        text.place = None
        self.texts -= 1
        lane.texts -= 1
        lane.tokens -= tokens
        lane.served += tokens / lane.share
        if not self.texts and self is not lane.free:
            del lane.bound[self.bounds]

    def forget(self, text: Text) -> None:
        text.place = None
        self.texts -= 1
        lane = self.lane
        lane.texts -= 1
        lane.tokens -= text.tokens
        if not self.texts and self is not lane.free:
            del lane.bound[self.bounds]


class _Lane:
    """The texts of one lane, by class."""

    __slots__ = ("bound", "free", "served", "share", "texts", "tokens")

    def __init__(self, share: float) -> None:
        self.share = share
        self.texts = self.tokens = 0
        """How many wait, and how many tokens they have."""
        self.served = 0.0
        """Tokens that left, for its share."""
        self.free = TextClass(self, FREE)
        """Texts that may take any replica: nearly all."""
        self.bound: dict[Bounds, TextClass] = {}

    def put(self, text: Text) -> None:
        if not text.failed and not text.leases:
            self.free.put(text)
            return
        bounds = bounds_of(text)
        texts = self.bound.get(bounds)
        if texts is None:
            texts = self.bound[bounds] = TextClass(self, bounds)
        texts.put(text)

    def first(self, passed: Collection[Place]) -> Text | None:
        """The most urgent text of the classes that are not passed over; some text must wait."""
        if not self.bound:
            return None if passed and self.free in passed else self.free.first()
        classes = (self.free, *self.bound.values())
        firsts = [each.first() for each in classes if each.texts and each not in passed]
        return min(firsts, key=_urgency, default=None)


class TextQueue:
    """Texts by urgency within their lane; lanes share by tokens."""

    def __init__(self) -> None:
        self._interactive = _Lane(LANE_SHARES[Lane.INTERACTIVE])
        self._bulk = _Lane(LANE_SHARES[Lane.BULK])

    def __len__(self) -> int:
        return self._interactive.texts + self._bulk.texts

    def __iter__(self) -> Iterator[Text]:
        for lane in (self._interactive, self._bulk):
            for texts in (lane.free, *lane.bound.values()):
                yield from texts

    def __repr__(self) -> str:
        lanes = ", ".join(f"{self._of(lane).texts} {lane}" for lane in Lane)
        return f"<TextQueue [Texts: {lanes} | Tokens: {self.tokens}]>"

    @property
    def tokens(self) -> int:
        return self._interactive.tokens + self._bulk.tokens

    def tokens_of(self, lane: Lane) -> int:
        return self._of(lane).tokens

    def put(self, text: Text) -> None:
        """Queue a text; one that was here before takes its old place, for it keeps its age."""
        lane = self._interactive if text.lane is Lane.INTERACTIVE else self._bulk
        if not lane.texts:  # idle time earns no credit: it starts level with the other
            other = self._bulk if lane is self._interactive else self._interactive
            lane.served = max(lane.served, other.served if other.texts else 0.0)
        lane.put(text)

    def peek(self, passed: Collection[Place] = ()) -> Text | None:
        """The text that leaves next, of the classes that are not passed over."""
        first, second = self._interactive, self._bulk
        if second.texts and (not first.texts or first.served - BULK_LEAD > second.served):
            first, second = second, first
        text = first.first(passed) if first.texts else None
        return second.first(passed) if text is None and second.texts else text

    def pop(self, text: Text) -> None:
        """Take out a text that `peek` gave just now."""
        place = text.place
        if place is not None:
            place.take()

    def discard(self, text: Text) -> None:
        """Take out a text, if it is here."""
        if text.place is not None:
            text.place.forget(text)

    def _of(self, lane: Lane) -> _Lane:
        return self._interactive if lane is Lane.INTERACTIVE else self._bulk
