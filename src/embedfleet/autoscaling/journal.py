"""The journal of an autoscaler's recent decisions, for people and metrics. Pure.

Consecutive equal decisions are one entry with a count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from embedfleet.autoscaling.policy import Decision
from embedfleet.autoscaling.signals import Observation

if TYPE_CHECKING:
    from datetime import datetime


class Mode(StrEnum):
    """Who has the last word on the number of replicas."""

    AUTOMATIC = "automatic"
    PAUSED = "paused"
    """Decisions are made and told, and nothing follows from them."""
    PINNED = "pinned"
    """A person has set the number."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A decision and what became of it; `times` of them when the next ones were the same."""

    at: datetime
    """When it was last decided so."""
    since: datetime
    """When it was first decided so, of those in a row."""
    times: int
    mode: Mode
    seen: Observation
    decision: Decision
    ordered: int
    """Replicas ordered in the end."""
    standby: int
    """Replicas on standby ordered in the end."""
    trouble: str = ""
    """Why that could not be carried out; empty when it was."""

    @property
    def changed(self) -> bool:
        """Whether another number than before was asked for, and had."""
        return self.ordered != self.seen.planned and not self.trouble

    def repeats(self, before: Entry) -> bool:
        """Whether only its figures differ from the entry before."""
        quiet = not self.changed and not before.changed
        return quiet and self._outcome() == before._outcome()

    def _outcome(self) -> tuple[object, ...]:
        kept = self.decision
        return self.mode, self.ordered, self.standby, kept.winner, kept.held, self.trouble


class Journal:
    """The last different decisions, the latest at the end."""

    def __init__(self, most: int) -> None:
        self._entries: deque[Entry] = deque(maxlen=most)

    def __iter__(self) -> Iterator[Entry]:
        return iter(tuple(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def last(self) -> Entry | None:
        return self._entries[-1] if self._entries else None

    def note(self, entry: Entry) -> None:
        """Keep a decision; one that repeats the last takes its place and counts on."""
        last = self.last
        if last is not None and entry.repeats(last):
            self._entries.pop()
            entry = replace(entry, since=last.since, times=last.times + entry.times)
        self._entries.append(entry)
