"""Request sizing, the limit on requests in flight, and retries. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

TOKENS_PER_BYTE = 0.3
"""Initial estimate: about right for English; other languages have up to one."""

BACKOFF_S = 0.5
MOST_BACKOFF_S = 8.0
MOST_WAIT_S = 120.0
"""Upper bound on `retry-after`, in seconds."""

REPEATED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Statuses that are retried."""

NO_ROOM = frozenset({429, 503, 529})
"""Statuses by which a service sheds load."""


@dataclass(slots=True)
class RequestSizer:
    """How many texts go into a request: by an estimate of tokens per byte, which follows what the
    service counts, and by what it refuses as too large.
    """

    most_tokens: float
    most_texts: int
    per_byte: float = TOKENS_PER_BYTE
    counted: bool = False
    """Whether the service has counted any tokens."""

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
class ConcurrencyLimit:
    """Requests in flight at once: additive increase, multiplicative decrease (RFC 5681, 3.1).

    Doubles with every round trip until the service sheds a request (slow start), and grows by one a
    round trip after that. Several refusals within a round trip count once.
    """

    most: int
    limit: float = 4.0
    cut_at: float = -math.inf
    """When it was halved last, in seconds of the caller's clock."""
    not_before: float = -math.inf
    """The service asked for no request before then."""

    def __post_init__(self) -> None:
        self.limit = min(self.limit, float(self.most))

    def answered(self) -> None:
        """A request succeeded."""
        grows = 1.0 if self.cut_at == -math.inf else 1.0 / self.limit
        self.limit = min(float(self.most), self.limit + grows)

    def refused(self, sent_at: float, now: float, wait_s: float | None) -> None:
        """A request sent at `sent_at` was shed; `wait_s` is the service's `retry-after`."""
        if sent_at > self.cut_at:
            self.limit, self.cut_at = max(1.0, self.limit / 2.0), now
        if wait_s is not None:
            self.not_before = max(self.not_before, now + min(wait_s, MOST_WAIT_S))


def asked_wait_s(headers: Mapping[str, str], now: float) -> float | None:
    """The seconds of `retry-after-ms` or `retry-after`; `now` is in seconds since 1970."""
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
    """Whether to retry a request; `x-should-retry` takes precedence, as in OpenAI's clients."""
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
