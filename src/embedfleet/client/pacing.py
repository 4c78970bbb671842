"""Sizes requests, limits how many are in flight, and schedules retries. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

TOKENS_PER_BYTE = 0.3
"""Before a service has told any: about right for English; other languages have up to one."""

BACKOFF_S = 0.5
MOST_BACKOFF_S = 8.0
MOST_WAIT_S = 120.0
"""Longer than this no service's word is followed, in seconds."""

REPEATED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Statuses after which the same request may succeed."""

NO_ROOM = frozenset({429, 503, 529})
"""Statuses that say that there is too much work at the moment."""


@dataclass(slots=True)
class Cutter:
    """How many texts go into a request, and how many tokens a byte of them has: learnt from what
    the service counts and refuses.
    """

    most_tokens: float
    most_texts: int
    per_byte: float = TOKENS_PER_BYTE
    counted: bool = False
    """Whether the service has told any tokens."""

    def tokens(self, size: int) -> float:
        """Estimate the tokens of a text of so many bytes, its end-of-text token included."""
        return size * self.per_byte + 1.0

    def fitting(self, sizes: Sequence[int]) -> int:
        """How many of these texts, given by their bytes, go into the next request: at least one."""
        held = 0.0
        for count, size in enumerate(sizes):
            held += self.tokens(size)
            if count and (count == self.most_texts or held > self.most_tokens):
                return count
        return len(sizes)

    def learn(self, size: int, tokens: int) -> None:
        """Texts of `size` bytes together had so many tokens."""
        if size <= 0 or tokens <= 0:
            return
        seen = min(1.0, tokens / size)
        self.per_byte = 0.8 * self.per_byte + 0.2 * seen if self.counted else seen
        self.counted = True

    def smaller(self, refused: int) -> None:
        """A request of so many texts was too large."""
        self.most_texts = max(1, min(self.most_texts, refused // 2))


@dataclass(slots=True)
class Pace:
    """Requests in flight at once: additive increase, multiplicative decrease (RFC 5681, 3.1).

    It doubles with every round of answers until the service refuses one for want of room, and grows
    by one a round after that. Several refusals of the same round count once.
    """

    most: int
    limit: float = 4.0
    cut_at: float = -math.inf
    """When it was last halved, in seconds of the clock that is handed in."""
    not_before: float = -math.inf
    """The service asked for silence until then."""

    def __post_init__(self) -> None:
        self.limit = min(self.limit, float(self.most))

    def answered(self) -> None:
        """A request was answered as it should be."""
        grows = 1.0 if self.cut_at == -math.inf else 1.0 / self.limit
        self.limit = min(float(self.most), self.limit + grows)

    def refused(self, sent_at: float, now: float, wait_s: float | None) -> None:
        """A request of `sent_at` met no room; `wait_s` is what the service asks for."""
        if sent_at > self.cut_at:
            self.limit, self.cut_at = max(1.0, self.limit / 2.0), now
        if wait_s is not None:
            self.not_before = max(self.not_before, now + min(wait_s, MOST_WAIT_S))


def asked_wait_s(headers: Mapping[str, str], now: float) -> float | None:
    """What `retry-after-ms` or `retry-after` asks for, in seconds; `now` in seconds since 1970."""
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1e3
    told = headers.get("retry-after", "")
    seconds = _number(told)
    if seconds is not None or not told:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(told).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def is_repeated(status: int, headers: Mapping[str, str]) -> bool:
    """Whether to send the same request again; `x-should-retry` has the last word, as OpenAI's."""
    told = headers.get("x-should-retry", "")
    return told == "true" or (status in REPEATED and told != "false")


def backoff_s(attempt: int, rng: Random) -> float:
    """The pause after the n-th failure in a row, from 0: exponential, with jitter."""
    return float(
        min(MOST_BACKOFF_S, BACKOFF_S * 2.0 ** min(attempt, 16)) * (0.5 + rng.random() / 2)
    )


def _number(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if 0 <= found < math.inf else None
